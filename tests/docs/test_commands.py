"""Every command line in the pages is one that works: options, arguments, overrides, make targets, scripts, extras.

`masters-edge` lines go through the parser of the real commands, up to the point where the command would start. So an
option that is renamed fails here until the pages follow.
"""

import functools
import importlib.metadata
import importlib.util
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from masters_edge.cli import app
from masters_edge.common.errors import UserError
from masters_edge.export import target_names
from masters_edge.quantization.by_part import plan
from tests.docs.keys import problem_of_override
from tests.docs.pages import ROOT, Page, pages

COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]
SHELL = ("bash", "sh", "console", "bat", "")
OPERATORS = re.compile(r"[;&|<>()]+")
# Options of other people's programs, where a sentence names them alone.
FOREIGN = {"--machine_rank", "--gen_kwargs"}


def lines(block: str) -> list[str]:
    """Command lines of a block: continued ones joined, prompts and here-documents left away."""
    found, end = [], None
    for line in block.replace("\\\n", " ").splitlines():
        if end is None:
            found.append(line.strip().removeprefix("$ "))
            end = heredoc.group(1) if (heredoc := re.search(r"<<\s*'?(\w+)", line)) else None
        elif line.strip() == end:
            end = None
    return found


def commands(line: str) -> Iterator[list[str]]:
    """The simple commands of a line, as words; variables set in front of them are left away."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split, lexer.commenters = True, "#"
    words: list[str] = []
    to_file = False  # the word after > or < is a file
    for word in [*lexer, ";"]:
        if not OPERATORS.fullmatch(word):
            words += [] if to_file else [word]
            to_file = False
            continue
        if "<" in word or ">" in word:
            to_file = True
            continue
        while words and (words[0] in ("do", "sudo") or re.fullmatch(r"\w+=.*", words[0])):
            words.pop(0)
        if words:
            yield words
        words = []


def problem(words: list[str], whole: bool = True) -> str | None:
    """Why this command would not start; None for one that would, and for a program that isn't ours.

    `whole`: False where a sentence may leave arguments out.
    """
    program, rest = words[0].rpartition("/")[2], words[1:]
    if program == "masters-edge":
        return problem_of_ours(rest, whole)
    if "-m" in rest and rest[(at := rest.index("-m")) + 1].startswith("masters_edge"):
        module, rest = rest[at + 1], rest[at + 2 :]
        if module == "masters_edge":
            return problem_of_ours(rest, whole)
        return None if importlib.util.find_spec(module) else f"there is no module {module}"
    if program == "make":
        rules = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
        return next((f"make has no {word}" for word in rest if "=" not in word and word not in rules), None)
    if program.startswith("python") and rest and rest[0].endswith(".py"):
        return problem_of_script(rest[0], [word for word in rest if word.startswith("--")])
    if "pytest" in words:
        named = [word for word in rest if word.startswith("tests/")]
        return next((f"there is no {word}" for word in named if not (ROOT / word).exists()), None)
    return None


def problem_of_ours(words: list[str], whole: bool) -> str | None:
    """What `masters-edge` would say before it starts with these arguments."""
    if not words:
        return None
    name, arguments = words[0], words[1:]
    if name.startswith("-"):
        return None if name == "--help" else f"masters-edge has no option {name}"
    if name not in COMMANDS:
        return f"there is no command {name}"
    if not arguments and not whole:
        return None
    try:
        parsed = COMMANDS[name].make_context(name, list(arguments)).params
    except typer.Exit:  # --help
        return None
    except Exception as error:  # Typer brings a click of its own: its exceptions have no public name
        return None if type(error).__name__ == "MissingParameter" and not whole else f"{name}: {error}"
    for override in parsed.get("overrides") or ():
        if (wrong := problem_of_override(override)) is not None:
            return f"{name}: {wrong}"
    if str(parsed.get("recipe", "")).startswith("recipes/") and not (ROOT / parsed["recipe"]).exists():
        return f"{name}: there is no {parsed['recipe']}"
    return problem_of_values(parsed.get("target") or [], parsed.get("quant") or [])


def problem_of_values(formats: list[str], schemes: list[str]) -> str | None:
    """Whether targets and schemes are known, which the commands look up after they have started."""
    for target in formats:
        if target not in target_names():
            return f"there is no target {target}"
    for scheme in schemes:
        try:
            plan(scheme)
        except UserError as error:
            return str(error)
    return None


def problem_of_script(script: str, options: list[str]) -> str | None:
    if not (ROOT / script).is_file():
        return f"there is no {script}"
    told = _options_of(ROOT / script)
    return next((f"{script} has no {option}" for option in options if option not in told), None)


@functools.cache
def _options_of(script: Path) -> set[str]:
    """Every option that the script's source adds to a parser, and those of the scripts' shared one beside it."""
    texts = [path.read_text(encoding="utf-8") for path in (script, *script.parent.glob("shapes.py"))]
    return {option for text in texts for option in re.findall(r'"(--[\w-]+)"', text)}


@functools.cache
def _known_options() -> set[str]:
    ours = {option for command in COMMANDS.values() for p in command.params for option in (*p.opts, *p.secondary_opts)}
    return ours.union({"--help"}, *(_options_of(path) for path in (ROOT / "recipes").rglob("*.py")), FOREIGN)


def problems(page: Page) -> list[str]:
    """Command lines of the page that would not start, each with why: in blocks, in sentences and in tables."""
    found = []
    loops: dict[str, str] = {}  # a loop's variable and its first value
    for line in (line for block in page.blocks(*SHELL) for line in lines(block)):
        if not re.search(r"masters.edge|\bmake\b|python|pytest|^for ", line):
            continue
        for words in commands(line):
            if words[0] == "for":
                loops[words[1]] = words[3]
            said = [re.sub(r"\$(\w+)", lambda name: loops.get(name[1], name[0]), word) for word in words]
            if (why := problem(said)) is not None:
                found.append(f"{line}: {why}")
    for code in page.codes():
        first = code.split(" ")[0]
        if first in ("masters-edge", "make", "python") or "pytest" in code:
            wrong = (problem(words, whole=False) for words in commands(code))
        elif first in COMMANDS and " " in code:  # the table of commands leaves `masters-edge` away
            wrong = (problem(["masters-edge", *words], whole=False) for words in commands(code))
        elif first.startswith("--"):
            wrong = (_unknown_option(words) for words in commands(code))
        else:
            continue
        found += [f"{code}: {why}" for why in wrong if why is not None]
    return found


def _unknown_option(words: list[str]) -> str | None:
    return next((f"there is no {w}" for w in words if w.startswith("--") and w not in _known_options()), None)


@pytest.mark.parametrize("path", pages(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_command_lines_would_start(path: Path) -> None:
    assert not problems(Page.read(path))


@pytest.mark.parametrize("path", pages(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_extras_exist(path: Path) -> None:
    extras = importlib.metadata.metadata("masters-edge").get_all("Provides-Extra")
    named = re.findall(r"(?:masters-edge|-e ['\"]?\.)\[([\w,]+)\]", Page.read(path).text)
    assert {extra for names in named for extra in names.split(",")} <= set(extras or [])


def test_every_command_stands_in_the_table() -> None:
    told = {code.split(" ")[0] for code in Page.read(ROOT / "docs" / "commands.md").codes()}
    assert set(COMMANDS) <= told


@pytest.mark.parametrize(
    "line",
    [
        "masters-edge distil recipes/demo.yaml",
        "masters-edge distill recipes/demo.yaml --dryrun",
        "masters-edge distill recipes/demo.yaml mask.rmax=0.1",
        "masters-edge distill recipes/demo.yaml mask.r_max=much",
        "masters-edge distill recipes/no-such.yaml",
        "masters-edge distill",
        "cd x && masters-edge export --target onx  # a comment",
        "masters-edge export --quant int5",
        "masters-edge bench --questions many",
        "masters-edge ask bundle picture.png",
        "accelerate launch -m masters_edge distil my.yaml",
        "python -m masters_edge.no_such_module",
        "python recipes/demo/no_such_script.py",
        "python recipes/export/cost.py --target onnx",
        "make no-such-target",
        ".venv/bin/python -m pytest tests/no_such_test.py",
    ],
)
def test_a_line_that_would_not_start_is_found(line: str) -> None:
    assert problems(Page(ROOT / "docs" / "made-up.md", f"```bash\n{line}\n```\n"))


def test_what_is_around_a_command_is_left_away() -> None:
    line = "A=1 masters-edge schema > a.json && sudo make docs | tee log; for r in 1 2; do x $r <in; done  # why"
    assert list(commands(line)) == [
        ["masters-edge", "schema"],
        ["make", "docs"],
        ["tee", "log"],
        ["for", "r", "in", "1", "2"],
        ["x", "$r"],
        ["done"],
    ]


@pytest.mark.parametrize("code", ["masters-edge bench --no-such", "bench --no-such", "--no-such", "make none"])
def test_a_command_in_a_sentence_is_checked(code: str) -> None:
    assert problems(Page(ROOT / "docs" / "made-up.md", f"Say `{code}`.\n"))
