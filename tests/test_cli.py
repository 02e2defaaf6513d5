"""The command line as a person meets it: speed, help, one-sentence errors, and the whole way on tiny models."""

import errno
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from typer.testing import CliRunner

from masters_edge import cli
from masters_edge.common.errors import UserError


def run(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "masters_edge", *arguments], cwd=cwd, capture_output=True, text=True, check=False
    )


def test_import_and_help_load_only_what_they_need() -> None:
    """What makes a start slow is what it imports: a clock would measure the machine and its neighbours."""
    code = (
        "import sys; import masters_edge; sys.argv = ['masters-edge', '--help']\n"
        "before = len(sys.modules)\n"
        "from masters_edge.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print(before, len(sys.modules), *sorted({name.partition('.')[0] for name in sys.modules}), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    before, after, *packages = done.stderr.split()
    assert "Usage:" in done.stdout
    assert not {"torch", "transformers", "numpy", "PIL", "onnxruntime", "openvino", "matplotlib"} & {*packages}
    assert int(before) < 250 and int(after) < 500


def test_the_board_side_never_touches_torch() -> None:
    """What a device runs must work where torch and transformers are not installed."""
    code = (
        "import sys; sys.modules['torch'] = sys.modules['transformers'] = None;"
        "import masters_edge.cli, masters_edge.bundle.manifest, masters_edge.recipe, masters_edge.workflow;"
        "from masters_edge.runtime import Student; import masters_edge.benchmarks.worker;"
        "from masters_edge import doctor; doctor._runtimes = lambda: (); doctor.table()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.wide
def test_without_an_extra_plans_work_and_the_rest_says_what_to_install(tiny_recipe: Path) -> None:
    absent = "import sys; sys.modules.update(torch=None, transformers=None, safetensors=None, onnx=None, torchao=None);"
    for command, expected in {
        "'validate', 'tiny.yaml'": (0, "is valid"),
        "'distill', 'tiny.yaml', '--dry-run'": (0, "mask 0.20"),
        "'distill', 'tiny.yaml'": (2, "pip install 'masters-edge[distill]'"),
        "'export', '--student', 'student'": (2, "pip install 'masters-edge["),
    }.items():
        code = f"{absent} sys.argv = ['masters-edge', {command}]; from masters_edge.cli import main; main()"
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=tiny_recipe.parent, capture_output=True, text=True, check=False
        )
        assert done.returncode == expected[0], done.stderr
        assert expected[1] in done.stdout + done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", [info.callback.__name__ for info in cli.app.registered_commands])
def test_every_command_has_an_example(command: str) -> None:
    shown = CliRunner().invoke(cli.app, [command, "--help"])
    assert shown.exit_code == 0 and f"Example: masters-edge {command}" in " ".join(shown.stdout.split())


def test_help_names_every_target() -> None:
    from masters_edge.export import target_names

    shown = run("export", "--help").stdout
    assert all(target in shown for target in target_names())


def test_schema_is_the_published_one() -> None:
    published = Path(__file__).parents[1] / "docs" / "recipe.schema.json"
    assert json.loads(run("schema").stdout) == json.loads(published.read_text())


def test_dry_run_prints_the_plan_and_starts_nothing(tiny_recipe: Path) -> None:
    done = run("distill", "tiny.yaml", "--dry-run", "mask.r_max=0.1", cwd=tiny_recipe.parent)
    assert done.returncode == 0 and "steps 0 to 4: ./teacher, mask 0.10" in done.stdout
    assert not (tiny_recipe.parent / "runs").exists()


def test_mistakes_are_one_sentence_and_status_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.yaml").write_text("student: a\nteachers: [b]\ndata: {train: {source: easy-vqa}}\nmasks: {}\n")
    (tmp_path / "lost.yaml").write_text("student: ./nowhere\nteachers: [b]\ndata: {train: {source: easy-vqa}}\n")
    (tmp_path / "hollow").mkdir()
    for arguments, sentence in {
        ("validate", "bad.yaml"): "bad.yaml, line 4: masks is not a known key; did you mean mask?",
        ("validate", "lost.yaml"): "there is no checkpoint folder",
        ("distill", "none.yaml"): "there is no recipe none.yaml",
        ("export",): "there is no finished run below",
        ("bench",): "make one with: masters-edge distill RECIPE, or with masters-edge demo",
        ("report", "none.json"): "none.json",
        ("export", "--student", "nowhere", "--target", "onnx"): "nowhere",
        ("ask", "hollow", "x.png", "what?"): "hollow",
    }.items():
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["masters-edge", *arguments])
        monkeypatch.setattr(cli, "_hear_sigterm", lambda: None)
        with pytest.raises(SystemExit) as done:
            cli.main()
        said = capsys.readouterr().err
        assert done.value.code == 2 and sentence in said and said.strip().count("\n") == 0, (arguments, said)
    lost = run("validate", "none.yaml", cwd=tmp_path)  # and as a process of its own
    assert lost.returncode == 2 and lost.stderr.strip().count("\n") == 0


