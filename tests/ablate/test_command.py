"""The whole command on tiny models: what it writes, that it goes on after a kill, and what it refuses."""

import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from masters_edge.ablate import command, evaluate
from masters_edge.ablate.experiments import Experiment
from masters_edge.ablate.running import Outcomes, choose
from masters_edge.common.errors import UserError
from masters_edge.recipe import load
from masters_edge.run.folder import Run
from tests import tiny

ARGUMENTS = ["train.phases.0.steps=5", "data.limit=null", "--seeds", "2", "--group", "responses", "--jobs", "2"]


@pytest.fixture
def own_recipe(tiny_recipe: Path) -> Path:
    """The tiny recipe over a few questions of its own, which are read in no time."""
    home = tiny_recipe.parent
    for name, count in (("train", 60), ("test", 20)):
        rows = []
        for number in range(count):
            tiny.picture(32, 32, seed=number).save(home / f"{name}-{number}.png")
            rows.append({"image": f"{name}-{number}.png", "question": "what color is it?", "answer": "red"})
        (home / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    text = tiny_recipe.read_text()
    for name in ("train", "test"):
        text = text.replace(f"{{source: easy-vqa, split: {name}}}", f"{{source: {name}.jsonl}}")
    tiny_recipe.write_text(text)
    return tiny_recipe


def start(recipe: Path, *arguments: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "masters_edge", "ablate", recipe.name, *arguments],
        cwd=recipe.parent,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def students(out: Path) -> dict[str, str]:
    found = (out / "arms").glob("*/student/model.safetensors")
    return {path.parts[-3]: hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


def findings(out: Path) -> list[dict]:
    """All that doesn't depend on how long it took."""
    groups = json.loads((out / "ablation.json").read_text())["groups"]
    return [
        {name: value for name, value in arm.items() if not name.endswith("seconds")}
        for group in groups
        for arm in group["arms"]
    ]


@pytest.mark.wide
def test_an_ablation_from_end_to_end(own_recipe: Path, monkeypatch, capsys) -> None:
    out = own_recipe.parent / "out"
    in_the_way = out / "arms" / "reward-1" / "strange"
    in_the_way.parent.mkdir(parents=True)
    in_the_way.touch()  # so that one arm fails, and the others go on
    output, _ = (process := start(own_recipe, *ARGUMENTS, "--out", "out")).communicate()
    assert process.returncode == 2, output
    assert "1 of the trainings failed, the first of them reward-1: " in output and "Traceback" not in output
    assert "is not empty and no run folder" in (out / "ablation.md").read_text()

    in_the_way.unlink()
    monkeypatch.chdir(own_recipe.parent)
    asked = command.AblateOptions(Path(own_recipe.name), tuple(ARGUMENTS[:2]), 2, 1, Path("out"), groups=("responses",))
    assert command.ablate(asked) == {}
    assert "7 of 8 trainings and measurements are done already" in " ".join(capsys.readouterr().out.split())
    assert {path.name for path in out.iterdir() if path.is_file() and path.name != ".lock"} == {
        "ablation.json",
        "ablation.md",
        "ablation.png",
    }
    teacher = own_recipe.parent / "teacher"
    checkpoint = teacher.resolve()
    teacher.unlink()
    teacher.symlink_to(own_recipe.parent / "student")
    with pytest.raises(UserError, match="was made with another ./teacher than the one there is now"):
        command.ablate(asked)
    teacher.unlink()
    teacher.symlink_to(checkpoint)
    found = json.loads((out / "ablation.json").read_text())
    assert found["command"].startswith("masters-edge ablate tiny.yaml train.phases.0.steps=5 data.limit=null --seeds 2")
    assert found["test"]["asked"] == 20 and len(found["test"]["sha256"]) == 64
    assert [model["name"] for model in found["models"]] == ["untouched student", "teacher"]
    (arms,) = [group["arms"] for group in found["groups"]]
    assert [arm["steps"] for arm in arms] == [5] * 3 and [arm["sequences"] for arm in arms] == [32] * 3
    assert all(set(arm["seeds"]) == {"0", "1"} and arm["n"] == 2 and arm["held_out"] is not None for arm in arms)
    assert not any(arm["failed"] for arm in arms)
    # Six trainings of different students; the recipe in each run folder says the arm's own values.
    assert len(set(students(out).values())) == 6
    recipe = Run(out / "arms" / "8-of-the-student-0-of-the-teacher-1").recipe()
    assert (recipe.seed, recipe.responses.student, recipe.responses.teacher) == (1, 8, 0)
    kept = json.loads((out / "arms" / "reward-0" / "test.json").read_text())
    assert len(kept["test"]["right"]) == 20 and kept["test"]["accuracy"] == 5 * kept["test"]["right"].count("1")
    assert not list(out.rglob("checkpoints")) and "responses, mask 0.20" in (out / "arms/reward-0.log").read_text()


@pytest.mark.slow
def test_killed_and_resumed_it_finds_the_same(own_recipe: Path) -> None:
    home = own_recipe.parent
    output, _ = (process := start(own_recipe, *ARGUMENTS, "--out", "whole")).communicate()
    assert process.returncode == 0, output
    for enough in (1, 3, 5):  # trainings begun when it is killed
        process = start(own_recipe, *ARGUMENTS, "--out", "killed")
        while process.poll() is None and len(list((home / "killed").glob("arms/*/recipe.yaml"))) < enough:
            time.sleep(0.01)
        assert process.poll() is None
        process.kill()
        process.communicate()
    output, _ = (process := start(own_recipe, *ARGUMENTS, "--out", "killed")).communicate()
    assert process.returncode == 0, output
    assert students(home / "killed") == students(home / "whole")
    assert findings(home / "killed") == findings(home / "whole")


def test_accuracy_is_the_share_of_right_greedy_answers(tiny_recipe: Path) -> None:
    from dataclasses import replace

    from masters_edge.data.questions import read_questions
    from masters_edge.engines.transformers import Engine
    from masters_edge.families import load_model
    from masters_edge.families.prompts import Prompter

    recipe, student = load(tiny_recipe), str(tiny_recipe.parent / "student")
    asked = read_questions(recipe, tiny_recipe).train[:8]
    prompter = Prompter.load(student)
    said = Engine(load_model(student).float(), prompter, 4, 3).greedy(asked)
    assert all(said) and len(set(said)) > 1
    labelled = [replace(q, answer=text if i < 6 else "something else") for i, (q, text) in enumerate(zip(asked, said))]
    assert evaluate._scores(student, recipe, labelled, "exact_match") == [1.0] * 6 + [0.0] * 2


def test_scores_are_kept_a_character_each_where_they_can_be() -> None:
    assert evaluate.compact([1.0, 0.0, 1.0]) == "101"
    assert evaluate.compact([1.0, 0.66666]) == [1.0, 0.6667]


def test_who_shares_responses_waits_for_them() -> None:
    first, same, other = (
        Experiment(name, 0, name, name, makes=makes) for name, makes in (("a", "x"), ("b", "x"), ("c", "y"))
    )
    later = Experiment("d", 0, "d", "d", makes="z", needs="c-0")
    waiting = [same, later, other]
    assert choose(waiting, {"x"}, {}) == other
    assert choose(waiting, set(), {}) == same
    assert choose([same, later], {"x"}, {}) == same  # nothing better to do: it helps
    assert choose([later], set(), {}) is None and choose([later], set(), {"c-0": {}}) == later
    assert Outcomes().found == {} and first not in waiting


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"groups": ("masks", "masts")}, "--group masts: there is no such group"),
        ({"groups": ("masks",), "arms": ("paper",)}, "--arm paper: no arm is named so; there are: r_max 0.00; "),
        ({"groups": ("chain",)}, "name the smaller ones with --chain"),
        ({"chain": ("./lost",)}, "there is no checkpoint folder ./lost"),
        ({"overrides": ("run_dir=x",)}, "an ablation keeps runs and responses below --out"),
        ({"overrides": ("reward.polcy=paper",)}, "did you mean policy"),
    ],
)
def test_what_can_t_be_is_refused_before_anything_is_written(tiny_recipe: Path, changed: dict, sentence: str) -> None:
    out = tiny_recipe.parent / "out"
    asked = {"recipe": tiny_recipe, "overrides": (), "seeds": 1, "jobs": 1, "out": out, **changed}
    with pytest.raises(UserError, match=sentence):
        command.ablate(command.AblateOptions(**asked))
    assert not out.exists()


