"""A real exported bundle beside the checkpoint it was made of, both measured by the whole way in."""

import io
import shutil
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("onnxscript")

from masters_edge.benchmarks import Settings, Subject, bench
from masters_edge.benchmarks.peers import pytorch
from masters_edge.benchmarks.report import report
from masters_edge.benchmarks.suites import Suite, from_questions
from masters_edge.common.errors import UserError
from masters_edge.data.records import Question
from tests import tiny
from tests.export import bundles


@pytest.fixture(scope="module")
def own_answers() -> Suite:
    """Six questions whose labels are the student's own answers in PyTorch."""
    peer = pytorch.open_subject(str(bundles.student("smolvlm")), threads=1)
    questions = []
    for number in range(6):
        picture, text = tiny.picture(32, 32, seed=number), bundles.QUESTIONS[number % 3]
        file = io.BytesIO()
        picture.save(file, "PNG")
        questions.append(Question(f"q{number}", text, file.getvalue(), f"i{number}", peer.answer(picture, text).text))
    return from_questions(questions, "exact_match", name="own answers")


@pytest.mark.wide
def test_bundle_and_checkpoint_side_by_side(own_answers: Suite, tmp_path: Path) -> None:
    bundle = bundles.exported("smolvlm", "fp32")
    subjects = [
        Subject("student after", "student after", bundles.student("smolvlm"), "checkpoint"),
        Subject("student fp32", "exported", bundle, "bundle", {"parameters": 100}),
    ]
    out = tmp_path / "results.json"
    settings = Settings(latency_questions=4, threads=1)
    checkpoint, exported = bench(subjects, own_answers, settings, out=out).measurements
    assert checkpoint.accuracy.right == exported.accuracy.right == 6
    assert (exported.target, exported.runtime, exported.scheme, exported.parameters) == (
        "onnx",
        "onnxruntime",
        "fp32",
        100,
    )
    assert exported.size_bytes == sum(file.stat().st_size for file in bundle.rglob("*") if file.is_file())
    assert "onnxruntime" in exported.versions and not exported.batched
    for stage in ("preprocess_ms", "vision_ms", "prefill_ms", "ttft_ms", "decode_tokens_per_s", "total_ms"):
        assert getattr(exported.latency, stage).n == getattr(checkpoint.latency, stage).n == 4
    # No torch in the bundle's process: it starts sooner and takes less.
    assert exported.latency.cold_start_ms and checkpoint.latency.cold_start_ms
    assert exported.latency.cold_start_ms.median < checkpoint.latency.cold_start_ms.median
    assert exported.peak_rss_mib < checkpoint.peak_rss_mib
    assert report(out, None, tmp_path).html.exists()


def test_a_changed_byte_is_one_sentence(own_answers: Suite, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(bundles.exported("smolvlm", "fp32"), bundle)
    graph = next(bundle.glob("**/decoder*.onnx"))
    content = bytearray(graph.read_bytes())
    content[len(content) // 2] ^= 1
    graph.write_bytes(bytes(content))
    with pytest.raises(UserError, match="measuring student stopped: .*decoder.* has changed") as caught:
        bench([Subject("student", "exported", bundle)], own_answers, Settings(threads=1), out=tmp_path / "results.json")
    assert "\n" not in str(caught.value) and not (tmp_path / "results.json").exists()
