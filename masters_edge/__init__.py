"""masters-edge: turn a large vision-language model into one that answers on a phone or an edge board.

    import masters_edge

    run = masters_edge.distill_recipe("my.yaml")           # a recipe file in, a student in a run folder out
    bundles = masters_edge.export_bundles(run)             # the student in a device's file format
    results = masters_edge.measure_bundles(bundles)        # accuracy, latency, memory and size of each
    student = masters_edge.Student.load(bundles[0])        # answers about pictures, without torch

These names and `Recipe` are what stays as it is from one version to the next. Importing this package is free: nothing
heavier than the standard library is loaded until one of them is used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from masters_edge.api import distill_recipe, export_bundles, measure_bundles
    from masters_edge.recipe import Recipe
    from masters_edge.runtime import Student

    __version__: str

__all__ = ["Recipe", "Student", "distill_recipe", "export_bundles", "measure_bundles"]

_HOME = {
    "Recipe": "recipe",
    "Student": "runtime",
    "distill_recipe": "api",
    "export_bundles": "api",
    "measure_bundles": "api",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return import_module(f"{__name__}.common.versions").own()
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
