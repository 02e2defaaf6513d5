"""Names of served teachers: every ratio of every teacher its own, and none of them rounded."""

import re
from typing import Any

import pytest
from pydantic import ValidationError

from masters_edge.recipe import Recipe, served


def recipe(model: str, teachers: int = 1, **mask: Any) -> Recipe:
    engine = {"url": "http://box:8000/v1", "model": model}
    values = {"student": "s", "teachers": ["t"] * teachers, "data": {"train": {"source": "easy-vqa"}}, "mask": mask}
    return Recipe.model_validate(values | {"responses": {"teacher_engine": engine}})


@pytest.mark.parametrize(
    ("template", "name"),
    [("m-{ratio}", "m-0.0375"), ("m-{ratio:.4f}", "m-0.0375"), ("{ratio:g}-{teacher}", "0.0375-2"), ("m", "m")]
    + [("{ratio:.2%}", "3.75%"), ("{ratio!r}", "0.0375")],
)
def test_names_say_all_of_a_ratio(template: str, name: str) -> None:
    assert served.filled(template, 0.0375, 2) == name


@pytest.mark.parametrize("template", ["m-{ratio:.2f}", "m-{ratio:.0%}", "m-{ratio:.1e}"])
def test_a_rounded_ratio_is_refused(template: str) -> None:
    with pytest.raises(ValueError, match=r"mask ratio 0.0375 as .*, which is another mask"):
        served.filled(template, 0.0375, 0)
    assert served.filled("m-{ratio:.2f}", 0.15, 0) == "m-0.15"


@pytest.mark.parametrize(
    ("model", "options", "said"),
    [
        ("m-{ratio:.2f}", dict(r_max=0.15, step=0.0375), "as 0.11, which is another mask"),
        ("m-{ratio:.2f}", dict(r_max="auto"), "which is another mask"),
        ("m", dict(), "teacher 0 at mask ratio 0.2 and teacher 0 at 0.15 would both be model 'm'"),
        ("m-{ratio}", dict(teachers=2), "put {teacher} into url or model"),
        ("m-{rate}", dict(), "it may hold {ratio} and {teacher}"),
    ],
)
def test_a_recipe_says_so_before_anything_runs(model: str, options: dict, said: str) -> None:
    with pytest.raises(ValidationError, match=re.escape(said)):
        recipe(model, **options)


def test_recipes_whose_names_differ_are_taken() -> None:
    for model, options in (
        ("m-{ratio:.2f}", {}),
        ("m-{ratio:.4f}", dict(r_max="auto")),
        ("{teacher}-{ratio}", dict(teachers=2, r_max=2 / 3, step=1 / 3)),
        ("m", dict(r_max=0)),
    ):
        recipe(model, **options)
