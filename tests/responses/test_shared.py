"""Runs that share their responses: what one made, another reads, whatever labels and rewards it has."""

from pathlib import Path

import numpy as np
import pytest

from masters_edge.distill import distill
from masters_edge.responses import store


def shards(folder: Path, kind: str) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.glob(f"{kind}-*/*.parquet")}


def content(paths) -> list[dict]:
    return [row for path in sorted(paths) for row in store.read(path)]


def same(ours: list[dict], theirs: list[dict]) -> bool:
    return len(ours) == len(theirs) and all(
        np.array_equal(a[name], b[name]) for a, b in zip(ours, theirs) for name in a
    )


@pytest.mark.wide
def test_what_one_run_made_another_reads(tiny_recipe: Path, monkeypatch) -> None:
    monkeypatch.chdir(tiny_recipe.parent)
    shared = Path("shared")
    fixed = ["mask.r_max=0", f"responses.shared={shared}"]
    distill(tiny_recipe, ["run_dir=first", *fixed])
    drawn, scored = shards(shared, "drawn"), shards(shared, "responses")
    assert drawn and scored and not list(Path("first").rglob("responses/**/*.parquet"))
    plain = distill(tiny_recipe, ["run_dir=plain", "mask.r_max=0"])
    assert same(content(scored), content((plain.folder / "phase-0-joint/responses").rglob("*.parquet")))

    distill(tiny_recipe, ["run_dir=policy", *fixed, "reward.policy=positive", "reward.distillation=false"])
    assert shards(shared, "responses") == scored  # the same shards, not written again

    distill(tiny_recipe, ["run_dir=labels", *fixed, "data.labels=all"])
    assert shards(shared, "drawn") == drawn
    others = {path for path in shards(shared, "responses") if path not in scored}
    assert others and {row["label_source"] for row in content(others)} == {"label"}

    for value in ("seed=1", "responses.temperature=0.5", "responses.teacher=2", "student=./teacher"):
        before = len(shards(shared, "drawn"))
        distill(tiny_recipe, [f"run_dir={value.replace('/', '-')}", *fixed, value], only_generate=True)
        assert len(shards(shared, "drawn")) > before, value
