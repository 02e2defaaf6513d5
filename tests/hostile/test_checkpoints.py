"""Checkpoints of strangers: no code, kernel or quantizer of theirs is loaded, and no file outside is touched."""

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from masters_edge import families
from masters_edge.common.errors import UserError
from masters_edge.families import checks
from tests.export import bundles
from tests.hostile.command_line import run

SHARD = "model-00001-of-00001.safetensors"
INDEX = "model.safetensors.index.json"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Settings, and weights of one tensor; beside it another's file."""
    from safetensors.numpy import save_file

    folder = tmp_path / "downloaded"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "smolvlm", "text_config": {"model_type": "llama"}}')
    save_file({"a": np.ones((4, 4), np.float32)}, folder / SHARD)
    (tmp_path / "victim").mkdir()
    shutil.copy(folder / SHARD, tmp_path / "victim" / "mine.safetensors")
    index(folder, SHARD)
    return folder


def index(folder: Path, name: Any) -> None:
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": {"a": name}}))


def config(**values: Any) -> Callable[[Path], None]:
    def made(folder: Path) -> None:
        found = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(found | values))

    return made


def named(name: Any) -> Callable[[Path], None]:
    return lambda folder: index(folder, name)


def fifo(name: str) -> Callable[[Path], None]:
    return lambda folder: os.mkfifo(folder / name)


OUT = "is no name of a file inside the folder"
REFUSED = {
    "a kernel": (config(attn_implementation="evil/kernel"), "names a kernel on the hub"),
    "a kernel at a commit": (config(_attn_implementation="flash|evil/kernel@main:f"), "names a kernel on the hub"),
    "a kernel deep in it": (config(text_config={"experts_implementation": "evil/kernel"}), "names a kernel on the hub"),
    "kernels by part": (config(attn_implementation={"": "sdpa", "vision": "evil/kernel"}), "names a kernel on the hub"),
    "any kernels": (config(use_kernels=True), "use_kernels asks for kernels"),
    "a quantizer": (config(quantization_config={"quant_method": "evil"}), "names a quantizer (evil)"),
    "a quantizer of a part": (
        config(text_config={"quantization_config": {"quant_method": "gptq"}}),
        "quantizer (gptq)",
    ),
    "a quantizer of noise": (config(quantization_config=[1]), "names a quantizer"),
    "settings for ever": (fifo("preprocessor_config.json"), "no regular file, but a FIFO"),
    "weights for ever": (fifo("model.safetensors"), "no regular file, but a FIFO"),
    "a shard outside": (named("../victim/mine.safetensors"), OUT),
    "a shard of the machine": (named("/etc/passwd"), OUT),
    "a shard of escapes": (named("a\x1b[2J"), OUT),
    "a shard of a number": (named(3), "has no weight_map"),
    "a shard that is not there": (named("gone.safetensors"), "is missing"),
    "no shards": (lambda folder: (folder / INDEX).write_text('{"weight_map": [1]}'), "has no weight_map"),
    "an index in itself": (lambda folder: (folder / INDEX).write_text("[" * 100_000), "can't be read"),
    "an adapter": (lambda folder: (folder / "adapter_config.json").write_text("{}"), "is an adapter of another model"),
    "a config of noise": (lambda folder: (folder / "config.json").write_bytes(b"\xff" * 10), "can't be read"),
    "a config of a list": (lambda folder: (folder / "config.json").write_text("[]"), "no JSON object"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_it_is_refused_before_anything_is_loaded(case: str, folder: Path) -> None:
    change, words = REFUSED[case]
    change(folder)
    with pytest.raises(UserError, match=words.replace("(", r"\(").replace(")", r"\)")) as error:
        checks.refuse_programs(str(folder))
    assert str(error.value).isprintable()


def test_an_ordinary_one_passes(folder: Path) -> None:
    config(attn_implementation="sdpa", _attn_implementation="flash_attention_2", quantization_config=None)(folder)
    checks.refuse_programs(str(folder))


def test_the_hubs_cache_passes(folder: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Snapshots are links into the blobs beside them."""
    model = folder.parent / "models--a--b"
    snapshot = model / "snapshots" / "01"
    snapshot.mkdir(parents=True)
    (model / "blobs").mkdir()
    for number, path in enumerate(list(folder.iterdir())):
        path.rename(model / "blobs" / f"{number:064x}")
        (snapshot / path.name).symlink_to(f"../../blobs/{number:064x}")
    checks.refuse_programs(str(snapshot))
    said = run(["mask", snapshot, folder.parent / "masked", "--ratio", "0.5"], capsys, monkeypatch)
    assert said.status == 0, said.err
    made = folder.parent / "masked"
    assert sorted(path.name for path in made.iterdir()) == sorted(["config.json", SHARD, INDEX])
    assert not any(path.is_symlink() for path in made.iterdir())


def test_code_of_its_own_is_not_run_and_not_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers asks "run custom code? [y/N]" where nobody has said no."""
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("a question at the terminal"))
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'PWNED')!r}, 'w')\n")
    names = {
        "AutoConfig": "evil.Config",
        "AutoModelForImageTextToText": "evil.Model",
        "AutoProcessor": "evil.Processor",
    }
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "evil", "auto_map": names}))
    (tmp_path / "processor_config.json").write_text(json.dumps({"auto_map": names, "processor_class": "Evil"}))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"auto_map": {"AutoTokenizer": ["evil.T", None]}}))
    for load in (families.load_config, families.load_model, families.load_processor):
        with pytest.raises(UserError, match="runs no code of a checkpoint") as error:
            load(str(tmp_path))
        assert "trust_remote_code=True" not in str(error.value)
    assert not (tmp_path / "PWNED").exists()


