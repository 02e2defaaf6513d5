"""What is advised about training: set as advised, it is trained so."""

import sys
from importlib import metadata
from pathlib import Path

import pytest
import torch

from masters_edge.common.errors import UserError
from masters_edge.recipe import load
from masters_edge.recipe.schema import Lora, Qat
from masters_edge.training import qat, setup, sharded
from tests.advice import follows, said


class Tiny(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.config = {"model_type": "tiny", "tie_word_embeddings": False}
        self.first, self.second = torch.nn.Linear(4, 4), torch.nn.Linear(4, 4)


@follows(
    "train.freeze: no parameter of the student has a name like {}; names are such as {}",
    "train.freeze {} leaves nothing that learns; freeze less",
)
def test_patterns_that_name_something() -> None:
    with said("names are such as first.weight") as caught:
        setup.freeze(Tiny(), ["vision*"])
    setup.freeze(Tiny(), [str(caught.value).rpartition(" ")[2]])
    with said("freeze less"):
        setup.freeze(Tiny(), ["first*", "second*"])
    setup.freeze(Tiny(), ["first*"])


@follows(
    "train.lora.targets {}: {}",
    "train.lora needs peft, which is not installed; run: pip install 'masters-edge[distill]'",
)
def test_adapters(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("peft")
    with said("Please check the target modules and try again"):
        setup.with_adapters(Tiny(), Lora(targets=["third"]))
    setup.with_adapters(Tiny(), Lora(targets=["first"]))
    with monkeypatch.context() as patched, said("pip install 'masters-edge[distill]'"):
        patched.setitem(sys.modules, "peft", None)
        setup.with_adapters(Tiny(), Lora(targets=["first"]))
    assert any("peft" in need and "distill" in need for need in metadata.requires("masters-edge") or [])


@follows(
    "train.questions_per_step ({}) can't be dealt out to {} processes with {} questions each; make it a multiple of {}"
)
def test_a_multiple(tiny_recipe: Path) -> None:
    def per_device(whole: int) -> tuple[int, int]:
        recipe = load(tiny_recipe, [f"train.questions_per_step={whole}"])
        return setup.questions_per_device(recipe, recipe.train.phases[0], 3)

    with said("make it a multiple of 3"):
        per_device(4)
    assert per_device(6) == (2, 1)


@follows(
    "train.trackers: {} is no tracker of transformers' Trainer; known: {}",
    "train.trackers: {} is not installed; run: pip install {}, or leave it out",
)
def test_a_tracker_that_is_there() -> None:
    with said("known: ") as caught:
        setup._check_trackers(["tensorbored"])
    known = str(caught.value).rpartition("known: ")[2].split(", ")
    missing = [name for name in known if name not in ("tensorboard", "none")]
    refused = 0
    for name in missing:
        try:
            setup._check_trackers([name])
        except UserError as error:
            refused += 1
            package = {"azure_ml": "azureml-core", "flyte": "flytekit"}.get(name, name)  # as each is called on PyPI
            assert f"{name} is not installed; run: pip install {package}, or leave it out" in str(error)
    assert refused
    setup._check_trackers([])
    setup._check_trackers(["none"])


@follows(
    "accelerate's configuration asks for FSDP1; set fsdp_version: 2 in it",
    "set fsdp_cpu_ram_efficient_loading: false in it",
    "set zero3_init_flag: false in it",
)
def test_a_configuration_set_as_advised(monkeypatch: pytest.MonkeyPatch) -> None:
    """Into the variables that accelerate's launcher makes of its configuration's keys."""
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    for wrong, words, name, better in (
        ("1", "set fsdp_version: 2", "FSDP_VERSION", "2"),
        ("true", "set fsdp_cpu_ram_efficient_loading: false", "FSDP_CPU_RAM_EFFICIENT_LOADING", "false"),
        ("true", "set zero3_init_flag: false", "ACCELERATE_DEEPSPEED_ZERO3_INIT", "false"),
    ):
        if "DEEPSPEED" in name:
            monkeypatch.setenv("ACCELERATE_USE_FSDP", "false")
            monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
        monkeypatch.setenv(name, wrong)
        with said(words):
            sharded.check()
        monkeypatch.setenv(name, better)
        sharded.check()


@follows(
    "quantize.qat.scheme {} has no integers to train for; use int4, int8 or a preset",
    "quantize.qat.scheme auto is chosen only when a student is exported; train for int4, int8 or a preset",
    "train.lora leaves them as they are and trains adapters; leave one of the two out",
    "quantize.qat needs torchao, which is not installed; run: pip install 'masters-edge[onnx]'",
)
def test_training_rounded(tiny_recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torchao")
    with said("use int4, int8 or a preset"):
        qat.plan_of(Qat(scheme="fp16"))
    with said("train for int4, int8 or a preset"):
        qat.plan_of(Qat(scheme="auto"))
    for scheme in ("int4", "int8", "quality", "balanced", "smallest"):
        assert qat.plan_of(Qat(scheme=scheme))
    rounded, adapters = "quantize.qat={scheme: int4}", "train.lora={rank: 2}"
    with said("leave one of the two out"):
        qat.check(load(tiny_recipe, [rounded, adapters]), "smolvlm")
    for one in (rounded, adapters):
        qat.check(load(tiny_recipe, [one]), "smolvlm")
    with monkeypatch.context() as patched, said("pip install 'masters-edge[onnx]'"):
        patched.setitem(sys.modules, "torchao", None)
        qat.check(load(tiny_recipe, [rounded]), "smolvlm")
    assert any("torchao" in need and "onnx" in need for need in metadata.requires("masters-edge") or [])
