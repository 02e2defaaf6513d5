"""Tiny real pictures, and a cache of `datasets` that goes away with the tests."""

import io
from pathlib import Path

import pytest
from PIL import Image

COLOURS = ("red", "green", "blue", "yellow")


def png(colour: str, size: int = 8) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (size, size), colour).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(autouse=True)
def datasets_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("datasets-cache"))


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder with images/red.png, green.png, blue.png, yellow.png, each one plain colour."""
    (tmp_path / "images").mkdir()
    for colour in COLOURS:
        (tmp_path / "images" / f"{colour}.png").write_bytes(png(colour))
    return tmp_path