def test_the_whole_way_on_tiny_models(tiny_recipe: Path) -> None:
    """distill, export, bench, report and ask, as `make demo` runs them."""
    home = tiny_recipe.parent
    distilled = run("distill", "tiny.yaml", cwd=home)
    assert distilled.returncode == 0 and not distilled.stderr, distilled.stderr

    unknown = run("export", "--target", "onx", cwd=home)
    assert unknown.returncode == 2 and "onnx" in unknown.stderr
    exported = run("export", "--quant", "int4", cwd=home)
    assert exported.returncode == 0, exported.stderr
    assert not exported.stderr, exported.stderr  # no warnings of other people's libraries
    bundles = sorted(path.name for path in (home / "runs/tiny/bundles").iterdir())
    assert bundles == ["onnx-int4"]
    assert run("export", "--quant", "int4", cwd=home).stdout.count("reused") == 1

    once = ("--questions", "20", "--no-cases", "--threads", "1")  # two for each of two tests at a time would spin
    measured = run("bench", *once, cwd=home)
    assert measured.returncode == 0, measured.stderr
    results = json.loads((home / "runs/tiny/bench/results.json").read_text())
    roles = [m["role"] for m in results["measurements"]]
    assert sorted(roles) == ["exported", "student after", "student before", "teacher"]
    assert (home / "runs/tiny/report/report.png").stat().st_size > 10_000
    page = (home / "runs/tiny/report/report.html").read_text()
    assert "onnx-int4" in page and "http://" not in page.replace("http://www.w3.org", "")
    again = run("bench", *once, cwd=home)
    assert again.stdout.count("measured before, reused") == 4

    from masters_edge.data import easy_vqa

    picture = str(easy_vqa.read("test")[0].image)
    answer = run("ask", "runs/tiny/bundles/onnx-int4", picture, "what shape is present?", cwd=home)
    assert answer.returncode == 0 and "first token" in answer.stdout
    graph = home / "runs/tiny/bundles/onnx-int4/onnx/embed_tokens_q4.onnx"
    if not graph.exists():
        graph = next((home / "runs/tiny/bundles/onnx-int4/onnx").glob("embed_tokens*.onnx"))
    content = bytearray(graph.read_bytes())
    content[-1] ^= 1
    graph.write_bytes(content)
    changed = run("ask", "runs/tiny/bundles/onnx-int4", picture, "what shape is present?", cwd=home)
    assert changed.returncode == 2 and graph.name in changed.stderr


@pytest.mark.parametrize("command", ["bench", "preview"])
def test_the_options_that_a_browsers_link_speaks_of_are_there(command: str) -> None:
    import typer.main

    from masters_edge.benchmarks.page.link import Link
    from masters_edge.cli import app

    said = " ".join(Link(("http://127.0.0.1:1",), 1, "t", None, lan=False).said())
    named = set(re.findall("--[a-z-]+", said))
    found = typer.main.get_command(app).commands[command]  # type: ignore[attr-defined]
    assert named == {"--lan"} and named <= {option for parameter in found.params for option in parameter.opts}


