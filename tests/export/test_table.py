"""Every family on every target, every scheme on every target: docs/families.md is what these tests found.

A cell is an export that passed its gate: exact parity with PyTorch, greedy answers token by token, integers bit for
bit. The families go through with a plan that spreads the target's schemes over the parts; the schemes one by one on
SmolVLM. XNNPACK takes over a minute to lower integers, so on ExecuTorch families go through in float32, and its integer
schemes are slow tests. `MASTERS_EDGE_WRITE_DOCS=1 pytest tests/export/test_table.py` writes the page anew.
"""

import importlib
import os
from pathlib import Path

import pytest

from masters_edge.common.errors import UserError
from masters_edge.export import export_student, target_names
from masters_edge.quantization.by_part import PARTS, QuantizationPlan, plan
from masters_edge.quantization.schemes import SCHEMES
from tests import tiny, wide
from tests.export import bundles, gguf_bundles
from tests.families import places

PAGE = Path(__file__).parents[2] / "docs" / "families.md"
FAMILIES = {
    "smolvlm": "SmolVLM, SmolVLM2",
    "idefics3": "Idefics3",
    "qwen2_5_vl": "Qwen2.5-VL",
    "qwen3_vl": "Qwen3-VL",
    "internvl3": "InternVL3",
    "internvl3_5": "InternVL3.5",
    "llava_onevision": "LLaVA-OneVision",
}
# The windows of tiny.qwen2_5_vl are smaller than llama.cpp's; the published checkpoints have the size it knows.
STUDENTS = {("qwen2_5_vl", "gguf"): gguf_bundles.windows}
HEAD = """# Families, targets, schemes

Written by `tests/export/test_table.py`, which exports a tiny student for every cell and holds it to PyTorch: exact
parity of each part, greedy answers token by token, integers bit for bit.

"""
EMPTY_SCHEMES = (
    "coreml: Core ML computes in float16 and rounds no activations on the way",
    "executorch: XNNPACK multiplies integers with int8 activations only; float16 was not tried",
    "gguf: llama.cpp rounds activations to 8 bits whatever the scheme; int8 and int4 are what `-a8` says",
    "onnx_portable: DequantizeLinear and MatMul multiply floats; a runtime may fuse them into something else",
)
# What `make test` has of the first table: each family and target once (`mixed` has most schemes). The rest is wide.
FIRST_FAMILIES = {
    ("smolvlm", "gguf"),
    ("idefics3", "openvino"),
    ("qwen2_5_vl", "gguf"),
    ("qwen3_vl", "gguf"),
    ("internvl3", "gguf"),
    ("internvl3_5", "gguf"),
    ("llava_onevision", "onnx"),
}
families: dict[tuple[str, str], str] = {}


def target_module(name: str):
    return importlib.import_module(f"masters_edge.export.targets.{name}")


def mixed(target: str) -> QuantizationPlan:
    """The target's schemes, spread over the parts as far as they go."""
    if target == "executorch":
        return plan("fp32")
    known = [name for name in ("int4", "int8", "fp16", "int4-g64", "int4-a8", "int8-a8", "fp32") if takes(target, name)]
    wanted = dict(zip(("decoder", "vision", "embeddings", "head", "connector"), known * 5))
    return plan(known[0], wanted)


def takes(target: str, scheme: str) -> bool:
    return scheme in target_module(target).SCHEMES


def family_cells() -> list:
    return wide.cells([(family, target) for family in FAMILIES for target in target_names()], FIRST_FAMILIES)


ENDING = "; export to another target, such as onnx (nothing was written)"


@pytest.mark.parametrize(("family", "target"), family_cells())
def test_a_family_on_a_target(family: str, target: str, tmp_path: Path) -> None:
    build = STUDENTS.get((family, target), tiny.FAMILIES[family])
    student = build(tmp_path / "student")
    try:
        manifest = export_student(
            student, target=target, scheme=mixed(target), out=tmp_path / "out", samples=bundles.samples(2)
        )
    except UserError as error:
        assert str(error).endswith(ENDING), error  # the target refuses the family, and says why
        families[family, target] = str(error).removesuffix(ENDING)
        return
    assert manifest.parity.exact.equal_answers > 0
    assert {part: manifest.quantization.schemes[part] for part in PARTS}.keys() == set(PARTS)
    families[family, target] = "yes"


def scheme_cells() -> list:
    cells = [(target, scheme) for target in target_names() for scheme in SCHEMES if takes(target, scheme)]
    slow = [cell for cell in cells if cell[0] == "executorch" and cell[1] != "fp32"]
    marks = lambda cell: [pytest.mark.slow] if cell in slow else [pytest.mark.wide]  # noqa: E731
    return [pytest.param(*cell, marks=marks(cell)) for cell in cells]


@pytest.mark.parametrize(("target", "scheme"), scheme_cells())
def test_a_scheme_on_a_target(target: str, scheme: str, tmp_path: Path) -> None:
    export_student(
        bundles.student("smolvlm"), target=target, scheme=scheme, out=tmp_path / "out", samples=bundles.samples(1)
    )


def test_the_fast_cells_name_every_family_and_target() -> None:
    assert {family for family, _ in FIRST_FAMILIES} == set(FAMILIES)
    elsewhere = {"coreml", "onnx_portable", "executorch"}  # whole, a decoder, a layer: test_<target>.py
    assert {target for _, target in FIRST_FAMILIES} == set(target_names()) - elsewhere


@pytest.mark.wide
def test_the_page_is_what_was_found() -> None:
    if len(families) < len(FAMILIES) * len(target_names()):
        pytest.skip("only a part of this file was run")
    page = HEAD + table() + scheme_table() + places.page()
    if os.environ.get("MASTERS_EDGE_WRITE_DOCS"):
        PAGE.write_text(page, encoding="utf-8")
    assert PAGE.read_text(encoding="utf-8") == page, "run it again with MASTERS_EDGE_WRITE_DOCS=1"


def table() -> str:
    """Families by targets; an empty cell has a footnote that says why."""
    reasons: list[str] = []
    lines = [f"| | {' | '.join(target_names())} |", "|---" * (len(target_names()) + 1) + "|"]
    for family, name in FAMILIES.items():
        cells = []
        for target in target_names():
            found = families[family, target]
            if found != "yes":
                if found not in reasons:
                    reasons.append(found)
                found = f"no [{reasons.index(found) + 1}]"
            cells.append(found)
        lines.append(f"| {name} | {' | '.join(cells)} |")
    notes = [f"{number}. {reason}" for number, reason in enumerate(reasons, 1)]
    return "\n".join([*lines, "", *notes, ""]) + "\n"


def scheme_table() -> str:
    lines = [f"| | {' | '.join(target_names())} |", "|---" * (len(target_names()) + 1) + "|"]
    for scheme in SCHEMES:
        held = ["yes" if takes(target, scheme) else "" for target in target_names()]
        lines.append(f"| {scheme} | {' | '.join(held)} |")
    return "\n".join([*lines, "", "Why a cell is empty:", "", *(f"- {why}" for why in EMPTY_SCHEMES), ""])
