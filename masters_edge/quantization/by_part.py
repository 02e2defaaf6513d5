"""Which scheme each part of a student gets: a scheme for all, or a preset, with exceptions by part.

    plan("int4", {"vision": "int8"}).name == "int4-vision-int8"

`auto` starts from int4 for what is multiplied most and spends what a budget leaves where the answers owe most to a
layer (`export/quantize/auto.py`). A scheme with integers leaves the token embedding float32 unless it is named: rows
are looked up there, not multiplied.
Nothing heavy is imported here.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NoReturn

from masters_edge.common import registry
from masters_edge.common.errors import UserError
from masters_edge.quantization.schemes import SCHEMES, Scheme, scheme

PARTS = ("vision", "connector", "embeddings", "decoder", "head")
TIED = ("shared", "split")
AUTO = "auto"
_UNITS = {"KB": 1e3, "MB": 1e6, "GB": 1e9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
PRESETS = {
    AUTO: dict(vision="int4", connector="int4", embeddings="int8", decoder="int4", head="int8"),
    "quality": dict(vision="int8", connector="int8", embeddings="fp16", decoder="int8", head="int8"),
    "balanced": dict(vision="int8", connector="int8", embeddings="int8", decoder="int4", head="int8"),
    "smallest": dict(vision="int4", connector="int4", embeddings="int4", decoder="int4", head="int4"),
}


@dataclass(frozen=True)
class QuantizationPlan:
    """`name` can be a folder's; `parts` has a scheme for each of `PARTS`.

    `tied` matters where the student's token embedding and head are one weight: "shared" keeps them one tensor (both
    have the same scheme then), "split" quantizes each by itself. `auto`: `parts` is what layers start from, and some
    get more under `budget`, for example "92MB" (`budget_bytes`), None for the usual one.
    """

    name: str
    parts: dict[str, Scheme]
    tied: str
    auto: bool = False
    budget: str | None = None


def budget_bytes(text: str, weights: int) -> float:
    """Bytes of a budget: "92MB", or bits a weight, "4.9bits", of so many weights.

    Raises:
        UserError: neither.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]+)\s*", text)
    unit = found[2].upper() if found else ""
    if found and unit in _UNITS and float(found[1]) > 0:
        return float(found[1]) * _UNITS[unit]
    if found and unit in ("BIT", "BITS") and float(found[1]) > 0:
        return float(found[1]) * weights / 8
    raise UserError(f"budget {text!r} is no size; write bytes such as 92MB, or bits a weight such as 4.9bits")


def refuse_budget(name: str) -> NoReturn:
    """Raise the UserError for a budget of another scheme or preset than `auto`."""
    raise UserError(f"a budget is spent by the scheme {AUTO}; {name} takes what it takes: leave one of the two out")


def method(plan: QuantizationPlan, asked: str | None, usual: str) -> str:
    """How the plan's integers are chosen: `auto`'s by GPTQ, others' as asked for, or as usual.

    Raises:
        UserError: another method was asked for with `auto`.
    """
    if not plan.auto:
        return asked or usual
    if asked not in (None, "gptq"):
        raise UserError(f"{plan.name} chooses integers by gptq, not by {asked}; leave out --quant.method, or take int4")
    return "gptq"


def names() -> list[str]:
    """What a plan can start from: every scheme, then every preset."""
    return [*SCHEMES, *PRESETS]


def plan(
    name: str, parts: Mapping[str, str] | None = None, tied: str | None = None, budget: str | None = None
) -> QuantizationPlan:
    """The plan that starts from a scheme or preset, with other schemes for some parts.

    Without `tied`, embedding and head are shared where they have the same scheme. "shared" gives the embedding the
    head's scheme, unless `parts` names another for it. Raises UserError for a name that isn't known, for "shared" with
    two schemes, and for a budget of anything but `auto`.
    """
    registry.check(name, "quantization scheme", names())
    for part, chosen in (parts or {}).items():
        registry.check(part, "part to quantize", PARTS)
        registry.check(chosen, f"quantization scheme for {part}", SCHEMES)
    if budget is not None and name != AUTO:
        refuse_budget(name)
    if budget is not None:
        budget_bytes(budget, 1)
    if tied is not None:
        registry.check(tied, "way to tie embedding and head", TIED)
    chosen_for = {**_start(name), **(parts or {})}
    if tied == "shared":
        wanted = (parts or {}).get("embeddings", chosen_for["head"])
        if wanted != chosen_for["head"]:
            raise UserError(
                f"embedding and head can't be shared with two schemes ({wanted} and {chosen_for['head']}); "
                "give both the same one, or split them"
            )
        chosen_for["embeddings"] = wanted
    alike = chosen_for["embeddings"] == chosen_for["head"]
    usual = "shared" if alike else "split"
    start = _start(name)
    words = [] if budget is None else [re.sub(r"[^a-z0-9]+", "-", budget.lower()).strip("-")]
    words += [f"{part}-{chosen_for[part]}" for part in PARTS if chosen_for[part] != start[part]]
    if tied is not None and tied != usual:
        words.append(tied)
    return QuantizationPlan(
        name="-".join([name, *words]),
        parts={part: scheme(chosen_for[part]) for part in PARTS},
        tied=tied or usual,
        auto=name == AUTO,
        budget=budget,
    )


def _start(name: str) -> dict[str, str]:
    """Scheme names by part for a scheme or preset."""
    if name in PRESETS:
        return dict(PRESETS[name])
    parts = dict.fromkeys(PARTS, name)
    if SCHEMES[name].bits is not None:
        parts["embeddings"] = "fp32"
    return parts
