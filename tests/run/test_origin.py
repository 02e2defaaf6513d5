"""Where a student comes from: read off its run, its checkpoints' cards and licence files, and nothing made up."""

import json
from datetime import datetime, timezone
from pathlib import Path

import pytest

from masters_edge.recipe import dump, load
from masters_edge.run import origin
from masters_edge.run.folder import Run
from tests.benchmarks.sample import measurement

APACHE = "---\nlicense: apache-2.0\ntags: [x]\n---\n# A model\n"


@pytest.fixture
def run(tiny_recipe: Path) -> Run:
    """A finished run's files, without the training."""
    folder = tiny_recipe.parent / "runs" / "tiny"
    (folder / "student").mkdir(parents=True)
    (folder / "recipe.yaml").write_text(dump(load(tiny_recipe, ["mask.r_max=0.1", "train.phases.0.steps=30"])))
    (folder / "run.json").write_text(json.dumps({"schema_version": 1, "recipe": str(tiny_recipe)}))
    (folder / "finished.json").write_text(json.dumps({"steps": 30, "ended": "2026-01-02T00:00:00Z"}))
    lines = [{"step": 0, "eval_accuracy": 20.0}, {"step": 10, "loss": 1.0}, {"step": 30, "eval_accuracy": 75.0}]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return Run(folder)


def licensed(folder: Path, link: Path) -> None:
    """A copy of the link's checkpoint folder with a README that states a licence."""
    link.unlink()
    folder.mkdir()
    (folder / "README.md").write_text(APACHE)
    link.symlink_to(folder, target_is_directory=True)


def test_a_run_says_how_its_student_was_made(run: Run, tiny_recipe: Path) -> None:
    found = origin.of(run.student, run)
    assert (found.name, found.recipe, found.seed, found.steps) == ("tiny", "tiny.yaml", 0, 30)
    assert [teacher.name for teacher in found.teachers] == ["teacher"]
    assert found.student.licence == found.teachers[0].licence == "not stated"
    assert found.training["mask"] == "teacher: its smallest weights masked at 0.10 -> 0.05 -> 0.00"
    assert found.training["phases"] == "joint for 30 steps, 4 questions a step"
    assert "labels of 20 questions" in found.training["data"] and "at most 4 tokens" in found.training["responses"]
    assert [(score.of, score.per_cent) for score in found.scores] == [("student", 75.0)]
    assert str(tiny_recipe.parent) not in found.model_dump_json()


def test_measured_scores_count_when_they_are_of_this_student(run: Run) -> None:
    from masters_edge.benchmarks import results, scores

    new = datetime(2026, 1, 3, tzinfo=timezone.utc)
    kept = measurement(name="student after", role="student after", kind="checkpoint", started=new, ended=new)
    old = datetime(2026, 1, 1, tzinfo=timezone.utc)
    stale = measurement(name="teacher", role="teacher", kind="checkpoint", started=old, ended=old)
    bundle = measurement(name="int4", role="exported", kind="bundle", started=new, ended=new)
    path = run.folder / "bench" / "results.json"
    path.parent.mkdir()
    results.write(path, results.Results(measurements=(kept, stale, bundle)))
    found = origin.of(run.student, run, scores.of_run(run))
    assert [score.of for score in found.scores] == ["student", "student after"]
    path.write_text("{")
    assert scores.of_run(run) == []


def test_a_measured_mask_comes_from_the_run(run: Run, tiny_recipe: Path) -> None:
    recipe = load(tiny_recipe, ["mask.r_max=auto"])
    (run.folder / "recipe.yaml").write_text(dump(recipe))
    (run.folder / "mask.json").write_text(json.dumps({"teachers": [{"r_max": 0.4, "step": 0.1}]}))
    assert "0.40 -> 0.30 -> 0.20 -> 0.10 -> 0.00" in origin.of_run(run).training["mask"]


def test_without_a_teacher_none_is_named(run: Run, tiny_recipe: Path) -> None:
    recipe = load(tiny_recipe, ["train.phases.0.objective=labels"])
    (run.folder / "recipe.yaml").write_text(dump(recipe))
    found = origin.of_run(run)
    assert not found.teachers and not {"mask", "responses", "reward"} & set(found.training)


def test_licences_are_the_checkpoints_own(run: Run, tiny_recipe: Path, tmp_path: Path) -> None:
    licensed(tmp_path / "with-card", tiny_recipe.parent / "teacher")
    assert origin.of_run(run).teachers[0].licence == "apache-2.0"
    (tiny_recipe.parent / "teacher").unlink()
    assert origin.of_run(run).teachers[0].licence == "not known: its folder is gone"


def test_a_hub_id_that_cannot_be_reached_states_nothing(run: Run, tiny_recipe: Path) -> None:
    recipe = load(tiny_recipe, ["teachers.0=masters-edge-tests/no-such-model"])
    (run.folder / "recipe.yaml").write_text(dump(recipe))
    teacher = origin.of_run(run).teachers[0]
    assert (teacher.name, teacher.licence, teacher.hub) == ("masters-edge-tests/no-such-model", "not stated", True)


@pytest.mark.parametrize(
    ("name", "text", "licence"),
    [
        ("README.md", APACHE, "apache-2.0"),
        (
            "README.md",
            "---\nlicense: other\nlicense_name: own\nlicense_link: https://x.y\n---\n",
            "other (own, https://x.y)",
        ),
        ("README.md", "---\nlicense: [mit, cc-by-4.0]\n---\n", "mit, cc-by-4.0"),
        ("README.md", "# license: mit\n", "not stated"),
        ("README.md", "---\nlicense: [mit\n---\n", "not stated"),
        ("LICENSE", "\n  MIT License\n\nCopyright", "see its file LICENSE (MIT License)"),
        ("notes.txt", "MIT License", "not stated"),
    ],
)
def test_licence_of_a_folder(tmp_path: Path, name: str, text: str, licence: str) -> None:
    (tmp_path / name).write_text(text)
    assert origin.licence(tmp_path) == licence


def test_another_student_than_the_runs_is_a_bare_folder(run: Run, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    for home in (run, None):
        found = origin.of(other, home)
        assert (found.name, found.recipe, found.teachers, found.scores) == ("other", None, [], [])


DOUBLED = "".join(f"{chr(98 + i)}: &{chr(98 + i)} [*{chr(97 + i)}, *{chr(97 + i)}]\n" for i in range(24))
CARDS = {
    "aliases": (f"a: &a [x, x]\n{DOUBLED}license: *y\n", "not stated"),
    "escapes": ('license: "mit\\e[2J\\e]0;PWNED"', "mit [2J ]0;PWNED"),
    "a book": ("license: " + "x" * 9999, "x" * 299 + "…"),
    "depth": ("license: " + "[" * 5000, "not stated"),
    "several": ("license: [mit, apache-2.0]\nlicense_name: own", "mit, apache-2.0 (own)"),
}  # fmt: skip


@pytest.mark.parametrize("case", CARDS)
def test_a_card_of_a_stranger(case: str, tmp_path: Path) -> None:
    text, stated = CARDS[case]
    (tmp_path / "README.md").write_text(f"---\n{text}\n---\n")
    assert origin.licence(tmp_path) == stated