def test_validate_looks_whether_the_questions_are_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text(
        "student: a/s\nteachers: [a/t]\ndata: {train: {source: easy-vqa}, test: {source: ./nope.jsonl}}\n"
    )
    with pytest.raises(UserError, match=r"r.yaml: data.test: there is no data set .*nope.jsonl; mend `source`"):
        cli.validate(recipe, [])
    (tmp_path / "nope.jsonl").touch()
    cli.validate(recipe, [])
    assert "is valid" in capsys.readouterr().out


CONTAINER = ["unshare", "-pf", "--mount-proc"]  # a process id of 1, as in a container


def in_container() -> list[str]:
    can = shutil.which("unshare") and subprocess.run([*CONTAINER, "true"], capture_output=True).returncode == 0
    return CONTAINER if can else []


def test_sigterm_ends_a_command_that_is_process_1_too(tmp_path: Path) -> None:
    code = (
        "import os, time; from masters_edge import cli\n"
        "def command():\n"
        "    print(os.getpid(), flush=True)\n"
        "    try: time.sleep(60)\n"
        "    finally: print('cleaned up', flush=True)\n"
        "cli.app = command; cli.main()"
    )
    before = in_container()
    started = [*before, sys.executable, "-c", code]
    with subprocess.Popen(started, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert (process.stdout.readline() == "1\n") == bool(before)
        (psutil.Process(process.pid).children() if before else [process])[0].terminate()
        out, errors = process.communicate(timeout=20)
    assert process.returncode == 143 and out == "cleaned up\n"
    assert errors == "masters-edge: interrupted; the same command goes on where it stopped\n"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.EROFS, "Read-only file system", "runs/x"), "runs/x can't be used (Read-only file system)"),
        (PermissionError(errno.EACCES, "Permission denied", "a.json"), "a.json can't be used (Permission denied)"),
        (OSError(errno.EIO, "Input/output error"), "a file can't be used (Input/output error)"),
        (RuntimeError("[enforce fail at inline_container.cc:672] . \nunexpected pos 5 vs 4"), "the disk is full ([enf"),
    ],
)
def test_what_the_system_refuses_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, error: Exception, said: str
) -> None:
    def command() -> None:
        raise error

    monkeypatch.setattr(cli, "app", command)
    monkeypatch.setattr(cli, "_hear_sigterm", lambda: None)
    with pytest.raises(SystemExit) as end:
        cli.main()
    told = capsys.readouterr().err
    assert end.value.code == 2 and told.startswith(f"masters-edge: {said}") and told.count("\n") == 1


@pytest.mark.wide
def test_of_several_processes_the_first_speaks(tmp_path: Path) -> None:
    """Whichever that is: it needs no waiting for others, and the launcher ends them when it ends."""
    code = (
        "import os, time; from pathlib import Path\n"
        "from masters_edge import cli; from masters_edge.common.errors import UserError\n"
        "def command():\n"
        "    Path(os.environ['RANK']).touch()\n"
        "    while len(list(Path().iterdir())) < 3: time.sleep(0.01)\n"
        "    raise UserError('no such thing')\n"
        "cli.app = command; cli.main()"
    )
    (place := tmp_path / "here").mkdir()
    environment = {**os.environ, "TMPDIR": str(tmp_path), "WORLD_SIZE": "3"}
    several = [
        subprocess.Popen([sys.executable, "-c", code], env={**environment, "RANK": rank}, cwd=place, stderr=-1)
        for rank in "210"
    ]
    said = [process.communicate()[1].decode() for process in several]
    assert [process.returncode for process in several] == [2, 2, 2]
    assert sorted(said) == ["", "", "masters-edge: no such thing\n"] and list(tmp_path.iterdir()) == [place]
