"""Agreement with PyTorch: whose answers are compared with whose, and what is said where there are none."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from masters_edge.benchmarks import Settings, Subject, bench, results
from masters_edge.benchmarks.agreement import UNMEASURED, with_agreements
from masters_edge.benchmarks.results import Measurement, Results
from masters_edge.benchmarks.suites import Suite
from tests.benchmarks import fakes, sample

PEER = {"kind": "checkpoint", "role": "student after", "runtime": "pytorch", "answers": "answers/peer.jsonl"}


def answers(folder: Path, name: str, **texts: str) -> None:
    path = folder / "answers" / f"{name}.jsonl"
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps({"id": i, "text": t, "score": 0.0}) + "\n" for i, t in texts.items()))


def bundle(**changes: Any) -> Measurement:
    return sample.measurement("int4", **({"weights": "w", "answers": "answers/int4.jsonl"} | changes))


def agreed(folder: Path, *measurements: Measurement) -> Measurement:
    return with_agreements(Results(measurements=measurements), folder).measurements[-1]


def test_equal_answers_are_counted_whatever_their_order_and_place(tmp_path: Path) -> None:
    answers(tmp_path, "peer", a="red", b="blue ", c="yes", d="no")
    answers(tmp_path, "int4", d="no", c="Yes", b=" blue", a="red")
    board = sample.DEVICE.model_copy(update={"kind": "ssh", "name": "board"})
    found = agreed(tmp_path, sample.measurement("after", weights="w", **PEER), bundle(device=board)).agreement
    assert found is not None and (found.equal, found.asked, found.per_cent) == (3, 4, 75)
    assert found.low < 75 < found.high


@pytest.mark.parametrize(
    "peer",
    [
        {"weights": "other"},
        {"weights": None},
        {"weights": "w", "suite": None, "accuracy": None},
        {"weights": "w", "answers": None},
    ],
    ids=["another student", "unknown", "no suite", "no answers"],
)
def test_answers_of_others_are_not_compared(tmp_path: Path, peer: dict[str, Any]) -> None:
    answers(tmp_path, "peer", a="red")
    answers(tmp_path, "int4", a="red")
    found = agreed(tmp_path, sample.measurement("after", **(PEER | peer)), bundle())
    assert found.agreement is None
    assert found.unmeasured == (UNMEASURED + "its student wasn't asked the same questions in PyTorch",)


def test_a_file_of_answers_that_is_gone_is_said(tmp_path: Path) -> None:
    answers(tmp_path, "int4", a="red", b="blue")
    peer = sample.measurement("after", weights="w", **PEER)
    found = agreed(tmp_path, peer, bundle())
    assert found.agreement is None and "answers/peer.jsonl is not whole" in found.unmeasured[0]
    answers(tmp_path, "peer", a="red")
    assert agreed(tmp_path, peer, bundle()).agreement is None
    answers(tmp_path, "peer", a="red", b="green")
    found = agreed(tmp_path, peer, found)
    assert found.agreement and found.agreement.equal == 1 and found.unmeasured == ()


@pytest.mark.wide
def test_bench_compares_with_a_student_measured_earlier_or_later(
    fake_kind: str, suite: Suite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fake stands in for both; what tells them apart is their kind alone."""
    from masters_edge.benchmarks import peers

    monkeypatch.setitem(peers.KINDS, "checkpoint", "tests.benchmarks.fakes")
    exported = Subject("int4", "exported", fakes.make(tmp_path / "a", weights="w", says="red"), "fake")
    student = Subject("after", "student after", fakes.make(tmp_path / "b", weights="w", batch_size=4), "checkpoint")
    out = tmp_path / "out" / "results.json"
    settings = Settings(threads=1, latency_questions=4, cases=False)
    alone = bench([exported], suite, replace(settings, backend="fake"), out=out).measurements[0]
    assert alone.agreement is None and alone.unmeasured[-1].startswith(UNMEASURED)
    both = bench([student], suite, settings, out=out)
    found = both.measurements[0]
    assert found.agreement and (found.agreement.equal, found.agreement.asked) == (0, 20)  # "red" is not "RED."
    assert results.read(out) == both and not any(text.startswith(UNMEASURED) for text in found.unmeasured)
    kept = [json.loads(line) for line in (out.parent / str(both.measurements[1].answers)).read_text().splitlines()]
    assert {row["id"] for row in kept} == {q.id for q in suite.questions} and kept[0]["text"].endswith(".")
    assert sorted(path.name for path in out.parent.glob("[!.]*")) == ["answers", "results.json"]  # no job is left
    bench([exported], replace(suite, name="again"), replace(settings, backend="fake"), out=out)
    assert len(list((out.parent / "answers").iterdir())) == 3
