"""The recipe reference, written from the schema: every key with its value, bounds, default and meaning, as Markdown.

    python -m masters_edge.recipe.reference > docs/recipe.md

In: `masters_edge.recipe.schema`. Out: the page; a test compares it with docs/recipe.md.
"""

import json
from collections.abc import Iterator
from typing import Any, get_args, get_origin

import yaml
from pydantic import BaseModel, TypeAdapter

from masters_edge.recipe import schema

HEAD = """# Every key of a recipe

A recipe is one YAML file. `student`, `teachers` and `data` have to be there; all other keys have the default that
stands beside them. A key that doesn't exist, a value of another type or out of bounds, and a combination that can't
work end in one sentence with file, line and remedy, before anything runs: `masters-edge validate my.yaml`.

Any value can be set on the command line, by its path:
`masters-edge distill my.yaml mask.r_max=0.1 train.phases.0.steps=2000`. An editor checks and completes a recipe whose
first line is `# yaml-language-server: $schema=recipe.schema.json`, where
`masters-edge schema > recipe.schema.json` has written that file. What the keys of `mask`, `responses` and `reward` mean
together: [the method](method.md).
"""
FOOT = "Written from `masters_edge/recipe/schema.py` by `python -m masters_edge.recipe.reference > docs/recipe.md`.\n"

Places = dict[type[BaseModel], list[str]]

_WORDS = {
    "string": "text",
    "integer": "whole number",
    "number": "number",
    "boolean": "`true` or `false`",
    "object": "mapping",
    "null": "none",
}
_BOUNDS = {
    "minimum": "at least {}",
    "exclusiveMinimum": "above {}",
    "maximum": "at most {}",
    "exclusiveMaximum": "below {}",
}


def page() -> str:
    """The whole page. Sections come in the schema's order, each followed by what is nested in it."""
    whole = schema.Recipe.model_json_schema()
    places = _places(schema.Recipe, "")
    parts = [HEAD, _table(schema.Recipe, whole, "", places)]
    for section, paths in places.items():
        keys = whole["$defs"][section.__name__]
        level = "#" * (2 + paths[0].removesuffix(".0").count("."))
        parts.append(f"{level} {_title(paths)}\n\n{keys['description']}\n")
        parts.append(_table(section, keys, paths[0], places))
    return "\n".join([*parts, FOOT])


def _places(model: type[BaseModel], path: str) -> Places:
    """Where each section below `model` can stand; in a list as its first entry, `train.phases.0`."""
    found: Places = {}
    for name, field in model.model_fields.items():
        for section, inside in _sections(field.annotation):
            place = f"{path}.{name}{inside}".lstrip(".")
            found.setdefault(section, []).append(place)
            for inner, places in _places(section, place).items():
                found.setdefault(inner, []).extend(places)
    return found


def _sections(annotation: Any, inside: str = "") -> Iterator[tuple[type[BaseModel], str]]:
    """The sections that a type names, inside unions and lists too; in a list with `.0`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation, inside
    for inner in get_args(annotation):
        yield from _sections(inner, ".0" if get_origin(annotation) is list else inside)


def _title(paths: list[str]) -> str:
    return ", ".join(f"`{path.removesuffix('.0')}`" for path in paths)


def _table(model: type[BaseModel], keys: dict[str, Any], path: str, places: Places) -> str:
    """A row for each key of `model`, whose JSON Schema is `keys`."""
    titles = {section.__name__: _title(paths) for section, paths in places.items()}
    abouts = {section.__name__: section.__doc__ or "" for section in places}
    lines = ["| key | value | default | meaning |", "|---|---|---|---|"]
    for name, field in model.model_fields.items():
        entry = keys["properties"][name]
        default = "required" if field.is_required() else _default(field.get_default(call_default_factory=True))
        meaning = entry.get("description") or abouts[entry["$ref"].rpartition("/")[2]]
        cells = [f"`{f'{path}.{name}'.lstrip('.')}`", _value(entry, titles), default, " ".join(meaning.split())]
        lines.append(f"| {' | '.join(map(_escaped, cells))} |")
    return "\n".join(lines) + "\n"


def _escaped(cell: str) -> str:
    """Markdown of a table's cell: no column ends in it, and outside of code nothing is taken for HTML."""
    plain_and_code = cell.replace("|", "\\|").split("`")
    return "`".join(part if index % 2 else part.replace("<", "\\<") for index, part in enumerate(plain_and_code))


def _value(entry: dict[str, Any], titles: dict[str, str]) -> str:
    """What may stand there, in words, such as "number, at least 0, below 1; or `auto`"."""
    if "$ref" in entry:
        title = titles[entry["$ref"].rpartition("/")[2]]
        anchor = title.replace(" ", "-")
        return f"[section](#{''.join(letter for letter in anchor if letter.isalnum() or letter in '-_')})"
    if "anyOf" in entry:
        return "; or ".join(_value(option, titles) for option in entry["anyOf"])
    if "const" in entry or "enum" in entry:
        return ", ".join(f"`{option}`" for option in entry.get("enum", [entry.get("const")]))
    if entry["type"] == "array":
        least = f", at least {entry['minItems']}" if "minItems" in entry else ""
        return f"list of {_value(entry['items'], titles)}{least}"
    bounds = [words.format(_number(entry[key])) for key, words in _BOUNDS.items() if key in entry]
    return ", ".join([_WORDS[entry["type"]], *bounds])


def _number(value: float) -> str:
    return f"{int(value):,}" if value == int(value) else f"{value:g}"


def _default(value: Any) -> str:
    """A default as it would stand in the recipe."""
    if value is None:
        return "none"
    if isinstance(value, BaseModel):
        return "its keys'"
    plain = json.loads(TypeAdapter(Any).dump_json(value))
    text = yaml.safe_dump(plain, default_flow_style=True, sort_keys=False, width=1000)
    return f"`{text.removesuffix(chr(10)).removesuffix(chr(10) + '...')}`"


if __name__ == "__main__":
    print(page(), end="")