def test_pickled_weights_are_not_run(tmp_path: Path) -> None:
    """And torch's advice to switch its own safety off isn't passed on."""

    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return (open, (str(tmp_path / "PWNED"), "w"))

    folder = shutil.copytree(bundles.student("smolvlm", True), tmp_path / "student")
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"a": Evil()}))
    with pytest.raises(UserError, match="can't be loaded") as error:
        families.load_model(str(folder))
    said = str(error.value)
    assert "weights_only" not in said and "trust" not in said and "\n" not in said, said
    assert not (tmp_path / "PWNED").exists()


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (pickle.UnpicklingError("Weights only load failed. ... weights_only=False ..."), "take it as safetensors"),
        (ValueError("requires you to execute ... `trust_remote_code=True`"), "runs no code of a checkpoint"),
        (ValueError("first\x1b[2J line\nsecond"), "first [2J line"),
        (KeyError(), "KeyError"),
    ],
)
def test_what_libraries_say(error: Exception, words: str) -> None:
    assert words in checks.said(error) and checks.said(error).isprintable()


def masked(folder: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    return run(["mask", folder, folder.parent / "masked", "--ratio", "0.5"], capsys, monkeypatch)


def headed(header: Any, data: bytes = b"") -> Callable[[Path], None]:
    """A shard with this header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return lambda folder: (folder / SHARD).write_bytes(len(text).to_bytes(8, "little") + text + data)


def linked(name: str, to: str) -> Callable[[Path], None]:
    def made(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(to)

    return made


def entry(**changes: Any) -> dict[str, Any]:
    return {"a": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]} | changes}


MASKED = {
    "a shard outside": (named("../victim/mine.safetensors"), OUT),
    "an absolute shard": (lambda folder: index(folder, str(folder.parent / "victim" / "mine.safetensors")), OUT),
    "a linked shard": (linked(SHARD, "../victim/mine.safetensors"), "is a link out of the folder"),
    "a linked file": (linked("notes.txt", "../victim/mine.safetensors"), "is a link out of the folder"),
    "a linked device": (linked("notes.txt", "/dev/zero"), "is a link out of the folder"),
    "a linked folder": (linked("more", "../victim"), "is a link out of the folder"),
    "a FIFO": (fifo("notes"), "no regular file, but a FIFO"),
    "a header without end": (lambda folder: (folder / SHARD).write_bytes(b"\xff" * 8), "no whole safetensors"),
    "a header of a list": (headed([1]), "no whole safetensors"),
    "a header in itself": (headed(b"[" * 100_000), "no whole safetensors"),
    "a gap": (headed(entry(data_offsets=[4, 20]), bytes(20)), "a gap"),
    "backwards": (headed(entry(data_offsets=[0, -16]), bytes(16)), "a gap"),
    "another size": (headed(entry(shape=[9, 9]), bytes(16)), "bytes for a tensor of 81"),
    "a negative shape": (headed(entry(shape=[-2, -2]), bytes(16)), "bytes for a tensor"),
    "a shape of words": (headed(entry(shape=["x"]), bytes(16)), "no whole safetensors"),
    "offsets of words": (headed(entry(data_offsets=["a", "b"]), bytes(16)), "no whole safetensors"),
}


@pytest.mark.parametrize("case", MASKED)
def test_mask_touches_nothing_outside(case: str, folder: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    change, words = MASKED[case]
    victim = folder.parent / "victim" / "mine.safetensors"
    before = victim.read_bytes()
    change(folder)
    masked(folder, capsys, monkeypatch).refused(words)
    assert victim.read_bytes() == before and not (folder.parent / "masked").exists()


def test_mask_copies_what_is_inside(folder: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "sub").mkdir()
    (folder / "sub" / "a.txt").write_text("a")
    (folder / "sub" / "b.bin").write_text("weights")
    (folder / "odd: name.txt").write_text("mine")
    said = masked(folder, capsys, monkeypatch)
    assert said.status == 0, said.err
    out = folder.parent / "masked"
    assert sorted(p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file()) == sorted(
        ["config.json", SHARD, INDEX, "odd: name.txt", "sub/a.txt"]
    )


def test_what_the_hub_has_is_looked_at_too(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it was fetched before: without a network nothing else can be asked for."""
    from huggingface_hub import constants
    from transformers.utils import hub

    snapshot = tmp_path / "hub" / "models--a--b" / "snapshots" / ("0" * 40)
    shutil.copytree(folder, snapshot)
    (tmp_path / "hub" / "models--a--b" / "refs").mkdir()
    (tmp_path / "hub" / "models--a--b" / "refs" / "main").write_text("0" * 40)
    for module in (constants, hub.constants):
        monkeypatch.setattr(module, "HF_HUB_CACHE", str(tmp_path / "hub"))
    checks.refuse_programs("a/b", local_files_only=True)
    config(attn_implementation="evil/kernel")(snapshot)
    with pytest.raises(UserError, match="names a kernel on the hub"):
        checks.refuse_programs("a/b", local_files_only=True)
    config(attn_implementation="sdpa")(snapshot)
    (snapshot / "adapter_config.json").write_text("{}")
    with pytest.raises(UserError, match="is an adapter"):
        checks.refuse_programs("a/b", local_files_only=True)
