"""A config becomes a checkpoint with random weights, bundles and figures without accuracy; twice is once."""

import io
import json
import shutil
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from rich.console import Console
from safetensors import safe_open

from masters_edge import benchmarks
from masters_edge.benchmarks import Results, Settings, Subject, results
from masters_edge.benchmarks.cases import PROMPTS
from masters_edge.benchmarks.page.record import NOT_TOLD
from masters_edge.benchmarks.results import Measurement
from masters_edge.common.errors import UserError
from masters_edge.export.student import load
from masters_edge.plan.published import PARAMETERS_B
from masters_edge.preview import architecture, command, cost, exporting, screen, stand_ins, weights
from tests import tiny
from tests.benchmarks import sample
from tests.export import bundles


def config_of(folder: Path, family: str) -> Path:
    """The config.json alone, in a folder named after the family."""
    place = folder / family / "config.json"
    place.parent.mkdir()
    shutil.copy(tiny.FAMILIES[family](folder / "model") / "config.json", place)
    return place


@pytest.mark.parametrize("family", ["smolvlm", "internvl3_5"])
def test_a_config_becomes_a_checkpoint(family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = architecture.find(str(config_of(tmp_path, family)))
    assert found.name == family.replace("_", "-") and found.processor is None
    heard: list[int] = []
    monkeypatch.setattr(weights, "_SHARD", 100_000)
    assert weights.build(found, tmp_path / "made", heard.append)
    files = sorted((tmp_path / "made").glob("*.safetensors"))
    assert len(files) == len(heard) > 2 and sum(heard) == weights.stored_bytes(found.parameters)
    student = load(tmp_path / "made")  # refuses a checkpoint that lacks a weight
    assert sum(p.numel() for p in student.model.parameters()) == found.parameters
    drawn = dict(student.model.named_parameters())
    wide = next(p for name, p in drawn.items() if name.endswith("q_proj.weight"))
    assert 0.01 < wide.std() < 0.03 and all(p.isfinite().all() for p in drawn.values())
    norm = next(p for name, p in drawn.items() if "layernorm" in name and name.endswith("weight"))
    assert (norm == 1).all()

    before = [file.stat().st_mtime_ns for file in files]
    again = architecture.find(str(tmp_path / family / "config.json"))
    assert not weights.build(again, tmp_path / "made")
    assert before == [file.stat().st_mtime_ns for file in files]
    assert weights.build(again, tmp_path / "other")
    for file in files:
        with safe_open(file, "pt") as one, safe_open(tmp_path / "other" / file.name, "pt") as other:
            assert all((one.get_tensor(name) == other.get_tensor(name)).all() for name in one.keys())  # noqa: SIM118


def test_another_architecture_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    path = config_of(tmp_path, "smolvlm")
    assert weights.build(architecture.find(str(path)), tmp_path / "made")
    config = json.loads(path.read_text())
    config["text_config"]["num_hidden_layers"] = 1
    path.write_text(json.dumps(config))
    assert weights.build(architecture.find(str(path)), tmp_path / "made")
    assert load(tmp_path / "made").model.config.text_config.num_hidden_layers == 1


def test_a_folder_keeps_its_own_tokenizer(tmp_path: Path) -> None:
    folder = tiny.smolvlm(tmp_path / "Mine_1", splitting=True)
    found = architecture.find(str(folder))
    assert found.name == "mine-1" and found.processor == str(folder)
    weights.build(found, tmp_path / "made")
    assert (tmp_path / "made/tokenizer.json").read_text() == (folder / "tokenizer.json").read_text()
    made, own = load(tmp_path / "made"), load(folder)
    assert made.model.config.image_token_id == own.model.config.image_token_id
    assert (made.model.lm_head.weight != own.model.lm_head.weight).any()


def test_shipped_names_have_the_published_size() -> None:
    for name, hub in architecture.NAMES.items():
        found = architecture.find(name)
        assert found.name == name and found.parameters / 1e9 == pytest.approx(PARAMETERS_B[hub], rel=0.005)
    small = architecture.find("smolvlm-256m")
    processor = stand_ins.stand_in(small.shape.config)
    ids = processor.tokenizer(PROMPTS["long"])["input_ids"]
    assert len(ids) == pytest.approx(len(PROMPTS["long"].split()), rel=0.15)  # a word is a token
    content = [{"type": "image"}, {"type": "text", "text": "what?"}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    tokens = processor(text=text, images=[tiny.picture(256, 256)], return_tensors="pt")["input_ids"]
    assert int((tokens == small.shape.config.image_token_id).sum()) == 17 * 64  # as the published checkpoint cuts


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("smolvlm-265m", "did you mean 'smolvlm-256m'"),
        ("nothing", "known names: smolvlm-256m"),
        ("none/config.json", "there is no file none/config.json"),
        ("some/model", "can't be had .*save its config.json, and give that"),
    ],
)
def test_what_is_no_architecture(source: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        architecture.find(source)


def test_too_little_memory_or_disk_is_said_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "memory.max").write_text("3000000000\n")
    (tmp_path / "memory.current").write_text("1000000000\n")
    assert cost.available_memory(tmp_path) <= 2_000_000_000
    (tmp_path / "memory.max").write_text("max\n")
    assert cost.available_memory(tmp_path) > 0
    monkeypatch.setattr(cost, "available_memory", lambda: 9_000_000_000)
    with pytest.raises(UserError, match=r"qwen3-vl-2b takes about .* GB of memory, and 9.0 GB are free"):
        command.preview("qwen3-vl-2b", out=tmp_path / "out", yes=True)
    monkeypatch.setattr(cost, "available_memory", lambda: 10**12)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: shutil._ntuple_diskusage(10**9, 10**9, 10**6))
    with pytest.raises(UserError, match=r"has 1 MB free, .*choose another folder with --out"):
        command.preview("smolvlm-256m", out=tmp_path / "out")
    monkeypatch.undo()
    monkeypatch.setattr(cost, "check", lambda *all: None)
    with pytest.raises(UserError, match="internvl3.5-1b is large, .*start it with --yes"):
        command.preview("internvl3.5-1b", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_estimate_holds_what_was_measured() -> None:
    """docs/results/export.md: 2.7 GB of memory, 94 s, a bundle of 261 MB beside the checkpoint."""
    takes = cost.estimate(architecture.find("smolvlm-256m").shape.parameters, [("onnx", "int4")])
    assert 2.7e9 < takes.memory < 4.5e9 and 0.78e9 < takes.disk < 1.5e9 and takes.seconds == pytest.approx(94, rel=0.1)


def test_what_a_target_can_not_hold_is_said_first(tmp_path: Path) -> None:
    path = str(config_of(tmp_path, "smolvlm"))
    for targets, schemes, said in (
        (["onnx_portable"], ["int8-a8"], "onnx_portable can't hold int8-a8"),
        (["onnxx"], None, "did you mean 'onnx'"),
        (["onnx"], ["int3"], "no quantization scheme 'int3'"),
    ):
        with pytest.raises(UserError, match=said):
            command.preview(path, targets=targets, schemes=schemes, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_export_that_the_system_ends_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "python"
    monkeypatch.setattr(sys, "executable", str(script))
    for body, said in (
        (f"kill -{int(signal.SIGKILL)} $$", "ended by the system, most likely for want of memory"),
        ('echo \'{"error": "no room"}\'', "no room"),
        ("echo 'Traceback'; echo 'ValueError: bad' >&2; exit 1", "failed: ValueError: bad"),
    ):
        script.write_text(f"#!/bin/sh\n{body}\n")
        script.chmod(0o755)
        with pytest.raises(UserError, match=said):
            exporting.export(tmp_path, "onnx", "int4", tmp_path / "out", lambda stage, share: None)


def shown(found: Sequence[Measurement], schemes: list[str]) -> None:
    assert [m.scheme for m in found] == schemes
    for m in found:
        assert (m.role, m.target, m.accuracy, m.suite) == ("exported", "onnx", None, None)
        assert m.parameters and m.peak_rss_mib > 0 and m.latency.total_ms is not None
        timed = [case for case in m.cases if case.skipped is None]
        assert timed and all(case.latency.ttft_ms.median > 0 for case in timed)
    narrow = Console(width=80, record=True, file=io.StringIO())
    narrow.print(screen.table(found))
    assert "…" not in narrow.export_text()


def whole(source: str, out: Path, capsys: pytest.CaptureFixture[str], schemes: list[str]) -> None:
    path = command.preview(source, schemes=schemes, out=out, how=Settings(threads=1))
    found = results.read(path).measurements
    shown(found, schemes)
    made = {path: path.stat().st_mtime_ns for path in out.glob("*/manifest.json")}
    capsys.readouterr()
    command.preview(source, schemes=schemes, out=out, how=Settings(threads=1))
    assert "measured before, reused" in capsys.readouterr().out
    assert made == {path: path.stat().st_mtime_ns for path in out.glob("*/manifest.json")}
    assert results.read(path).measurements == found


@pytest.mark.slow
@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_from_config_to_figures(family: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole(str(config_of(tmp_path, family)), tmp_path / "out", capsys, ["int4", "fp32"])


def test_bundles_are_measured_without_accuracy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = bundles.exported("smolvlm", "fp32", splitting=True)
    found = architecture.find(str(bundles.student("smolvlm", True)))
    subject = Subject("a-onnx-fp32", "exported", folder, extra={"parameters": found.parameters})
    path = command._measure(found, [subject], "local", Settings(threads=1), tmp_path / "out")
    shown(results.read(path).measurements, ["fp32"])
    said = capsys.readouterr().out
    assert "On " in said and "1 thread. Medians. Weights are random" in said and "onnx fp32" in said


def test_what_a_browser_does_not_tell_is_a_dash_and_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = architecture.find(str(config_of(tmp_path, "smolvlm")))
    page = sample.DEVICE.model_copy(update={"kind": "browser", "address": "browser"})
    untold = sample.measurement("a-onnx-int4", device=page, runtime="wasm", peak_rss_mib=None, unmeasured=NOT_TOLD)
    both = Results(measurements=(untold, sample.measurement("a-onnx-int4")))  # measured here as well, afterwards
    monkeypatch.setattr(benchmarks, "bench", lambda *_, **__: both, raising=False)
    command._measure(
        found, [Subject("a-onnx-int4", "exported", tmp_path)], "browser", Settings(threads=1), tmp_path / "out"
    )
    said = capsys.readouterr().out
    row = next(line.split() for line in said.splitlines() if "onnx int4" in line)
    assert row == ["onnx", "int4", "0.64", "–"]
    assert "– peak memory: a browser doesn't tell it." in said and "energy" not in said
