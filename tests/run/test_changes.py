"""What may change between two calls that fill the same run folder: what the student doesn't depend on."""

from pathlib import Path
from typing import Any

import pytest

from masters_edge.common.errors import UserError
from masters_edge.recipe import load
from masters_edge.run import changes
from masters_edge.run import folder as runs

PRINTS: dict[str, Any] = {"student": "s", "teachers": ["t"], "data": "d"}
JUDGED = ["reward.metric=judge", "reward.judge={model: j, url: 'http://h/v1'}"]
SERVER = ["responses.teacher_engine={url: 'http://h/v1', model: 'm-{ratio}'}"]


@pytest.mark.parametrize(
    ("overrides", "kind"),
    [
        # memory and speed
        (["responses.batch_size=8"], "harmless"),
        (["train.gradient_checkpointing=true"], "harmless"),
        (["train.questions_per_device=1"], "rounding"),
        (["train.threads=2"], "rounding"),
        (["train.liger=true"], "rounding"),
        (["responses.vllm.gpu_memory=0.5"], "rounding"),
        ([*SERVER, "responses.teacher_engine.concurrency=2"], "harmless"),
        ([*SERVER, "responses.teacher_engine.timeout_s=2"], "harmless"),
        ([*JUDGED, "reward.judge.batch_size=2"], "harmless"),
        # what is told, and how often
        (["train.log_every=2"], "harmless"),
        (["train.eval_every=50"], "harmless"),
        (["train.save_every=4"], "harmless"),
        (["train.trackers=[none]"], "harmless"),
        # never read by training
        (["data.test.split=validation"], "harmless"),
        (["data.test=null"], "harmless"),
        # moved: the fingerprints say that it is the same
        (["student=./moved"], None),
        (["teachers=[./moved]"], None),
        (["data.train.source=./moved.jsonl"], None),
        (["bench.threads=1", "export.targets=[gguf]", "run_dir=elsewhere", "quantize.method=gptq"], None),
        # another student
        (["seed=3"], "refused"),
        (["train.learning_rate=0.5"], "refused"),
        (["train.phases.0.steps=11"], "refused"),
        (["train.questions_per_step=8"], "refused"),
        (["train.precision=bf16"], "refused"),
        (["train.teacher_logits=cached"], "refused"),
        (["responses.questions_per_shard=4"], "refused"),
        (["responses.temperature=0.5"], "refused"),
        (["data.labels=10"], "refused"),
        (["mask.exclude=[a]"], "refused"),
        ([*JUDGED, "reward.judge.model=other"], "refused"),
        ([*SERVER, "responses.teacher_engine.model=other-{ratio}"], "refused"),
        (["quantize.qat={share: 0.5}"], "refused"),
    ],
)
def test_each_change_is_of_a_kind(tiny_recipe: Path, overrides: list[str], kind: str | None) -> None:
    asked = [one for one in overrides if one in (*JUDGED, *SERVER)]
    found = changes.between(load(tiny_recipe, asked), load(tiny_recipe, overrides), PRINTS, PRINTS)
    every = {name: getattr(found, name) for name in ("refused", "rounding", "harmless")}
    last = overrides[-1].partition("=")[0]
    assert {name for name, keys in every.items() if keys} == ({kind} if kind else set())
    assert not kind or any(key.startswith(last) for key in every[kind])


def test_other_models_and_data_are_refused_whatever_their_names(tiny_recipe: Path) -> None:
    recipe = load(tiny_recipe)
    for name in PRINTS:
        assert changes.between(recipe, recipe, PRINTS, PRINTS | {name: "other"}).refused == [name]


def test_going_on_writes_down_what_changed(tiny_recipe: Path, capsys: pytest.CaptureFixture) -> None:
    where = f"run_dir={tiny_recipe.parent / 'run'}"
    recipe = load(tiny_recipe, [where, "train.threads=auto"])
    run = runs.open_run(recipe, tiny_recipe, PRINTS, 2)
    before = run.info()
    assert runs.open_run(recipe, tiny_recipe, PRINTS, 7).info() == before  # `auto` keeps what it took
    changed = load(tiny_recipe, [where, "train.threads=3", "train.log_every=2", "data.test=null"])
    assert runs.open_run(changed, tiny_recipe, PRINTS, 3, helping=True).recipe() == recipe
    capsys.readouterr()
    assert runs.open_run(changed, tiny_recipe, PRINTS, 3).recipe() == changed
    assert run.info() == before | {"threads": 3}
    said = " ".join(capsys.readouterr().out.split())
    assert said.startswith("train.threads changed since the run began: the student is the same but for rounding")
    with pytest.raises(UserError, match=r"holds a run with another train\.learning_rate and seed; set run_dir"):
        runs.open_run(load(tiny_recipe, [where, "seed=3", "train.learning_rate=1"]), tiny_recipe, PRINTS, 3)
