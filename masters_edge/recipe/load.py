"""Read a recipe: YAML and overrides in, a checked `Recipe` out, or one sentence with file, line, key and a remedy."""

import difflib
import types
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from masters_edge.common import registry
from masters_edge.common.errors import UserError
from masters_edge.quantization import by_part
from masters_edge.recipe.schema import Recipe
from masters_edge.scoring import metrics

Key = tuple[str | int, ...]
TARGETS = "masters_edge.export.targets"  # known by the names of their files: a recipe needs none of them to be read


def load(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe in `path` with `key.sub=value` overrides applied (values are YAML).

    Raises:
        UserError: no such file, broken YAML, an unknown key, a value of the wrong type or out of bounds, or a
            combination that can't work; names file, line and key.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(
            f"there is no recipe {path}; give the path of a YAML file; masters-edge recipes lists some to copy"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"the recipe {path} can't be read as UTF-8 text ({error})") from None
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise UserError(f"{path}{where}: not valid YAML ({getattr(error, 'problem', error)})") from None
    if not isinstance(values, dict) or node is None:
        raise UserError(
            f"{path}: a recipe is a mapping with student, teachers and data; see: masters-edge recipes demo"
        )
    lines = dict(_lines(node, path))
    origin = {}
    for override in overrides:
        origin[_override(values, override)] = override
    try:
        recipe = Recipe.model_validate(values)
    except ValidationError as error:
        raise UserError(_sentence(error.errors()[0], path, lines, origin)) from None
    for key, name, known in _names(recipe):
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            remedy = f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"
            raise UserError(f"{_where(key, path, lines, origin)}: {'.'.join(map(str, key))} is {name!r}; {remedy}")
    return recipe


def dump(recipe: Recipe) -> str:
    """The recipe as YAML with every default written out."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def checkpoint(name: str, recipe_path: Path) -> str:
    """A `student` or `teachers` entry as transformers takes it: an absolute folder, or the hub id as it is.

    Raises:
        UserError: a path that starts with `.`, `/` or `~` where there is no folder.
    """
    folder = (recipe_path.parent / Path(name).expanduser()).resolve()
    if folder.is_dir():
        return str(folder)
    if name.startswith((".", "/", "~")) or Path(name).is_absolute():
        raise UserError(f"{recipe_path}: there is no checkpoint folder {folder} (from {name!r}); mend the path")
    return name


def _lines(node: yaml.Node, path: Path, key: Key = ()) -> Iterator[tuple[Key, int]]:
    """(key, line number) of every entry; duplicate keys are refused here, since YAML would keep the last silently."""
    yield key, node.start_mark.line + 1
    if isinstance(node, yaml.MappingNode):
        seen = set()
        for name, value in node.value:
            if name.value in seen:
                dotted = ".".join(map(str, (*key, name.value)))
                raise UserError(f"{path}, line {name.start_mark.line + 1}: {dotted} is given twice; keep one")
            seen.add(name.value)
            yield from _lines(value, path, (*key, name.value))
            yield (*key, name.value), name.start_mark.line + 1
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield from _lines(value, path, (*key, index))


def _override(values: dict[str, Any], override: str) -> Key:
    """Set `a.b.0.c=value` in the nested values; returns the key."""
    dotted, sign, text = override.partition("=")
    if not sign or not dotted:
        raise UserError(f"override {override!r}: expected key=value, such as reward.kl_beta=0.05")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise UserError(f"override {override!r}: {text!r} is not a YAML value; quote it") from None
    key: Key = tuple(int(part) if part.isdigit() else part for part in dotted.split("."))
    where: Any = values
    for part, following in zip(key, (*key[1:], None)):
        if isinstance(where, list):
            if not isinstance(part, int) or part >= len(where):
                raise UserError(
                    f"override {override!r}: {part!r} is no position in a list of {len(where)}, "
                    f"use 0 to {len(where) - 1}"
                )
        elif not isinstance(where, dict):
            raise UserError(f"override {override!r}: nothing can be set below {part!r}; see masters-edge schema")
        if following is None:
            where[part] = value
        else:
            if isinstance(where, dict) and where.get(part) is None:
                where[part] = _default(key[: key.index(part) + 1])
            where = where[part]
    return key


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


def _sentence(error: Any, path: Path, lines: dict[Key, int], origin: dict[Key, str]) -> str:
    """One pydantic error as a sentence: where, what was found, what was expected."""
    key: Key = tuple(part for part in error["loc"] if not (isinstance(part, str) and part.startswith("constrained-")))
    while key and key not in lines and key not in origin and error["type"] != "missing":
        key = key[:-1]  # pydantic adds the name of the union's branch
    where = _where(key, path, lines, origin)
    dotted = ".".join(map(str, key))
    kind, context = error["type"], error.get("ctx", {})
    if kind == "extra_forbidden":
        dotted = ".".join(map(str, error["loc"]))
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
    found = error["input"] if not isinstance(error["input"], (dict, list)) else type(error["input"]).__name__
    return f"{where}: {dotted} is {found!r}: {error['msg'][0].lower()}{error['msg'][1:]}"
