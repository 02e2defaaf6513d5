from pathlib import Path
from typing import Any

import pytest

from masters_edge.benchmarks import Subject, bench, machine, results
from masters_edge.benchmarks.results import Results
from masters_edge.benchmarks.suites import Suite
from masters_edge.errors import UserError
from tests.benchmarks import fakes


def subjects(folder: Path, *names: str, **behaviour: Any) -> list[Subject]:
    for name in names:
        if not (folder / name).exists():
            fakes.make(folder / name, **behaviour)
    return [Subject(name, "exported", folder / name, "fake") for name in names]


class Runs:
    """Calls bench and remembers which subjects were reused."""

    def __init__(self, suite: Suite, folder: Path) -> None:
        self.suite, self.folder, self.out = suite, folder, folder / "out" / "results.json"
        self.reused: list[str] = []

    def __call__(self, *names: str, **options: Any) -> Results:
        self.reused = []
        settings = {"threads": 1, "latency_questions": 4, "questions": 8, "out": self.out} | options
        found = subjects(self.folder, *names)
        return bench(found, self.suite, on_reused=lambda s, m: self.reused.append(s.name), **settings)


@pytest.fixture
def run(fake_kind: str, suite: Suite, tmp_path: Path) -> Runs:
    # asked.txt is the fake's own log and would change its fingerprint
    return Runs(suite, tmp_path)


@pytest.fixture(autouse=True)
def steady_fingerprint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fakes, "fingerprint", lambda path: (Path(path) / "behaviour.json").read_text().encode().hex())


def test_what_is_unchanged_is_reused_and_said(run: Runs) -> None:
    first = run("a", "b")
    assert [m.name for m in first.measurements] == ["a", "b"] and run.reused == []
    assert run("a", "b") == first and run.reused == ["a", "b"]
    assert results.read(run.out) == first


@pytest.mark.parametrize(
    "change",
    [{"threads": 2}, {"questions": 9}, {"latency_questions": 5}, {"reuse": False}],
    ids=lambda c: next(iter(c)),
)
def test_other_conditions_are_measured_again(run: Runs, change: dict[str, Any]) -> None:
    first = run("a")
    again = run("a", **change)
    assert run.reused == [] and len(again.measurements) == 1
    assert again.measurements[0].started > first.measurements[0].started


def test_changed_files_machines_and_libraries_are_measured_again(run: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    run("a", "b", "old_numpy")
    assert run("a", "b", "old_numpy").measurements and run.reused == ["a", "b"]
    fakes.make(run.folder / "a", load_s=0)
    run("a", "b")
    assert run.reused == ["b"]
    here = machine.describe()
    monkeypatch.setattr(machine, "describe", lambda: here | {"cpu": "Another CPU"})
    run("a", "b")
    assert run.reused == []


def test_a_reused_measurement_takes_what_the_caller_now_says(run: Runs) -> None:
    run("a")
    subject = Subject("a", "student after", run.folder / "a", "fake", {"steps": 7, "seconds": 3.0})
    again = bench([subject], run.suite, threads=1, latency_questions=4, questions=8, out=run.out)
    assert (again.measurements[0].role, again.measurements[0].training.steps) == ("student after", 7)


def test_what_was_measured_is_kept_when_the_next_one_fails(run: Runs) -> None:
    fakes.make(run.folder / "bad", die_after=1)
    with pytest.raises(UserError, match="measuring bad .* stopped: RuntimeError: out of ideas"):
        run("a", "bad", "c")
    assert [m.name for m in results.read(run.out).measurements] == ["a"]
    fakes.make(run.folder / "bad")
    assert [m.name for m in run("a", "bad", "c").measurements] == ["a", "bad", "c"] and run.reused == ["a"]


def test_measurements_of_other_subjects_stay(run: Runs) -> None:
    run("a")
    assert [m.name for m in run("b").measurements] == ["a", "b"]


def test_a_damaged_results_file_is_refused_and_left_alone(run: Runs) -> None:
    run.out.parent.mkdir()
    run.out.write_text("{")
    with pytest.raises(UserError, match="damaged"):
        run("a")
    assert run.out.read_text() == "{"


def test_senseless_requests_are_one_sentence(run: Runs, suite: Suite) -> None:
    a = subjects(run.folder, "a")[0]
    with pytest.raises(UserError, match="nothing to measure"):
        bench([], suite, out=run.out)
    with pytest.raises(UserError, match="two subjects are called 'a'"):
        bench([a, a], suite, out=run.out)
    with pytest.raises(UserError, match="no kind of subject 'bundel'; did you mean 'bundle'"):
        bench([Subject("a", "exported", a.path, "bundel")], suite, out=run.out)
    with pytest.raises(UserError, match="no role 'pupil'"):
        bench([Subject("a", "pupil", a.path, "fake")], suite, out=run.out)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="at least 1"):
        bench([a], suite, threads=0, out=run.out)
    with pytest.raises(UserError, match="no bundle"):
        bench([Subject("a", "exported", run.folder / "none", "bundle")], suite, out=run.out)
    assert not run.out.exists()


def test_threads_default_to_the_cores_at_hand(run: Runs) -> None:
    assert run("a", threads=None).measurements[0].threads == machine.usable_cores()
