"""`masters-edge bench` as people call it, on real tiny bundles."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("onnxscript")
pytest.importorskip("matplotlib")

from masters_edge.benchmarks import results
from tests import tiny
from tests.export import bundles


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A working directory with a whole bundle, a changed one, and a file of questions."""
    whole = bundles.exported("smolvlm", "fp32", splitting=True)
    for name in ("whole", "changed"):
        shutil.copytree(whole, tmp_path / name)
    with next((tmp_path / "changed").glob("**/decoder*.onnx")).open("r+b") as file:
        file.seek(1000)
        file.write(b"changed")
    tiny.picture().save(tmp_path / "a.png")
    rows = [{"image": "a.png", "question": f"what is in this image? {n}", "answer": "a red square"} for n in range(3)]
    (tmp_path / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def bench(home: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-c", "from masters_edge.cli import main; main()", "bench", *words]
    return subprocess.run(command, cwd=home, capture_output=True, text=True)


def test_own_questions_and_a_bundle_that_cannot_be_measured(home: Path) -> None:
    done = bench(home, "changed", "whole", "--suite", "own.jsonl", "--metric", "anls", "--threads", "1",
                 "--backend", "onnxruntime", "--no-cases", "--sustain", "0.2s")  # fmt: skip
    assert done.returncode == 2, done.stderr
    sentence = done.stderr.strip().splitlines()[-1]
    assert sentence.startswith("masters-edge: measuring changed stopped: ") and "has changed since" in sentence
    assert "own: 3 questions, scored by anls" in done.stdout
    (found,) = results.read(home / "runs/bench/results.json").measurements
    assert (found.name, found.backend, found.threads, found.cases) == ("whole", "onnxruntime", 1, ())
    assert found.suite and (found.suite.name, found.suite.metric) == ("own", "anls")
    assert found.sustained and found.sustained.seconds >= 0.2
    again = bench(home, "whole", "--suite", "own.jsonl", "--metric", "anls", "--threads", "1", "--no-cases",
                  "--backend", "onnxruntime")  # fmt: skip
    assert again.returncode == 0 and "whole: measured before, reused" in again.stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--suite", "own.jsonl", "--metric", "ansl"], "there is no metric 'ansl'; did you mean 'anls'"),
        (
            ["--suite", "own.jsnl"],
            "there is no suite 'own.jsnl', nor a file or folder of that name; did you mean 'own.jsonl'",
        ),
        (["--sustain", "ten"], "'ten' is no duration; write it as 30s, 10m or 1h"),
        (["--split", "test"], "--split, --name and the columns belong to --suite"),
        (["--suite", "own.jsonl", "--backend", "onnx"], "there is no backend 'onnx'"),
    ],
)
def test_mistakes_are_one_sentence(home: Path, words: list[str], said: str) -> None:
    done = bench(home, "whole", *words)
    assert done.returncode == 2 and said in done.stderr and "Traceback" not in done.stderr
    assert not (home / "runs" / "bench" / "results.json").exists()


@pytest.mark.wide
def test_a_device_that_cannot_be_reached_leaves_the_others(home: Path) -> None:
    done = bench(home, "whole", "--suite", "own.jsonl", "--threads", "1", "--backend", "onnxruntime", "--no-cases",
                 "--device", "ssh://127.0.0.1:1", "--device", "local")  # fmt: skip
    assert done.returncode == 2 and "127.0.0.1" in done.stderr.splitlines()[-1] and "Traceback" not in done.stderr
    (found,) = results.read(home / "runs/bench/results.json").measurements
    assert found.device.kind == "local" and (home / "runs/report/report.html").exists()
