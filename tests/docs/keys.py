"""Keys of a recipe by their path, as pages and command lines name them, and values checked one at a time."""

from collections.abc import Iterator
from typing import Annotated, Any, get_args

import yaml
from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from masters_edge.recipe import Recipe


def fields(path: str) -> list[FieldInfo]:
    """The schema's fields at `train.phases.0.steps`, several where sections share a place; none for an unknown key."""
    first, *rest = path.split(".")
    found = [Recipe.model_fields[first]] if first in Recipe.model_fields else []
    for name in rest:
        if name.isdigit():
            continue  # an entry of a list
        sections = [section for field in found for section in _sections(field.annotation)]
        found = [section.model_fields[name] for section in sections if name in section.model_fields]
    return found


def _sections(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _sections(inner)


def problem_of_key(path: str) -> str | None:
    return None if fields(path) else f"a recipe has no key {path}"


def problem_of_value(path: str, value: Any) -> str | None:
    """Why no key at that path takes this value; what keys say to each other isn't looked at."""
    if (wrong := problem_of_key(path)) is not None:
        return wrong
    for field in fields(path):
        try:
            TypeAdapter(Annotated[field.annotation, field]).validate_python(value)
            return None
        except ValidationError as error:
            wrong = f"{path}: {error.errors()[0]['msg']}"
    return wrong


def problem_of_override(override: str) -> str | None:
    """The same for `key.sub=value` of a command line."""
    path, _, value = override.partition("=")
    return problem_of_value(path, yaml.safe_load(value))
