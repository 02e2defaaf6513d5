"""Arrows between rooms that must never be (docs/architecture.md), read off the sources."""

from pathlib import Path

import pytest

from tests import rooms
from tests.rooms import FLOOR, ROOT, arrows, climbs, imports, loops, room

TRAINING = tuple(
    f"masters_edge.{room}"
    for room in ("objective", "engines", "teacher", "rewards", "responses", "training", "distill", "ablate")
)
HEAVY = ("torch", "transformers")


def offenders(files: list[Path], forbidden: tuple[str, ...], everywhere: bool = True) -> list[str]:
    assert files
    return [
        f"{path.relative_to(ROOT)}: {name}"
        for path in files
        for name in imports(path, everywhere)
        if any(name == f or name.startswith(f + ".") for f in forbidden)
    ]


def sources(*folders: str) -> list[Path]:
    return [path for folder in folders for path in (ROOT / folder).rglob("*.py")]


@pytest.fixture(scope="module")
def graph() -> dict[str, set[str]]:
    return arrows()


def test_every_room_has_its_floor(graph: dict[str, set[str]]) -> None:
    assert {room(name) for name in graph} == set(FLOOR)


def test_no_room_imports_one_that_does_not_lie_lower(graph: dict[str, set[str]]) -> None:
    assert climbs(graph) == []


def test_the_picture_is_drawn_from_the_tree(graph: dict[str, set[str]]) -> None:
    page = rooms.PAGE.read_text(encoding="utf-8")
    assert page == rooms.drawn(page, graph), "run: python -m tests.rooms"


def test_no_files_import_each_other(graph: dict[str, set[str]]) -> None:
    assert loops(graph) == []


def test_a_climb_and_a_loop_would_be_seen(graph: dict[str, set[str]]) -> None:
    up = {**graph, "masters_edge.common.files": {"masters_edge.training.phase"}}
    assert climbs(up) == ["masters_edge.common.files -> masters_edge.training.phase"]
    assert any("masters_edge.common.files" in loop for loop in loops(up))
    assert "masters_edge.bundle.manifest" in graph["masters_edge.runtime.student"]  # a lazy import
    assert "masters_edge.export.graphs" in graph["masters_edge.export.targets"]  # for types alone


def test_export_runtime_and_benchmarks_know_nothing_of_training() -> None:
    assert not offenders(sources("export", "masters_edge/runtime", "benchmarks"), TRAINING)


def test_what_a_device_needs_is_torch_free() -> None:
    runtime = [
        *sources("masters_edge/runtime", "masters_edge/serve"),
        *sources("masters_edge/bundle"),
        ROOT / "masters_edge/common/cpu.py",
    ]
    # ExecuTorch's own Python runtime speaks torch tensors: its backend imports torch when it runs, and no earlier.
    assert not offenders([path for path in runtime if path.name != "executorch.py"], HEAVY)
    assert not offenders(runtime, HEAVY, everywhere=False)
    assert not offenders([ROOT / "masters_edge/cli.py", ROOT / "masters_edge/workflow.py"], HEAVY)
    measuring = [path for path in sources("benchmarks") if path.name != "pytorch.py"]
    assert not offenders(measuring, HEAVY, everywhere=False)


def test_no_target_imports_another() -> None:
    targets = [path for path in sources("export/targets") if path.name != "__init__.py"]
    for path in targets:
        others = tuple(f"masters_edge.export.targets.{other.stem}" for other in targets if other != path)
        assert not others or not offenders([path], others)