def test_a_folder_of_another_ablation_is_refused(tiny_recipe: Path) -> None:
    experiment = Experiment("reward", 0, "+ reward", "digest")
    out = tiny_recipe.parent / "out"
    assert evaluate.result(experiment, out, None) is None
    place = experiment.folder(out) / "test.json"
    place.parent.mkdir(parents=True)
    place.write_text(json.dumps({"schema_version": 1, "digest": "another", "questions": None}))
    with pytest.raises(UserError, match="result of another recipe than this ablation's arm '\\+ reward'"):
        evaluate.result(experiment, out, None)
    place.write_text(json.dumps({"schema_version": 1, "digest": "digest", "questions": 40, "fingerprints": {}}))
    assert evaluate.result(experiment, out, None) is None and evaluate.result(experiment, out, 40)["questions"] == 40


def test_a_dry_run_says_what_would_be_and_writes_nothing(tiny_recipe: Path, capsys) -> None:
    asked = command.AblateOptions(tiny_recipe, (), 3, 1, tiny_recipe.parent / "out", groups=("components", "masks"))
    command.ablate(asked, dry_run=True)
    shown = " ".join(capsys.readouterr().out.split())
    assert "labels only: 10 steps of 32 sequences" in shown and "untouched: measured as it is" in shown
    assert "12 arms, 9 of them different; with 3 seeds 27 trainings, which share 21 sets of responses" in shown
    assert not asked.out.exists()
