"""Where a model family lives: every file or line that knows families by `config.model_type`, and which it knows.

`PLACES` is the list that docs/families.md prints and `test_places.py` holds to the code; a family that has one place
and not another stands in `LACKING`, with its reason.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

ROOT = Path(__file__).parents[2]
JAVASCRIPT = ROOT / "benchmarks/page/web/families/index.js"


@dataclass(frozen=True)
class Place:
    """`what` a family has there, `where` that is written (Markdown), and the model types `known` there."""

    what: str
    where: str
    known: Callable[[], Iterable[str]]


def _classes() -> set[str]:
    from masters_edge.families import base

    for path in (ROOT / "masters_edge/families").glob("*.py"):
        import_module(f"masters_edge.families.{path.stem}")
    return set(base._FAMILIES)


def _modules(package: str, files: str) -> set[str]:
    """Of a package of one file per family, each with its MODEL_TYPES."""
    name = package.replace("/", ".")
    name = name if name.startswith("masters_edge") else f"masters_edge.{name}"
    paths = [path for path in (ROOT / package).glob(files) if path.stem != "__init__"]
    modules = [import_module(f"{name}.{path.stem}") for path in paths]
    return {model_type for module in modules for model_type in getattr(module, "MODEL_TYPES", ())}


def _names(module: str, name: str) -> Callable[[], set[str]]:
    """A table of model types in a module."""
    return lambda: set(getattr(import_module(module), name))


def _in_the_browser() -> set[str]:
    found = re.search(r"^const FAMILIES = \{(.*?)\};", JAVASCRIPT.read_text(encoding="utf-8"), re.M | re.S)
    assert found, f"{JAVASCRIPT} has no FAMILIES"
    return set(re.findall(r"(\w+):", found[1]))


def _published() -> set[str]:
    from masters_edge.plan.published import SHAPES

    return {shape["model_type"] for shape in SHAPES.values()}


def _by_generation(module: str) -> Callable[[], set[str]]:
    """Of a table whose names also tell generations of one model type apart: internvl3, internvl3_5."""

    def known() -> set[str]:
        types = _classes()
        keys = set(import_module(module).FAMILIES)
        return {next((one for one in types if key.startswith(one)), key) for key in keys}

    return known


PLACES = {
    "training": Place(
        "training: images, positions, placeholders",
        "a file in `masters_edge/families/`, `model_types` of its class",
        _classes,
    ),
    "classes": Place(
        "its processor's classes",
        "`CLASSES` in `masters_edge/families/processors.py`",
        _names("masters_edge.families.processors", "CLASSES"),
    ),
    "templates": Place(
        "its chat template, where a model has none of its own",
        "`CHAT_TEMPLATES` there",
        _names("masters_edge.families.processors", "CHAT_TEMPLATES"),
    ),
    "tokens": Place(
        "the names of its special tokens",
        "`NAMED_TOKENS` there",
        _names("masters_edge.families.processors", "NAMED_TOKENS"),
    ),
    "tiny": Place(
        "a tiny one with random weights, for tests",
        "a builder in `tests/tiny.py`, `FAMILIES`",
        _by_generation("tests.tiny"),
    ),
    "table": Place(
        "its row in the table above",
        "`FAMILIES` in `tests/export/test_table.py`",
        _by_generation("tests.export.test_table"),
    ),
    "graphs": Place(
        "its parts as exported programs (ONNX, OpenVINO)",
        "a file in `export/graphs/`, `MODEL_TYPES`",
        lambda: _modules("export/graphs", "*.py"),
    ),
    "static": Place(
        "its vision encoder with fixed shapes (Core ML, ExecuTorch)",
        "a file `export/static_graphs/vision_NAME.py`, `MODEL_TYPES`",
        lambda: _modules("export/static_graphs", "vision_*.py"),
    ),
    "gguf": Place(
        "its vision encoder as GGUF",
        "a function in `export/gguf_files/vision.py`, `FAMILIES`",
        _names("masters_edge.export.gguf_files.vision", "FAMILIES"),
    ),
    "card onnx": Place(
        "which other runtimes load its ONNX, for the model card",
        "`RUNTIMES` in `export/targets/onnx.py`",
        _names("masters_edge.export.targets.onnx", "RUNTIMES"),
    ),
    "card openvino": Place(
        "which other runtimes load its OpenVINO files",
        "`RUNTIMES` in `export/targets/openvino.py`",
        _names("masters_edge.export.targets.openvino", "RUNTIMES"),
    ),
    "card gguf": Place(
        "which other runtimes load its GGUF",
        "`RUNTIMES` in `export/targets/gguf.py`",
        _names("masters_edge.export.targets.gguf", "RUNTIMES"),
    ),
    "genai": Place(
        "what onnxruntime-genai reads beside the graphs",
        "`MODEL_TYPES` in `export/genai/ortgenai.py`",
        _names("masters_edge.export.genai.ortgenai", "MODEL_TYPES"),
    ),
    "runtime": Place(
        "what a picture becomes on a device, without torch",
        "a file in `masters_edge/runtime/families/`, `MODEL_TYPES`",
        lambda: _modules("masters_edge/runtime/families", "*.py"),
    ),
    "browser": Place(
        "the same in a browser",
        "a file in `benchmarks/page/web/families/`, `FAMILIES` in `index.js` there",
        _in_the_browser,
    ),
    "browser peer": Place(
        "whether browsers measure it",
        "`FAMILIES` in `benchmarks/peers/in_browser.py`",
        _names("masters_edge.benchmarks.peers.in_browser", "FAMILIES"),
    ),
    "prompts": Place(
        "how long a prompt is, for `plan`",
        "`_IMAGES` in `masters_edge/plan/prompts.py`",
        _names("masters_edge.plan.prompts", "_IMAGES"),
    ),
    "published": Place(
        "a shape for `plan` without the hub",
        "`SHAPES` in `masters_edge/plan/published.py`",
        _published,
    ),
    "stand-in": Place(
        "a stand-in for its processor, for `preview`",
        "a function in `masters_edge/preview/stand_ins.py`, `_MAKERS`",
        _names("masters_edge.preview.stand_ins", "_MAKERS"),
    ),
}

_JOINED = "llama.cpp's multimodal code does not cut and join pictures as this family does"
_NO_PAGE = "the page's runtime has no code that joins tiles and thins them out"
_NO_GENAI = "onnxruntime-genai knows no such model type"
_NO_PIPELINE = "openvino-genai knows no such model type"
# (place, model type) -> why the family has no such place
LACKING = {
    ("gguf", "llava_onevision"): _JOINED,
    ("card gguf", "llava_onevision"): _JOINED,
    ("browser", "llava_onevision"): _NO_PAGE,
    ("browser peer", "llava_onevision"): _NO_PAGE,
    ("published", "llava_onevision"): "no shipped recipe names such a checkpoint",
    ("card onnx", "llava_onevision"): "transformers.js has a class for it that was not tried",
    **{("card openvino", one): _NO_PIPELINE for one in ("smolvlm", "idefics3", "llava_onevision")},
    **{("genai", one): _NO_GENAI for one in ("smolvlm", "idefics3", "internvl", "llava_onevision")},
}


def differences(known: dict[str, set[str]], lacking: dict[tuple[str, str], str]) -> list[str]:
    """What a family lacks without a reason, and reasons that are out of date; `known` is place -> model types."""
    every = set().union(*known.values())
    found = []
    for place, there in known.items():
        for family in sorted(every):
            if family not in there and (place, family) not in lacking:
                found.append(f"{family} has no place {place!r}: {PLACES[place].where}")
            if family in there and (place, family) in lacking:
                found.append(f"{family} has a place {place!r} now; its reason to lack it is out of date")
    gone = [f"{place!r}, {family!r}: no such place or family" for place, family in lacking]
    return found + [said for said, (place, family) in zip(gone, lacking) if place not in known or family not in every]


def page() -> str:
    """The list for docs/families.md."""
    lines = [
        "",
        "## Where a family lives",
        "",
        "A folder is a stage, so a family has a file or a line in each of these places, found by its",
        "`config.model_type`; `tests/families/test_places.py` fails where one is missing and no reason is given.",
        "",
        "| what | where | families without, and why |",
        "|---|---|---|",
    ]
    for name, place in PLACES.items():
        reasons: dict[str, list[str]] = {}
        for (lacked, family), why in LACKING.items():
            if lacked == name:
                reasons.setdefault(why, []).append(family)
        without = "; ".join(f"{', '.join(families)}: {why}" for why, families in reasons.items())
        lines.append(f"| {place.what} | {place.where} | {without} |")
    return "\n".join([*lines, ""])
