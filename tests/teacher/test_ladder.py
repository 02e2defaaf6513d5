"""The mask ladder: what it measures against plain computations, what it chooses, and that a run measures once."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from masters_edge.common.errors import UserError
from masters_edge.data.questions import read_questions
from masters_edge.data.records import Question
from masters_edge.distill import distill
from masters_edge.engines import Request
from masters_edge.engines.transformers import Engine
from masters_edge.families import load_model, load_processor
from masters_edge.families.base import family_of
from masters_edge.families.prompts import Prompter
from masters_edge.objective.divergence import jsd
from masters_edge.recipe import load
from masters_edge.recipe.schema import Mask
from masters_edge.recipe.stages import RUNGS
from masters_edge.scoring import metrics
from masters_edge.teacher import ladder, norms
from masters_edge.teacher.chain import TeacherChain
from masters_edge.teacher.ladder import BY_ANSWERS, BY_LABELS, Ladder, Rung, climb
from masters_edge.teacher.masking import MaskedTeacher, activation_norms, mask_


@pytest.fixture
def asked(tiny_recipe: Path) -> list[Question]:
    return read_questions(load(tiny_recipe), tiny_recipe).held_out


def parts(source: Path):
    model = load_model(str(source))
    family = family_of(model.config)
    return model, family, Prompter(load_processor(str(source)), family, model.config)


def ladder_of(source: Path, questions: list[Question], ratios=RUNGS, **mask) -> Ladder:
    model, family, prompter = parts(source)
    return climb(
        model, prompter, questions,
        metric="exact_match", mask=Mask(**mask), max_new_tokens=4, batch_size=5, ratios=ratios,
    )  # fmt: skip


@pytest.mark.wide
def test_measures_accuracy_and_divergence_as_computed_one_by_one(models: Path, asked: list[Question]) -> None:
    """Labels that the teacher gets right half of the time; each question alone, MaskedTeacher, plain forward passes."""
    model, family, prompter = parts(models / "teacher")
    engine = Engine(model, prompter, 4, 1)
    own = [engine.answer([Request(q)])[0][0] for q in asked]
    questions = [
        replace(q, answer=text if n % 2 else "no such answer")
        for n, (q, text) in enumerate(zip(asked, engine.texts(own)))
    ]
    teacher, expected = MaskedTeacher(model, 0.3), []
    for ratio in (0.0, 0.1, 0.3):
        teacher.set_ratio(ratio)
        right = sum(
            metrics.score("exact_match", t, q.answer or "") for t, q in zip(engine.greedy(questions), questions)
        )
        divergences = []
        for question, response in zip(questions, own):
            logits = []
            for at in (0.0, ratio):
                teacher.set_ratio(at)
                ids, image = prompter(question)
                with torch.no_grad():
                    out = model(input_ids=torch.tensor([[*ids, *response[:-1]]]), **family.collate_images([image]))
                logits.append(out.logits[0, len(ids) - 1 :])
            divergences += jsd(logits[1], logits[0]).tolist()
        expected.append((ratio, 100 * right / len(questions), sum(divergences) / len(divergences)))
    found = ladder_of(models / "teacher", questions, (0.0, 0.1, 0.3))
    assert found.accuracy_is == BY_LABELS and len(found.rungs) <= len(expected)
    assert len(found.rungs) == 3 or found.rungs[-1].accuracy < 25
    for rung, (ratio, accuracy, divergence) in zip(found.rungs, expected):
        assert (rung.ratio, rung.accuracy) == (ratio, pytest.approx(accuracy, abs=1e-3))
        assert rung.jsd_to_itself == pytest.approx(divergence, abs=2e-5)
    assert found.rungs[0].jsd_to_itself == 0 < found.rungs[1].jsd_to_itself


def test_without_labels_its_own_unmasked_answers_count(models: Path, asked: list[Question]) -> None:
    found = ladder_of(models / "teacher", [q.without_answer() for q in asked])
    assert found.accuracy_is == BY_ANSWERS and found.rungs[0].accuracy == 100
    broken = [rung.ratio for rung in found.rungs if rung.accuracy < 50]
    assert broken in ([], [found.rungs[-1].ratio])  # climbing ended there
    with_labels = ladder_of(models / "teacher", asked)  # a random teacher gets none right
    assert with_labels.accuracy_is == BY_ANSWERS and with_labels.rungs == found.rungs


@given(st.lists(st.floats(0, 100), min_size=1, max_size=11), st.floats(0.01, 1))
def test_chooses_the_largest_ratio_that_keeps_enough(accuracies: list[float], keep: float) -> None:
    found = Ladder(tuple(Rung(r, a, 0.0) for r, a in zip(RUNGS, accuracies)), BY_LABELS)
    chosen = found.borne(keep)
    for rung in found.rungs:
        if rung.ratio == chosen:
            assert rung.accuracy >= keep * accuracies[0]
        if rung.ratio > chosen:
            assert rung.accuracy < keep * accuracies[0]


@pytest.mark.wide
def test_a_run_measures_each_teacher_once_and_follows_it(tiny_recipe: Path, models: Path, monkeypatch) -> None:
    monkeypatch.chdir(tiny_recipe.parent)
    (tiny_recipe.parent / "large").symlink_to(models / "student", target_is_directory=True)
    options = ["mask.r_max=auto", "teachers=[./teacher, ./large]", "train.phases.0.steps=12", "mask.keep=0.6"]
    run = distill(tiny_recipe, options, only_generate=True)
    written = (run.folder / "mask.json").read_bytes()
    found = json.loads(written)["teachers"]
    assert [teacher["source"] for teacher in found] == [
        str((tiny_recipe.parent / n).resolve()) for n in ("teacher", "large")
    ]
    for teacher in found:
        best = max(r["ratio"] for r in teacher["ladder"] if r["accuracy"] >= 0.6 * teacher["ladder"][0]["accuracy"])
        assert teacher["r_max"] == best and teacher["step"] == best / 4
    monkeypatch.setattr(ladder, "climb", lambda *_, **__: pytest.fail("measured again"))
    run = distill(tiny_recipe, options)
    assert run.finished and (run.folder / "mask.json").read_bytes() == written
    lines = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    ratios = {(line["teacher"], line["mask_ratio"]) for line in lines if line["step"] > 0}
    assert {r for t, r in ratios if t == 0} <= {round(found[0]["r_max"] * q / 4, 10) for q in range(5)}
    assert max(r for t, r in ratios if t == 1) == pytest.approx(found[1]["r_max"])


def test_a_damaged_or_foreign_mask_json_is_one_sentence(tmp_path: Path, tiny_recipe: Path) -> None:
    recipe = load(tiny_recipe, ["mask.r_max=auto"])
    chain = TeacherChain(["./teacher"], recipe.mask)
    entry = {"source": "./other", "r_max": 0.2, "step": 0.05}
    for text in (
        "{",
        "{}",
        '{"schema_version": 1, "teachers": [3]}',
        json.dumps({"schema_version": 9, "teachers": []}),
    ):
        (tmp_path / "mask.json").write_text(text)
        with pytest.raises(UserError, match="start again in another run_dir"):
            ladder.measure(tmp_path, recipe, chain, [])
    (tmp_path / "mask.json").write_text(json.dumps({"schema_version": 1, "teachers": [entry]}))
    with pytest.raises(UserError, match="other teachers"):
        ladder.measure(tmp_path, recipe, chain, [])
    (tmp_path / "mask.json").unlink()
    with pytest.raises(UserError, match="no question is held out"):
        ladder.measure(tmp_path, recipe, chain, [])


@pytest.mark.wide
def test_activation_norms_are_kept_with_the_run_and_used(tiny_recipe: Path, monkeypatch) -> None:
    monkeypatch.chdir(tiny_recipe.parent)
    options = ["mask.score=activation", "mask.calibration_questions=3"]
    run = distill(tiny_recipe, options, only_generate=True)
    file = norms.path(run.folder, 0)
    written = file.read_bytes()
    kept = norms.read(run.folder, 0)
    recipe = load(tiny_recipe, options)
    chain = TeacherChain([str((tiny_recipe.parent / "teacher").resolve())], recipe.mask, run=run.folder)

    expected = chain.load(0)
    questions = read_questions(recipe, tiny_recipe)
    chosen = calibration_questions(questions.train, recipe)
    engine = Engine(expected, chain.prompter(0), 4, 1)
    with activation_norms(expected) as again:
        for question in chosen:
            engine.greedy([question])
    assert kept.keys() == again.keys() and all(torch.equal(kept[name], again[name]) for name in kept)

    mask_(expected, 0.2, norms=kept)
    by_magnitude = chain.load(0)
    mask_(by_magnitude, 0.2)
    found = dict(chain.at(0, 0.2).named_parameters())
    assert all(torch.equal(found[name], p) for name, p in expected.named_parameters())
    assert any(not torch.equal(found[name], p) for name, p in by_magnitude.named_parameters())
    distill(tiny_recipe, options)
    assert file.read_bytes() == written
    file.write_bytes(written[:50])
    with pytest.raises(UserError, match="can't be read"):
        norms.read(run.folder, 0)
    with pytest.raises(ValueError, match="needs the run folder"):
        TeacherChain(chain.sources, recipe.mask).at(0, 0.2)


def calibration_questions(train: list[Question], recipe) -> list[Question]:
    from masters_edge import data

    return data.sample(train, recipe.mask.calibration_questions, recipe.seed)
