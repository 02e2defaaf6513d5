"""Rooms and the arrows between them (docs/architecture.md), read off the sources: lazy and type-only imports count."""

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = {"masters_edge": "masters_edge", "masters_edge.export": "export", "masters_edge.benchmarks": "benchmarks"}
# From the ground up. A room imports rooms of lower floors only, so no two rooms import each other.
FLOORS = (
    ("common",),
    ("scoring", "quantization", "bundle"),
    ("recipe",),
    ("data",),
    ("families", "runtime"),
    ("run", "serve", "objective"),
    ("engines",),
    ("teacher", "rewards", "export"),
    ("responses",),
    ("training", "benchmarks"),
    ("distill",),
    ("plan", "agreement"),
    ("preview", "ablate"),
    ("doctor", "workflow"),
    ("api",),
    ("masters_edge",),
    ("cli",),
    ("__main__", "optimum_register"),
)
FLOOR = {room: number for number, floor in enumerate(FLOORS) for room in floor}
TRAINING = tuple(
    f"masters_edge.{room}"
    for room in ("objective", "engines", "teacher", "rewards", "responses", "training", "distill", "ablate")
)
HEAVY = ("torch", "transformers")


def imports(path: Path, everywhere: bool = True) -> Iterator[str]:
    """Module names that a file imports; with `everywhere` false, only when it is itself imported."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    inside = {n for f in ast.walk(tree) if isinstance(f, ast.FunctionDef) for n in ast.walk(f)}
    for node in ast.walk(tree):
        if not everywhere and node in inside:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def modules() -> dict[str, Path]:
    """Every module of the package by its name."""
    found = {}
    for package, folder in FOLDERS.items():
        for path in (ROOT / folder).rglob("*.py"):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            found[".".join((package, *(parts[:-1] if parts[-1] == "__init__" else parts)))] = path
    return found


def arrows() -> dict[str, set[str]]:
    """Which modules of the package each of them imports; `from package import module` means the module."""
    known = modules()
    found: dict[str, set[str]] = {}
    for name, path in known.items():
        named = {other for other in imports(path) if other in known}
        packages = {other for other in named if any(deeper.startswith(other + ".") for deeper in named)}
        direct = {other for other in packages if _takes_names(path, other, known)}
        found[name] = (named - packages | direct) - {name}
    return found


def _takes_names(path: Path, package: str, known: Mapping[str, Path]) -> bool:
    """Whether a file takes something from a package's own `__init__`, not only modules in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module == package:
            if any(f"{package}.{alias.name}" not in known for alias in node.names):
                return True
        elif isinstance(node, ast.Import) and any(alias.name == package for alias in node.names):
            return True
    return False


def room(module: str) -> str:
    """The room that a module stands in; a loose file of `masters_edge/` is a room of its own."""
    parts = module.split(".")
    return "optimum_register" if "optimum_register" in parts else parts[1] if len(parts) > 1 else parts[0]


def climbs(graph: Mapping[str, set[str]]) -> list[str]:
    """Imports of a room that doesn't lie lower."""
    return [
        f"{name} -> {other}"
        for name, others in sorted(graph.items())
        for other in sorted(others)
        if room(name) != room(other) and FLOOR[room(other)] >= FLOOR[room(name)]
    ]


def loops(graph: Mapping[str, set[str]]) -> list[list[str]]:
    """Modules that import each other by whatever way round (Tarjan's strongly connected components)."""
    index: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(name: str) -> None:
        index[name] = lowest[name] = len(index)
        stack.append(name)
        for other in sorted(graph.get(name, ())):
            if other not in index:
                visit(other)
                lowest[name] = min(lowest[name], lowest[other])
            elif other in stack:
                lowest[name] = min(lowest[name], index[other])
        if lowest[name] == index[name]:
            loop = stack[stack.index(name) :]
            del stack[stack.index(name) :]
            if len(loop) > 1:
                found.append(sorted(loop))

    for name in sorted(graph):
        if name not in index:
            visit(name)
    return found


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
    assert {room(name) for name in graph} <= set(FLOOR)


def test_no_room_imports_one_that_does_not_lie_lower(graph: dict[str, set[str]]) -> None:
    assert climbs(graph) == []


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
