"""A whole tiny run of every family, from local folders and pictures of different sizes, as a recipe has it."""

import json
from pathlib import Path

import pytest

from masters_edge.distill import distill
from masters_edge.families import load_config, load_model, load_processor
from masters_edge.families.base import family_of
from masters_edge.families.prompts import Prompter
from tests import tiny, wide

RECIPE = """\
student: ./student
teachers: [./teacher]
data:
  train: {source: questions.jsonl}
  labels: 8
  held_out: 4
responses: {max_new_tokens: 4, batch_size: 32}
mask: {r_max: 0.1}
train:
  phases: [{objective: joint, steps: 9}]
  questions_per_step: 4
  learning_rate: 2.0e-3
  log_every: 1
  eval_every: 9
  threads: 1
"""
SIZES = [(64, 20), (40, 64), (100, 100), (16, 16), (33, 170)]  # width, height
COLORS = ["red", "blue", "green"]


@pytest.fixture
def recipe(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    build = tiny.FAMILIES[request.param]
    build(tmp_path / "student", seed=1)
    build(tmp_path / "teacher", seed=2)
    rows = []
    for number in range(20):
        tiny.picture(*SIZES[number % len(SIZES)], seed=number).save(tmp_path / f"{number}.png")
        question = ["what color is the shape?", "is there a triangle?"][number % 2]
        answer = [COLORS[number % 3], "yes" if number % 3 else "no"][number % 2]
        rows.append({"image": f"{number}.png", "question": question, "answer": answer})
    (tmp_path / "questions.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "tiny.yaml").write_text(RECIPE)
    return tmp_path / "tiny.yaml"


@pytest.mark.parametrize("recipe", wide.cells(tiny.FAMILIES, ["qwen3_vl"]), indirect=True)
def test_every_family_distils(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(recipe.parent)
    run = distill(recipe)
    assert run.finished
    lines = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    jsd = [line["jsd"] for line in lines if "jsd" in line]
    assert len(jsd) == 9 and sum(jsd[-3:]) < sum(jsd[:3])
    assert [line["step"] for line in lines if "eval_accuracy" in line] == [0, 9]
    assert all("reward" in line for line in lines if "jsd" in line)

    # The student loads as any checkpoint does, and its processor still fits it.
    source, before = str(run.student), str(recipe.parent / "student")
    model, processor = load_model(source), load_processor(source)
    assert model.config.model_type == load_config(before).model_type
    old, new = load_model(before).state_dict(), model.state_dict()
    changed = {name.split(".")[1] for name in new if not new[name].equal(old[name])}
    assert len(changed) >= 3, changed  # vision, projection and decoder
    inputs = processor(text=_text(model, processor), images=[tiny.picture(64, 20)], return_tensors="pt")
    assert model.generate(**inputs, max_new_tokens=2, do_sample=False).shape[1] > inputs["input_ids"].shape[1]


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides", [["train.precision=bf16"], ["train.gradient_checkpointing=true"], ["train.lora={}"]]
)
@pytest.mark.parametrize("recipe", tiny.FAMILIES, indirect=True)
def test_every_family_distils_in_every_way(recipe: Path, overrides: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(recipe.parent)
    run = distill(recipe, [*overrides, "train.phases.0.steps=4", "train.eval_every=4"])
    losses = [json.loads(line)["jsd"] for line in run.metrics.read_text().splitlines() if "jsd" in json.loads(line)]
    assert len(losses) == 4 and all(0 < loss < 0.7 for loss in losses)
    load_model(str(run.student))


def _text(model, processor) -> str:
    from masters_edge.data.records import Question

    prompter = Prompter(processor, family_of(model.config), model.config)
    return prompter.text(Question("q", "what is in this image?", b"", "q"))
