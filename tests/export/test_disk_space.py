"""Too little disk is said before anything is loaded or written."""

import shutil
from collections import namedtuple
from pathlib import Path

import pytest

from masters_edge.common.errors import UserError
from masters_edge.export import disk_space
from masters_edge.quantization.by_part import plan
from tests.export import bundles

PREFIXES = {
    "vision": "model.vision_model.",
    "connector": "model.connector.",
    "embeddings": "model.text_model.embed_tokens.",
    "decoder": "model.text_model.",
    "head": "lm_head.",
}
Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def student() -> Path:
    return bundles.student("smolvlm")


def with_free(monkeypatch: pytest.MonkeyPatch, free: int) -> list[Path]:
    asked: list[Path] = []
    monkeypatch.setattr(shutil, "disk_usage", lambda place: asked.append(place) or Usage(free, 0, free))
    return asked


def test_every_weight_is_counted_in_its_part(student: Path) -> None:
    from safetensors.torch import load_file

    counts = disk_space.weights_by_part(student, PREFIXES)
    saved = sum(tensor.numel() for tensor in load_file(student / "model.safetensors").values())
    assert counts["elsewhere"] == 0 and all(counts[part] for part in PREFIXES)
    assert counts["head"] == counts["embeddings"]  # one weight, in two files
    assert sum(counts.values()) == saved + counts["head"]


def test_names_that_no_part_has_count_at_the_widest_scheme(student: Path) -> None:
    counts = disk_space.weights_by_part(student, {"vision": "elsewhere."})
    assert set(name for name, count in counts.items() if count) == {"elsewhere"}
    assert disk_space.needed({"elsewhere": 1000}, plan("int4")) == disk_space.needed({"embeddings": 1000}, plan("int4"))


def test_the_estimate_follows_its_formula() -> None:
    million = 1_000_000
    assert disk_space.needed({"decoder": million}, plan("fp32")) == 2 * 4 * million + (32 << 20)
    assert disk_space.needed({"decoder": million}, plan("int4")) == 2 * million * 5 // 8 + (32 << 20)
    assert disk_space.needed({"vision": million}, plan("int4", {"vision": "int8"})) == 2 * million + (32 << 20)


def test_the_estimate_is_enough_for_what_was_written(student: Path) -> None:
    from masters_edge.bundle import manifest as manifests

    for scheme in ("fp32", "int4"):
        written = manifests.read(bundles.exported("smolvlm", scheme)).bytes
        assert written < disk_space.needed(disk_space.weights_by_part(student, PREFIXES), plan(scheme))


def test_too_little_room_is_one_sentence(student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need = disk_space.needed(disk_space.weights_by_part(student, PREFIXES), plan("int4"))
    asked = with_free(monkeypatch, need - 1)
    with pytest.raises(
        UserError, match=r"the disk of .*deep/out has 3\d MB free, but exporting .* takes about"
    ) as error:
        disk_space.check(tmp_path / "deep" / "out", student, plan("int4"), PREFIXES)
    assert "\n" not in str(error.value)
    assert asked == [tmp_path] and not list(tmp_path.iterdir())
    with_free(monkeypatch, need)
    disk_space.check(tmp_path / "deep" / "out", student, plan("int4"), PREFIXES)


def test_an_export_asks_first(student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from masters_edge.export import export_student, pipeline

    with_free(monkeypatch, 1000)
    monkeypatch.setattr(pipeline, "load", lambda folder: pytest.fail("the student was loaded"))
    with pytest.raises(UserError, match="has 0 MB free"):
        export_student(student, target="onnx", scheme="fp32", out=tmp_path / "out", samples=bundles.samples(1))
    assert not list(tmp_path.iterdir())
