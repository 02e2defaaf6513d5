"""Which part gets which scheme: names, presets, exceptions, tied weights, and mistakes in one sentence."""

import re

import pytest
import torch
from torchao.quantization import IntxWeightOnlyConfig
from torchao.quantization.granularity import PerAxis, PerGroup

from masters_edge.common.errors import UserError
from masters_edge.quantization import by_part
from masters_edge.quantization.schemes import SCHEMES
from masters_edge.recipe import Recipe


def names(found: by_part.QuantizationPlan) -> dict[str, str]:
    return {part: scheme.name for part, scheme in found.parts.items()}


@pytest.mark.parametrize("name", by_part.names())
def test_every_name_is_a_plan_for_every_part(name: str) -> None:
    found = by_part.plan(name)
    assert found.name == name and tuple(found.parts) == by_part.PARTS
    assert re.fullmatch(r"[a-z0-9-]+", found.name)


def test_integers_leave_the_embedding_alone_and_float16_does_not() -> None:
    assert names(by_part.plan("int4")) == dict.fromkeys(by_part.PARTS, "int4") | {"embeddings": "fp32"}
    assert names(by_part.plan("int8-a8"))["embeddings"] == "fp32"
    assert set(names(by_part.plan("fp16")).values()) == {"fp16"}
    assert names(by_part.plan("quality"))["embeddings"] == "fp16"


@pytest.mark.parametrize(
    ("arguments", "name", "tied"),
    [
        (("int4", {"vision": "int8"}), "int4-vision-int8", "split"),
        (("int4", {"head": "int8", "vision": "int8"}), "int4-vision-int8-head-int8", "split"),
        (("int4", {"vision": "int4"}), "int4", "split"),
        (("int4", {"embeddings": "int4"}), "int4-embeddings-int4", "shared"),
        (("int4", {}, "shared"), "int4-embeddings-int4", "shared"),
        (("balanced",), "balanced", "shared"),
        (("balanced", {}, "split"), "balanced-split", "split"),
        (("balanced", {"head": "int4"}, "shared"), "balanced-embeddings-int4-head-int4", "shared"),
        (("fp32",), "fp32", "shared"),
        (("auto",), "auto", "shared"),
        (("auto", {"vision": "int8"}, None, "4.9 bits"), "auto-4-9-bits-vision-int8", "shared"),
    ],
)
def test_names_say_what_differs(arguments: tuple, name: str, tied: str) -> None:
    found = by_part.plan(*arguments)
    assert (found.name, found.tied) == (name, tied)
    assert tied == "split" or found.parts["embeddings"] == found.parts["head"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("int44",), "no quantization scheme 'int44'; did you mean 'int4'"),
        (("balancd",), "did you mean 'balanced'"),
        (("int4", {"visoin": "int8"}), "no part to quantize 'visoin'; did you mean 'vision'"),
        (("int4", {"vision": "int9"}), "no quantization scheme for vision 'int9'"),
        (("int4", {"vision": "balanced"}), "no quantization scheme for vision 'balanced'"),
        (("int4", {}, "split-up"), "did you mean 'split'"),
        (("int4", {"embeddings": "int8"}, "shared"), "can't be shared with two schemes .int8 and int4."),
        (("int4", {}, None, "92MB"), "a budget is spent by the scheme auto; int4 takes what it takes"),
        (("auto", {}, None, "92"), "budget '92' is no size; write bytes such as 92MB"),
    ],
)
def test_mistakes_are_one_sentence(arguments: tuple, words: str) -> None:
    with pytest.raises(UserError, match=words) as error:
        by_part.plan(*arguments)
    assert "\n" not in str(error.value)


def test_schemes_are_torchaos_configurations() -> None:
    expected = {
        "int8": (torch.int8, PerAxis(0)),
        "int4": (torch.int4, PerGroup(32)),
        "int4-g64": (torch.int4, PerGroup(64)),
        "int4-g128": (torch.int4, PerGroup(128)),
    }
    for name, (weight, granularity) in expected.items():
        config = IntxWeightOnlyConfig(weight_dtype=weight, granularity=granularity, scale_dtype=torch.float16)
        assert SCHEMES[name].torchao_config() == config
    assert SCHEMES["int4-a8"].torchao_config() == SCHEMES["int4"].torchao_config()
    with pytest.raises(ValueError, match="no integers"):
        SCHEMES["fp16"].torchao_config()


def test_a_recipe_names_a_plan_or_spells_one_out() -> None:
    def recipe(*schemes) -> Recipe:
        about = dict(student="-", teachers=["-"], data={"train": {"source": "-"}})
        return Recipe.model_validate({**about, "quantize": {"schemes": list(schemes)}})

    [first, second] = recipe("balanced", {"scheme": "int4", "vision": "int8", "tied": "shared"}).quantize.schemes
    assert first == "balanced"
    assert not isinstance(second, str) and second.name == "int4-vision-int8-embeddings-int4"
    for wrong, words in (
        ({"scheme": "int44"}, "did you mean 'int4'"),
        ({"scheme": "int4", "visoin": "int8"}, "visoin"),
        ({"scheme": "int4", "head": "int3"}, "no quantization scheme for head"),
    ):
        with pytest.raises(ValueError, match=words):
            recipe(wrong)
