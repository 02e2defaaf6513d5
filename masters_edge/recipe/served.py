"""Where a masked teacher is served: an endpoint's address and model, templates filled in for one ratio and teacher.

A server masks nothing, so each ratio of each teacher is a checkpoint of its own there, found by its name. A name that
says the ratio must say all of it: rounded, it may be that of another mask.
"""

from collections.abc import Iterable
from typing import Any


class _Whole(float):
    """A ratio that refuses to be written with fewer digits than it has."""

    def __format__(self, spec: str) -> str:
        text = super().__format__(spec)
        said = float(text.replace("%", "")) / (100 if "%" in text else 1)
        if abs(said - self) > 1e-9:
            raise ValueError(
                f"{{ratio:{spec}}} would write the mask ratio {float(self)!r} as {text}, which is another mask; give "
                "it more digits, or all it has: {ratio}"
            )
        return text


def filled(template: str, ratio: float, teacher: int | None) -> str:
    """`{ratio}` and `{teacher}` (the place in the chain; None for the student, which has none) put in.

    Raises:
        ValueError: a sentence that says what can't be filled in, or which ratio it would round.
    """
    known: dict[str, Any] = {"ratio": _Whole(ratio)} | ({} if teacher is None else {"teacher": teacher})
    try:
        return template.format_map(known)
    except (KeyError, IndexError, AttributeError, TypeError) as error:
        why = f"{type(error).__name__}: {error}"
    except ValueError as error:
        why = str(error)
    names = " and ".join(f"{{{name}}}" for name in known)
    raise ValueError(f"{template!r} can't be filled in ({why}); it may hold {names}")


def check(url: str, model: str, teachers: int, ratios: Iterable[float]) -> None:
    """Raises ValueError unless every one of a chain's teachers has a name of its own at every ratio."""
    found: dict[tuple[str, str], tuple[int, float]] = {}
    for teacher, ratio in ((teacher, ratio) for teacher in range(teachers) for ratio in ratios):
        name = filled(url, ratio, teacher), filled(model, ratio, teacher)
        before = found.setdefault(name, (teacher, ratio))
        if before != (teacher, ratio):
            lacking = "{ratio}" if before[0] == teacher else "{teacher}"
            raise ValueError(
                f"teacher {before[0]} at mask ratio {before[1]:g} and teacher {teacher} at {ratio:g} would both be "
                f"model {name[1]!r} at {name[0]}, but a server masks nothing: write a checkpoint for each with "
                f"`masters-edge mask`, serve each, and put {lacking} into url or model"
            )
