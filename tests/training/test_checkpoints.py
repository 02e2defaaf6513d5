"""What a killed run goes on from: the newest checkpoint that is what was written."""

from pathlib import Path

import pytest

from masters_edge.common import seals
from masters_edge.training import checkpoints
from tests.common.test_files import flip


@pytest.mark.parametrize(
    ("damaged", "torn", "kept"),
    [
        ([], [], 6),
        ([6], [], 4),
        ([6], [4], 2),
        ([], [6], 4),
        ([4], [], 6),
        ([2, 4, 6], [], None),
        ([], [2, 4, 6], None),
    ],
)
def test_the_newest_whole_checkpoint(
    tmp_path: Path, damaged: list[int], torn: list[int], kept: int | None, capsys: pytest.CaptureFixture
) -> None:
    for step in (2, 4, 6):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        (folder / "optimizer.pt").write_bytes(bytes(range(100)))
        seals.seal(folder)
        if step in damaged:
            flip(folder / "optimizer.pt")
        if step in torn:
            (folder / seals.MARK).unlink()
    found = checkpoints.last_checkpoint(tmp_path)
    assert found == (None if kept is None else tmp_path / f"checkpoint-{kept}")
    assert not any((tmp_path / f"checkpoint-{step}").exists() for step in torn)  # nothing half is ever gone on from
    said = " ".join(capsys.readouterr().out.split())
    newer = [step for step in damaged if kept is None or step > kept]
    assert said.count("is damaged (optimizer.pt is not what was written) and was removed") == len(newer)
    assert ("the phase begins anew" in said) == (bool(newer) and kept is None)
