"""Arrows between rooms that must never be (docs/architecture.md), read off the sources."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
TRAINING = (
    "masters_edge.training",
    "masters_edge.distill",
    "masters_edge.objective",
    "masters_edge.responses",
    "masters_edge.ablate",
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


def test_export_runtime_and_benchmarks_know_nothing_of_training() -> None:
    assert not offenders(sources("export", "masters_edge/runtime", "benchmarks"), TRAINING)


def test_what_a_device_needs_is_torch_free() -> None:
    runtime = [
        *sources("masters_edge/runtime", "masters_edge/serve"),
        ROOT / "masters_edge/bundle/manifest.py",
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
