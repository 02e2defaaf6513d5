"""Which scheme each part of a student gets: a scheme for all, or a preset, with exceptions by part.

    plan("int4", {"vision": "int8"}).name == "int4-vision-int8"

A scheme with integers leaves the token embedding float32 unless it is named: rows are looked up there, not multiplied.
Nothing heavy is imported here.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from masters_edge.common import registry
from masters_edge.common.errors import UserError
from masters_edge.quantization.schemes import SCHEMES, Scheme, scheme

PARTS = ("vision", "connector", "embeddings", "decoder", "head")
TIED = ("shared", "split")
PRESETS = {
    "quality": dict(vision="int8", connector="int8", embeddings="fp16", decoder="int8", head="int8"),
    "balanced": dict(vision="int8", connector="int8", embeddings="int8", decoder="int4", head="int8"),
    "smallest": dict(vision="int4", connector="int4", embeddings="int4", decoder="int4", head="int4"),
}


@dataclass(frozen=True)
class QuantizationPlan:
    """`name` can be a folder's; `parts` has a scheme for each of `PARTS`.

    `tied` matters where the student's token embedding and head are one weight: "shared" keeps them one tensor (both
    have the same scheme then), "split" quantizes each by itself.
    """

    name: str
    parts: dict[str, Scheme]
    tied: str


def names() -> list[str]:
    """What a plan can start from: every scheme, then every preset."""
    return [*SCHEMES, *PRESETS]


def plan(name: str, parts: Mapping[str, str] | None = None, tied: str | None = None) -> QuantizationPlan:
    """The plan that starts from a scheme or preset, with other schemes for some parts.

    Without `tied`, embedding and head are shared where they have the same scheme. "shared" gives the embedding the
    head's scheme, unless `parts` names another for it. Raises UserError for a name that isn't known, and for
    "shared" with two schemes.
    """
    registry.check(name, "quantization scheme", names())
    for part, chosen in (parts or {}).items():
        registry.check(part, "part to quantize", PARTS)
        registry.check(chosen, f"quantization scheme for {part}", SCHEMES)
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
    words = [f"{part}-{chosen_for[part]}" for part in PARTS if chosen_for[part] != start[part]]
    if tied is not None and tied != usual:
        words.append(tied)
    return QuantizationPlan("-".join([name, *words]), {part: scheme(chosen_for[part]) for part in PARTS}, tied or usual)


def _start(name: str) -> dict[str, str]:
    """Scheme names by part for a scheme or preset."""
    if name in PRESETS:
        return dict(PRESETS[name])
    parts = dict.fromkeys(PARTS, name)
    if SCHEMES[name].bits is not None:
        parts["embeddings"] = "fp32"
    return parts
