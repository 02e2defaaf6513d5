"""Read a recipe: YAML and overrides in, a checked `Recipe` out, or one sentence with file, line, key and a remedy."""

import difflib
import re
import types
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from masters_edge.common import files, registry
from masters_edge.common.errors import UserError
from masters_edge.common.files import at_home
from masters_edge.quantization import by_part
from masters_edge.recipe.schema import Recipe
from masters_edge.scoring import metrics

Key = tuple[str | int, ...]
MOST_CHARACTERS = 1 << 20
MOST_ENTRIES = 10_000  # aliases written out
TARGETS = "masters_edge.export.targets"  # known by the names of their files: a recipe needs none of them to be read


def load(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe in `path` with `key.sub=value` overrides applied (values are YAML).

    Raises:
        UserError: no such file, broken YAML, an unknown key, a value of the wrong type or out of bounds, or a
            combination that can't work; names file, line and key.
    """
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(MOST_CHARACTERS + 1)
    except FileNotFoundError:
        raise UserError(
            f"there is no recipe {path}; give the path of a YAML file; masters-edge recipes lists some to copy"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"the recipe {path} can't be read ({error}); give a UTF-8 text file") from None
    if len(text) > MOST_CHARACTERS:
        raise UserError(f"{path} is longer than {MOST_CHARACTERS:,} characters, which no recipe is; give another file")
    values, lines = _parsed(text, path)
    if not isinstance(values, dict):
        raise UserError(
            f"{path}: a recipe is a mapping with student, teachers and data; see: masters-edge recipes demo"
        )
    origin: dict[Key, str] = {}
    for override in overrides:
        keys = _override(values, override)
        opened = [keys[0][:length] for length in range(1, len(keys[0]))]  # sections that the file doesn't have
        origin |= dict.fromkeys([*keys, *(key for key in opened if key not in lines)], _cut(override))
    try:
        recipe = Recipe.model_validate(values)
    except ValidationError as error:
        raise UserError(_sentence(_telling(error.errors()), path, lines, origin)) from None
    for key, name, known in _names(recipe):
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            remedy = f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"
            raise UserError(f"{_where(key, path, lines, origin)}: {'.'.join(map(str, key))} is {name!r}; {remedy}")
    return recipe


def values(path: Path) -> Any:
    """What a stranger's YAML file holds, bounded as a recipe's is.

    Raises:
        UserError: it is no YAML, or more than a recipe may be.
        OSError, ValueError: it can't be read, is no regular file, or no UTF-8.
    """
    return _parsed(files.read_text(path, MOST_CHARACTERS), path)[0]


def dump(recipe: Recipe) -> str:
    """The recipe as YAML with every default written out."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def checkpoint(name: str, recipe_path: Path) -> str:
    """A `student` or `teachers` entry as transformers takes it: an absolute folder, or the hub id as it is.

    Raises:
        UserError: a path that starts with `.`, `/` or `~` where there is no folder.
    """
    folder = (recipe_path.parent / at_home(name)).resolve()
    if folder.is_dir():
        return str(folder)
    if name.startswith((".", "/", "~")) or Path(name).is_absolute():
        raise UserError(f"{recipe_path}: there is no checkpoint folder {folder} (from {name!r}); mend the path")
    return name


def _parsed(text: str, path: Path | None) -> tuple[Any, dict[Key, int]]:
    """YAML as plain values that share nothing, and the line of every key; `path` is named in what is raised.

    Raises:
        UserError: no YAML, a key given twice, a value that is none of its type, or aliases that never end.
    """
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if node is None:
            return None, {}
        lines: dict[Key, int] = {}
        for key, line in _lines(node, path, ()):
            lines[key] = line
            if len(lines) > MOST_ENTRIES:
                raise UserError(f"{_place(path, line)}more than {MOST_ENTRIES:,} entries, aliases (*) written out")
        return _unshared(loader.construct_document(node)), lines
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        remedy = "" if path else "; put text in quotes"
        raise UserError(f"{_place(path, mark.line + 1 if mark else None)}not valid YAML ({problem}){remedy}") from None
    except RecursionError:
        raise UserError(f"{_place(path, None)}nested too deeply for a recipe") from None
    except TypeError as error:  # a list or a mapping among the members of a `!!set`, or as a key of an `!!omap`
        raise UserError(f"{_place(path, None)}not valid YAML ({error})") from None


def _place(path: Path | None, line: int | None) -> str:
    return "" if path is None else f"{path}: " if line is None else f"{path}, line {line}: "


def _unshared(value: Any) -> Any:
    """A copy in which nothing stands twice, so that an override of what an alias repeats changes one place alone."""
    if isinstance(value, dict):
        return {key: _unshared(item) for key, item in value.items()}
    return [_unshared(item) for item in value] if isinstance(value, list) else value


def _lines(
    node: yaml.Node, path: Path | None, key: Key, inside: tuple[yaml.Node, ...] = ()
) -> Iterator[tuple[Key, int]]:
    """(key, line number) of every entry. Refused here, with its line: a key that is given twice (YAML would keep the
    last), an alias inside of what it stands for, and a scalar that YAML's types can't read."""
    line = node.start_mark.line + 1
    yield key, line
    if node in inside:
        raise UserError(f"{_place(path, line)}an alias (*) stands inside of what it repeats; write the value out")
    if isinstance(node, yaml.MappingNode):
        seen = set()
        for name, value in node.value:
            line = name.start_mark.line + 1
            if not isinstance(name, yaml.ScalarNode):
                raise UserError(f"{_place(path, line)}a list or a mapping stands where a key is expected")
            if not name.tag.endswith((":str", ":merge")):
                raise UserError(f"{_place(path, line)}the key {_cut(name.value)!r} is no text; mend or quote it")
            if name.value in seen:
                dotted = ".".join(map(str, (*key, name.value)))
                raise UserError(f"{_place(path, line)}{dotted} is given twice; keep one")
            seen.add(name.value)
            yield from _lines(value, path, (*key, name.value), (*inside, node))
            yield (*key, name.value), line
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield from _lines(value, path, (*key, index), (*inside, node))
    elif isinstance(node, yaml.ScalarNode):
        try:
            yaml.SafeLoader("").construct_object(node)
        except yaml.YAMLError:
            raise
        except Exception:  # whatever int(), float(), a date or a table of words raises: PyYAML catches none of it
            kind = node.tag.rpartition(":")[2]
            found = f"{node.value[:40]!r}{'...' if len(node.value) > 40 else ''}"
            raise UserError(
                f"{_place(path, line)}{'.'.join(map(str, key)) or 'the value'} is {found}, which is no {kind}; "
                "mend it, or put it in quotes"
            ) from None


def _override(values: dict[str, Any], override: str) -> list[Key]:
    """Set `a.b.0.c=value` in the nested values; returns the key, and those inside of the value."""
    dotted, sign, text = override.partition("=")
    override = _cut(override)
    if not sign or not dotted:
        raise UserError(f"override {override!r}: expected key=value, such as reward.kl_beta=0.05")
    try:
        value, inside = _parsed(text, None)
    except UserError as error:
        raise UserError(f"override {override!r}: {error}") from None
    key: Key = tuple(int(part) if re.fullmatch("[0-9]{1,9}", part) else part for part in dotted.split("."))
    where: Any = values
    for part, following in zip(key, (*key[1:], None)):
        if isinstance(where, list):
            if not isinstance(part, int) or part >= len(where):
                raise UserError(
                    f"override {override!r}: {_cut(repr(part))} is no position in a list of {len(where)}, "
                    f"use 0 to {len(where) - 1}"
                )
        elif isinstance(where, dict):
            part = str(part)
        else:
            raise UserError(f"override {override!r}: nothing can be set below {part!r}; see masters-edge schema")
        if following is None:
            where[part] = value
        else:
            if isinstance(where, dict) and where.get(part) is None:
                where[part] = _default(key[: key.index(part) + 1])
            where = where[part]
    return [key, *((*key, *inner) for inner in inside)]


def _default(key: Key) -> Any:
    """What stands at `key` where the recipe leaves it out, as plain values."""
    skeleton: Any = Recipe(student="-", teachers=["-"], data={"train": {"source": "-"}}).model_dump(mode="json")  # type: ignore[arg-type]
    for part in key:
        skeleton = skeleton.get(part) if isinstance(skeleton, dict) else None
    return skeleton if isinstance(skeleton, list) else {}


def _fields(key: Key) -> list[str]:
    """Names of the fields of the section at `key`."""
    section: Any = Recipe
    for part in key:
        if isinstance(section, type) and issubclass(section, BaseModel) and part in section.model_fields:
            section = section.model_fields[str(part)].annotation
        options = (section,)
        while options:
            inner = tuple(o for option in options for o in typing.get_args(option))
            models = [o for o in options if isinstance(o, type) and not isinstance(o, types.GenericAlias)]
            section = next((o for o in models if issubclass(o, BaseModel)), section)
            options = () if section in models else inner
    return list(section.model_fields) if isinstance(section, type) and issubclass(section, BaseModel) else []


def _names(recipe: Recipe) -> Iterator[tuple[Key, str, list[str]]]:
    """(key, value, known values) of what is looked up in a registry later, hours into a run."""
    yield ("reward", "metric"), recipe.reward.metric, [*metrics.names(), metrics.JUDGE]
    yield ("bench", "metric"), recipe.bench.metric, metrics.names()
    for index, scheme in enumerate(recipe.quantize.schemes):
        if isinstance(scheme, str):  # one with exceptions has checked itself
            yield ("quantize", "schemes", index), scheme, by_part.names()
    if recipe.quantize.qat and isinstance(recipe.quantize.qat.scheme, str):
        yield ("quantize", "qat", "scheme"), recipe.quantize.qat.scheme, by_part.names()
    for index, target in enumerate(recipe.export.targets):
        yield ("export", "targets", index), target, registry.names(TARGETS)


def _where(key: Key, path: Path, lines: dict[Key, int], origin: dict[Key, str]) -> str:
    """The override that set `key`, or the file and line it (or the nearest section around it) stands on."""
    for length in range(len(key), 0, -1):
        if key[:length] in origin:
            return f"override {origin[key[:length]]!r}"
        if key[:length] in lines:
            return f"{path}, line {lines[key[:length]]}"
    return f"{path}, line 1"


def _is_branch(part: str) -> bool:
    """Whether it is no key but pydantic's name for a union's branch: `constrained-int`, `literal[...]`, `Endpoint`."""
    return part.startswith("constrained-") or "[" in part or part[:1].isupper()


def _cut(text: str) -> str:
    """The text as far as a sentence has room for it."""
    return text if len(text) <= 80 else f"{text[:80]}..."


def _telling(errors: list[Any]) -> Any:
    """The first error, but of a mapping where a word could stand as well, what is wrong inside of it."""
    first = errors[0]
    if first["type"] == "literal_error" and isinstance(first["input"], dict):
        at = first["loc"][:-1]
        return next((e for e in errors[1:] if e["loc"][: len(at)] == at and e["type"] != "literal_error"), first)
    return first


def _sentence(error: Any, path: Path, lines: dict[Key, int], origin: dict[Key, str]) -> str:
    """One pydantic error as a sentence: where, what was found, what was expected."""
    key: Key = tuple(part for part in error["loc"] if not (isinstance(part, str) and _is_branch(part)))
    while key and key not in lines and key not in origin and error["type"] != "missing":
        key = key[:-1]  # pydantic adds the name of the union's branch
    where = _where(key, path, lines, origin)
    dotted = ".".join(map(str, key))
    kind, context = error["type"], error.get("ctx", {})
    if kind == "extra_forbidden":
        dotted = _cut(".".join(map(str, error["loc"])))
        known = _fields(tuple(error["loc"][:-1]))
        near = difflib.get_close_matches(str(error["loc"][-1]), known, n=1, cutoff=0.5)
        remedy = f"did you mean {near[0]}?" if near else f"known here: {', '.join(known)}"
        return f"{where}: {dotted} is not a known key; {remedy}"
    if kind == "missing":
        return f"{where}: {dotted} is missing; add it (masters-edge schema describes it)"
    if kind == "value_error":
        return f"{where}: {context.get('error', error['msg'])}"
    if kind == "literal_error":
        near = difflib.get_close_matches(str(error["input"]), context["expected"].replace("'", "").split(", "), n=1)
        return f"{where}: {dotted} is {error['input']!r}, but must be {context['expected']}" + (
            f"; did you mean {near[0]}?" if near else ""
        )
    given = error["input"]
    found = repr(type(given).__name__ if isinstance(given, (dict, list)) else given)
    return f"{where}: {dotted} is {_cut(found)}: {error['msg'][0].lower()}{error['msg'][1:]}"
