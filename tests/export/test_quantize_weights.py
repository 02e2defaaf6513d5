"""A whole student quantized: every part as planned, PyTorch computing with the integers' meaning, ties kept or cut."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from masters_edge.common.errors import UserError
from masters_edge.export import quantize
from masters_edge.export.graphs import part_of
from masters_edge.export.quantize import rtn
from masters_edge.export.quantize.weights import layers_of
from masters_edge.export.student import LoadedStudent, load
from masters_edge.quantization import by_part
from tests.export import bundles

EMBEDDING = "model.text_model.embed_tokens.weight"
HEAD = "lm_head.weight"


def fresh() -> LoadedStudent:
    return load(bundles.student("smolvlm"))


@pytest.mark.parametrize("name", [name for name in by_part.names() if name != by_part.AUTO])
def test_the_model_holds_what_the_integers_mean(name: str, tmp_path: Path) -> None:
    student, original, chosen = fresh(), fresh().model, by_part.plan(name)
    found = quantize.quantize(student, chosen)
    layers = layers_of(student)
    parameters = dict(student.model.named_parameters(remove_duplicate=False))
    before = dict(original.named_parameters(remove_duplicate=False))
    expected = set()
    for part, inside in layers.items():
        scheme = chosen.parts[part]
        for layer, module in inside.items():
            weight = f"{layer}.weight"
            if scheme.bits and module.weight.shape[1] % scheme.group(module.weight.shape[1]) == 0:
                expected.add(weight)
                ours, theirs = found.tensors[weight], rtn.round_to_nearest(weight, before[weight], scheme)
                assert np.array_equal(ours.integers, theirs.integers) and np.array_equal(ours.scales, theirs.scales)
                assert torch.equal(parameters[weight], torch.from_numpy(ours.dequantize()))
    assert set(found.tensors) == expected
    for weight, values in parameters.items():
        assert values.dtype == torch.float32
        if weight in found.float16:
            assert torch.equal(values, before[weight].half().float()) and values.ndim > 1
        elif weight not in expected:
            assert torch.equal(values, before[weight]), weight
    path = tmp_path / "weights.safetensors"
    quantize.save(path, found)
    read = quantize.load(path)
    assert set(read.tensors) == set(found.tensors)
    for field in ("plan", "float16", "activations", "tied", "parts", "method", "kept_float32", "notes"):
        assert getattr(read, field) == getattr(found, field)


@pytest.mark.parametrize(
    ("chosen", "tied"),
    [
        (by_part.plan("int4"), "split"),
        (by_part.plan("int4", tied="shared"), "shared"),
        (by_part.plan("balanced"), "shared"),
        (by_part.plan("balanced", tied="split"), "split"),
        (by_part.plan("fp16"), "shared"),
        (by_part.plan("fp16", {"head": "int8"}), "split"),
    ],
)
def test_head_and_embedding(chosen: by_part.QuantizationPlan, tied: str) -> None:
    student = fresh()
    found = quantize.quantize(student, chosen)
    one = student.model.lm_head.weight is student.model.get_input_embeddings().weight
    assert (found.tied, one) == (tied, tied == "shared")
    assert bool(found.notes) == (tied == "split")
    if one and chosen.parts["head"].bits:
        assert np.array_equal(found.tensors[HEAD].integers, found.tensors[EMBEDDING].integers)


def test_a_student_with_two_weights_has_nothing_to_tie() -> None:
    student = fresh()
    student.model.lm_head.weight = nn.Parameter(student.model.lm_head.weight.detach() * 2)
    found = quantize.quantize(student, by_part.plan("smallest"))
    assert found.tied == "never" and not found.notes
    assert not np.array_equal(found.tensors[HEAD].scales, found.tensors[EMBEDDING].scales)


def test_float16_is_for_matrices_and_tables() -> None:
    student = fresh()
    found = quantize.quantize(student, by_part.plan("int4", {"vision": "fp16", "embeddings": "fp16"}))
    assert EMBEDDING in found.float16 and HEAD not in found.float16
    assert "model.vision_model.embeddings.patch_embedding.weight" in found.float16
    assert not [name for name in found.float16 if name.endswith("bias") or "norm" in name]
    assert found.parts["vision"] == "float16"
    student = fresh()
    student.model.lm_head.weight.data[0, 0] = 1e6
    with pytest.raises(UserError, match="holds numbers that float16 doesn't"):
        quantize.quantize(student, by_part.plan("fp16"))


def test_words_for_the_manifest() -> None:
    found = quantize.quantize(fresh(), by_part.plan("int4-g128"))
    assert found.parts["decoder"].startswith("int4, groups of 128")
    assert found.parts["head"] == found.parts["embeddings"] == "float32"  # 64 input features have no group of 128
    assert "lm_head: 64 input features are no multiple of 128" in found.kept_float32
    assert quantize.quantize(fresh(), by_part.plan("int8-a8")).activations["decoder"] == 8


def test_the_longest_prefix_says_the_part() -> None:
    prefixes = {"decoder": "model.text.", "embeddings": "model.text.embed_tokens."}
    assert part_of("model.text.embed_tokens.weight", prefixes) == "embeddings"
    assert part_of("model.text.layers.0.weight", prefixes) == "decoder"
    assert part_of("model.other", prefixes) is None


def test_an_unknown_method_is_one_sentence() -> None:
    with pytest.raises(UserError, match="no quantization method 'gtpq'; did you mean 'gptq'"):
        quantize.quantize(fresh(), by_part.plan("int4"), method="gtpq")
