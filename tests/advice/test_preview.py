"""What is advised about previews: names and files that are there, room, another way to give an architecture."""

import json
import shutil
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from transformers import AutoConfig

from masters_edge.preview import architecture, command, cost, exporting, stand_ins
from tests.advice import follows, said
from tests.export import bundles


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "tiny").mkdir()
    return Path(shutil.copy(bundles.student("smolvlm", True) / "config.json", tmp_path / "tiny/config.json"))


@follows(
    "there is no folder or config {} here, nor a shape of that name; {}",
    "architecture.py: there is no file {}; give a config.json, a checkpoint folder, a hub id or a name",
    "the config of {} can't be had ({}); save its config.json, and give that",
)
def test_a_name_or_a_config_that_is_there(config: Path, tmp_path: Path) -> None:
    with said("did you mean 'smolvlm-256m'?"):
        architecture.find("smolvlm-265m")
    with said("known names: ") as caught:
        architecture.find("nothing")
    for name in ("smolvlm-256m", str(caught.value).rpartition(": ")[2].split(", ")[-1], str(config)):
        assert architecture.find(name).parameters > 0
    with said("give a config.json, a checkpoint folder, a hub id or a name"):
        architecture.find(str(tmp_path / "none.json"))
    with said("save its config.json, and give that"):
        architecture.find("some/model")
    assert architecture.find(str(config.parent)).parameters == architecture.find(str(config)).parameters > 0


@follows(
    "command.py: {} can't hold {} weights; use: {}",
    "{} is large, so its preview takes long and much memory; start it with --yes",
)
def test_a_scheme_that_the_target_holds_and_yes(config: Path) -> None:
    small = architecture.find(str(config))
    with said("onnx_portable can't hold int8-a8 weights; use: ") as caught:
        command._wanted(["onnx_portable"], ["int8-a8"], small)
    able = str(caught.value).rpartition(": ")[2].split(", ")
    assert len(command._wanted(["onnx_portable"], able, small)) == len(able)
    large = architecture.find("internvl3.5-1b")
    with said("start it with --yes"):
        command._agreed(large, yes=False)
    command._agreed(large, yes=True)


@follows(
    "exporting {} takes about {} of memory, and {} are free here; close other programs, use a machine with more",
    "the disk of {} has {} free, but a preview of {} takes about {}; make room, or choose another folder with --out",
)
def test_more_memory_a_smaller_config_and_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    large, small = (architecture.find(name).shape.parameters for name in ("qwen3-vl-2b", "smolvlm-256m"))
    wanted = [("onnx", "int4")]
    (tmp_path / "full").mkdir()
    free = {tmp_path / "full": 10**6, tmp_path: 10**12}
    monkeypatch.setattr(shutil, "disk_usage", lambda place: SimpleNamespace(free=free[place]))
    monkeypatch.setattr(cost, "available_memory", lambda: 9 * 10**9)
    with said("close other programs, use a machine with more memory, or a smaller config"):
        cost.check(cost.estimate(large, wanted), "large", tmp_path)
    cost.check(cost.estimate(small, wanted), "small", tmp_path)
    monkeypatch.setattr(cost, "available_memory", lambda: 10**12)
    cost.check(cost.estimate(large, wanted), "large", tmp_path)
    with said("make room, or choose another folder with --out"):
        cost.check(cost.estimate(small, wanted), "small", tmp_path / "full" / "out")
    cost.check(cost.estimate(small, wanted), "small", tmp_path / "out")
    free[tmp_path / "full"] = 10**12
    cost.check(cost.estimate(small, wanted), "small", tmp_path / "full" / "out")


@follows("{} was ended by the system, most likely for want of memory; close other programs, or use a machine with more")
def test_the_same_command_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "python"
    monkeypatch.setattr(sys, "executable", str(script))
    for body in (f"kill -{int(signal.SIGKILL)} $$", 'echo \'{"stage": "done", "share": 1.0}\''):
        script.write_text(f"#!/bin/sh\n{body}\n")
        script.chmod(0o755)
        if "kill" in body:
            with said("the same command goes on where it stopped"):
                exporting.export(tmp_path, "onnx", "int4", tmp_path / "out", lambda stage, share: None)
        else:
            exporting.export(tmp_path, "onnx", "int4", tmp_path / "out", lambda stage, share: None)


@follows(
    "no image processor is known here for a config of model_type {}; give a checkpoint folder with a processor, or a",
    "a vocabulary of {} is too small: 256 bytes and {} special tokens must fit; give a checkpoint folder",
)
def test_a_checkpoint_with_its_own_processor(config: Path) -> None:
    with said("give a checkpoint folder with a processor, or a config of: ") as caught:
        stand_ins.stand_in(SimpleNamespace(model_type="none"))
    assert "smolvlm" in str(caught.value) and architecture.find(str(bundles.student("smolvlm", True))).processor
    settings = json.loads(config.read_text())
    settings["text_config"]["vocab_size"] = 100
    config.write_text(json.dumps(settings))
    with said("give a checkpoint folder with a tokenizer of its own"):
        stand_ins.stand_in(AutoConfig.from_pretrained(config.parent))
    assert stand_ins.stand_in(architecture.find("smolvlm-256m").shape.config).tokenizer
