"""One tokenizer, heads padded to different sizes; another tokenizer or template is refused before weights are read."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from masters_edge import families
from masters_edge.common.errors import UserError
from masters_edge.distill import distill
from masters_edge.responses import store


def logged(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.wide
@pytest.mark.parametrize("logits", ["live", "cached"])
def test_a_teacher_with_a_longer_head_says_the_same(tiny_recipe: Path, monkeypatch, logits: str) -> None:
    monkeypatch.chdir(tiny_recipe.parent)
    source = tiny_recipe.parent / "teacher"
    shutil.copytree(source, "padded")
    model = families.load_model(str(source))
    model.resize_token_embeddings(model.get_output_embeddings().out_features + 24)
    with torch.no_grad():
        model.get_output_embeddings().weight[-24:] = 3.0  # would be the likeliest tokens, if they were tokens
    model.save_pretrained("padded")
    runs = {}
    for teacher in ("teacher", "padded"):
        options = [
            f"teachers=[./{teacher}]",
            f"train.teacher_logits={logits}",
            "mask.r_max=0",
            f"run_dir={teacher}-run",
        ]
        options.append("responses.teacher=0")  # what is said may differ: generation knows the padded tokens
        runs[teacher] = distill(tiny_recipe, [*options, "responses.student=8", "reward.unlabelled=none"]).folder
    same, padded = ([line["jsd"] for line in logged(runs[name]) if "jsd" in line] for name in ("teacher", "padded"))
    assert same == pytest.approx(padded, rel=1e-4)


@pytest.mark.wide
def test_stored_logits_train_nearly_as_a_live_teacher_and_say_so_in_the_store(tiny_recipe: Path, monkeypatch) -> None:
    monkeypatch.chdir(tiny_recipe.parent)
    curves = {}
    for name, options in {
        "live": [],
        "all": ["train.teacher_logits=cached", "train.teacher_top_k=100000"],
        "few": ["train.teacher_logits=cached", "train.teacher_top_k=4"],
    }.items():
        run = distill(tiny_recipe, [*options, f"run_dir={name}"]).folder
        curves[name] = [line["jsd"] for line in logged(run) if "jsd" in line]
        rows = [row for path in (run / "phase-0-joint/responses").rglob("*.parquet") for row in store.read(path)]
        for row in rows:
            tokens = len(row["token_ids"])
            if name == "live":
                assert row["top_ids"] is None
            else:
                assert len(row["rest"]) == tokens and len(row["top_ids"]) == len(row["top_log_probs"])
            if name == "few":
                assert len(row["top_ids"]) == 4 * tokens
    assert curves["all"] == pytest.approx(curves["live"], rel=5e-3)  # float16 in the store
    assert all(few <= live + 1e-3 for few, live in zip(curves["few"], curves["live"]))


@pytest.mark.wide
def test_training_on_stored_logits_loads_no_teacher(tiny_recipe: Path, monkeypatch) -> None:
    """Once the responses are there, the teacher's weights may be gone; its name and fingerprint stay known."""
    monkeypatch.chdir(tiny_recipe.parent)
    from masters_edge.teacher import chain as teachers

    distill(tiny_recipe, ["train.teacher_logits=cached"], only_generate=True)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a teacher was loaded")

    monkeypatch.setattr(teachers, "load_model", refuse)
    assert distill(tiny_recipe, ["train.teacher_logits=cached"]).finished


def test_another_chat_template_is_refused_with_both_named(tiny_recipe: Path, monkeypatch) -> None:
    monkeypatch.chdir(tiny_recipe.parent)
    shutil.copytree(tiny_recipe.parent / "teacher", "stranger")
    template = Path("stranger/chat_template.jinja")
    template.write_text(template.read_text() + "\n")
    with pytest.raises(UserError, match=r"of student .*student and teacher .*stranger differ in: chat template"):
        distill(tiny_recipe, ["teachers=[./stranger]"])
    assert not Path("runs").exists()
