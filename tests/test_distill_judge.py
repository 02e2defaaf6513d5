"""A run whose responses a judge scores, over a real server: what it says counts, what it fails on is left out."""

import dataclasses
import json
from pathlib import Path

import pytest

from masters_edge.common.errors import UserError
from masters_edge.distill import distill
from masters_edge.responses import store
from masters_edge.rewards import accuracy
from tests.rewards.judge.server import judge_server


def overrides(url: str) -> list[str]:
    judge = f"reward.judge={{model: big, url: '{url}', retries: 0, concurrency: 64}}"
    return ["reward.metric=judge", judge, "mask.r_max=0", "train.phases.0.steps=4", "train.save_every=2"]


@pytest.mark.wide
def test_a_judge_scores_the_responses_and_its_failures_are_left_out(tiny_recipe: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tiny_recipe.parent)
    # These models seldom come to an end within four tokens, and what was cut no judge is asked about.
    unasked = accuracy._unasked
    monkeypatch.setattr(accuracy, "_unasked", lambda item: unasked(dataclasses.replace(item, cut=False)))

    def verdict(prompt: str) -> str:
        if "I can't say." in prompt:  # asked for the score in its own words
            return "I can't say."
        kind = sum(prompt.encode()) % 3  # the same prompt, the same fate
        return ("I can't say.", "Right. <score>1</score>", "Wrong. <score>0</score>")[kind]

    with judge_server(verdict) as server:
        run = distill(tiny_recipe, overrides(server.url))
        asked = len(server.asked)
    rows = [row for path in (run.folder / "phase-0-joint/responses").rglob("*.parquet") for row in store.read(path)]
    judged = [row for row in rows if row["scorer"] == "judge:big"]
    assert {row["r_acc"] for row in judged} == {None, 0.0, 1.0} and asked >= len({row["text"] for row in judged})
    summary = json.loads((run.folder / "phase-0-joint/responses.json").read_text())
    assert summary["unscored"] == sum(row["count"] for row in judged if row["r_acc"] is None) > 0
    assert "unscored (the judge failed)" in " ".join(capsys.readouterr().out.split())
    lines = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    assert any(line.get("unscored", 0) > 0 for line in lines)
    assert all(0 <= line["eval_accuracy"] <= 100 for line in lines if "eval_accuracy" in line)


def test_a_judge_that_is_not_there_is_said_before_anything_is_generated(tiny_recipe: Path, monkeypatch) -> None:
    monkeypatch.chdir(tiny_recipe.parent)
    with judge_server(lambda prompt: "") as server:
        url = server.url
    with pytest.raises(UserError, match="judge"):
        distill(tiny_recipe, overrides(url))
    assert not list(Path("runs").rglob("*.parquet"))
    with pytest.raises(UserError, match="reward.judge names none"):
        distill(tiny_recipe, ["reward.metric=judge"])
