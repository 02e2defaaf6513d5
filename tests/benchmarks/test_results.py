import json
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from masters_edge.benchmarks import results
from masters_edge.common.errors import UserError
from tests.benchmarks import sample


def test_written_results_read_back_equal(tmp_path: Path) -> None:
    path = tmp_path / "new" / "results.json"
    results.write(path, sample.results())
    assert results.read(path) == sample.results()
    assert json.loads(path.read_text())["schema_version"] == 3
    assert [p.name for p in path.parent.iterdir()] == ["results.json"]


def test_a_file_from_before_browsers_reads_as_it_did(tmp_path: Path) -> None:
    """Version 2 is version 3 without what only browsers have."""
    path = tmp_path / "results.json"
    results.write(path, sample.results())
    old = json.loads(path.read_text())
    for measurement in old["measurements"]:
        for new in ("python_runtime", "page_memory_mib"):
            assert measurement.pop(new) is None
        assert measurement["device"].pop("browser") is None
        for new in ("hidden_s", "battery_before", "battery_after"):
            assert measurement["conditions"].pop(new) is None
    path.write_text(json.dumps(old | {"schema_version": 2}))
    assert results.read(path) == sample.results()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "is damaged, it is no JSON"),
        ("[]", "no results file of masters-edge"),
        ('{"schema_version": true}', "no results file"),
        (
            '{"schema_version": 1}',
            "schema 1, this masters-edge reads 2 and 3; remove it, and measure again",
        ),
        ('{"schema_version": 4}', "has results schema 4, this masters-edge reads 2 and 3; update masters-edge"),
        ('{"schema_version": 2, "measurements": [{}]}', "is damaged at measurements.0.name"),
        ('{"schema_version": 2, "extra": 1}', "is damaged at extra"),
    ],
)
def test_bad_files_are_one_sentence(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "results.json"
    path.write_text(text)
    with pytest.raises(UserError, match=said) as caught:
        results.read(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_missing_file_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no results file .*masters-edge bench"):
        results.read(tmp_path / "results.json")
    with pytest.raises(UserError, match="can't be read"):
        results.read(tmp_path)


@pytest.mark.parametrize("moment", ["fsync", "replace"])
def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
    path = tmp_path / "results.json"
    results.write(path, sample.results())
    before = path.read_bytes()

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, moment, full)
    with pytest.raises(UserError, match="can't be written .No space left on device"):
        results.write(path, results.Results())
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1


def test_an_accuracy_must_be_its_count(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="is not 50.0%"):
        results.Accuracy(asked=10, right=6, per_cent=50, low=20, high=80)
    with pytest.raises(ValidationError, match="interval"):
        results.Accuracy(asked=10, right=5, per_cent=50, low=55, high=80)


def test_a_figure_cannot_be_nan() -> None:
    with pytest.raises(ValidationError):
        results.Stage(median=float("nan"), p90=1, spread=1, n=1)


def test_new_measurement_takes_the_place_of_its_namesake() -> None:
    before = sample.results()
    again = sample.measurement("student fp32", right=1)
    after = before.with_measurement(again)
    assert [m.name for m in after.measurements] == [m.name for m in before.measurements]
    assert after.measurements[3] == again
    elsewhere = sample.measurement("student fp32", device=sample.DEVICE.model_copy(update={"name": "board"}))
    assert len(after.with_measurement(elsewhere).measurements) == len(before.measurements) + 1
    for device in ({"address": "ssh://pi@a"}, {"kind": "ssh"}):  # two boards may have one name
        other = sample.measurement("student fp32", device=sample.DEVICE.model_copy(update=device))
        assert len(after.with_measurement(other).measurements) == len(before.measurements) + 1
    for change in ({"runtime": "openvino"}, {"threads": 4}):
        other = sample.measurement("student fp32", **change)
        assert len(after.with_measurement(other).measurements) == len(before.measurements) + 1


def test_two_commands_that_measure_into_one_file_lose_nothing(tmp_path: Path) -> None:
    """The second one waits until the first has written, and adds to what it then finds."""
    path, began = tmp_path / "bench" / "results.json", threading.Event()

    def add(name: str, wait_s: float) -> None:
        def change(now: results.Results) -> results.Results:
            began.set()
            time.sleep(wait_s)
            return now.with_measurement(sample.measurement(name))

        results.update(path, change)

    first = threading.Thread(target=add, args=("first", 0.2))
    first.start()
    began.wait()
    add("second", 0)
    first.join()
    assert [measurement.name for measurement in results.read(path).measurements] == ["first", "second"]
