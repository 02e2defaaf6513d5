"""The model card says what is known of a bundle, reads as one of the hub's, and doesn't depend on the clock."""

from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from masters_edge.bundle import manifest as manifests
from masters_edge.bundle.origin import Checkpoint, Origin, Score
from masters_edge.export import card
from tests.bundle.test_manifest import manifest
from tests.export import bundles

ORIGIN = Origin(
    name="demo",
    student=Checkpoint(name="org/small", licence="apache-2.0", hub=True),
    teachers=[Checkpoint(name="large", licence="see its file LICENSE (MIT License)")],
    recipe="demo.yaml",
    seed=3,
    steps=1500,
    training={"mask": "large: its smallest weights masked at 0.10 -> 0.00", "responses": "4 | 4"},
    scores=[Score(of="student after", questions="easy-vqa", per_cent=85.25, asked=9673)],
)
BARE = Origin(name="mine", student=Checkpoint(name="mine"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "bundle"
    (path / "onnx").mkdir(parents=True)
    (path / "onnx" / "decoder.onnx").write_bytes(b"x" * 1_230_000)
    return path


def text(folder: Path, origin: Origin, **changes) -> str:
    runtimes = changes.pop("runtimes", ())
    return card.write(folder, manifest(**changes), origin, runtimes).read_text(encoding="utf-8")


def test_it_says_how_the_student_was_made(folder: Path) -> None:
    said = text(folder, ORIGIN, notes=["Apple's runtime was not run."], runtimes=["transformers.js"])
    for words in (
        "# demo for onnx (fp32)",
        "| student before | org/small |",
        "| teacher | large |",
        "| recipe | demo.yaml, seed 3 |",
        "| steps | 1,500 |",
        "| mask | large: its smallest weights masked at 0.10 -> 0.00 |",
        "| responses | 4 \\| 4 |",
        "| student after | easy-vqa (9,673) | 85.2 |",
        "| decoder | fp32 | float32 |",
        "| decoder | 1.0e-06 |",
        "100% at exact arithmetic",
        "| onnx/decoder.onnx | 1.230 |",
        "- student org/small: apache-2.0\n- teacher large: see its file LICENSE (MIT License)",
        "- Apple's runtime was not run.",
        "- transformers.js",
        "masters-edge ask",
    ):
        assert words in said, words


def test_its_front_matter_is_the_hubs(folder: Path) -> None:
    text(folder, ORIGIN)
    about = ModelCard.load(folder / "README.md").data
    assert (about.license, about.base_model, about.pipeline_tag) == ("apache-2.0", "org/small", "image-text-to-text")
    assert {"masters-edge", "onnx", "fp32", "smolvlm"} <= set(about.tags)


def test_nothing_is_made_up_for_a_bare_student(folder: Path) -> None:
    said = text(folder, BARE)
    assert "How it was trained is not known here" in said and "No accuracy is known" in said
    assert "- student mine: not stated" in said and "teacher" not in said.split("## Licences")[1].replace(
        "a teacher", ""
    )
    about = ModelCard(said).data
    assert about.license is None and about.base_model is None


def test_a_target_that_does_not_run_here_promises_no_answer(folder: Path) -> None:
    assert "masters-edge ask" not in text(folder, BARE, target="tflite")


def test_it_does_not_depend_on_the_clock_nor_on_an_older_card(folder: Path) -> None:
    first = text(folder, ORIGIN)
    assert text(folder, ORIGIN, created="2031-01-01T00:00:00+00:00") == first
    assert "2026" not in first


def test_an_exported_bundle_has_one(tmp_path: Path) -> None:
    made = bundles.exported("smolvlm", "int4")
    found = manifests.check(made)
    said = (made / "README.md").read_text(encoding="utf-8")
    assert "README.md" in {file.path for file in found.files}
    assert found.origin and found.origin.name == "smolvlm-False" and found.student.fingerprint in said
    assert all(f"| {part} | {scheme} |" in said for part, scheme in found.quantization.schemes.items())
    assert "The integers were chosen by rounding to nearest" in said
