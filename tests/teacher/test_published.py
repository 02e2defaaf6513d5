"""A layer is a weight of the checkpoint as published: masks in memory and on disk, bit for bit, whatever is stacked."""

import functools
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from masters_edge.common.errors import UserError
from masters_edge.teacher import published
from masters_edge.teacher.masked_checkpoint import mask_checkpoint
from masters_edge.teacher.masking import MaskedTeacher, maskable

SIZES: dict[str, Any] = dict(hidden_size=32, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2)
SIZES |= dict(num_key_value_heads=1, head_dim=16, vocab_size=64, tie_word_embeddings=False)
SIZES |= dict(pad_token_id=None, bos_token_id=None, eos_token_id=None)
DECODERS: dict[str, dict[str, Any]] = {
    "qwen3_moe": dict(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=8),
    "mixtral": dict(num_local_experts=4, num_experts_per_tok=2),
    "gpt_oss": dict(num_local_experts=4, num_experts_per_tok=2),  # published stacked, with biases of two dimensions
    "qwen2": {},
    "cohere": dict(use_qk_norm=True),  # norms of two dimensions
}


@functools.cache
def saved(model_type: str, folder: Path) -> Path:
    """A tiny decoder in bfloat16, where ties are many; its experts of different scale, as trained ones are."""
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **SIZES | DECODERS[model_type]))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_()
            if "experts" in name and len(parameter) == 4:
                parameter.mul_(torch.arange(1, 5).view(-1, *[1] * (parameter.dim() - 1)))
    model.to(torch.bfloat16).save_pretrained(folder)
    return folder


def load(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype="auto")


@pytest.fixture(params=DECODERS)
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(request.param, tmp_path_factory.getbasetemp() / f"published-{request.param}")


def test_a_mask_in_memory_is_the_mask_on_disk(checkpoint: Path, tmp_path: Path) -> None:
    mask_checkpoint(str(checkpoint), tmp_path / "masked", 0.2)
    model, whole, disk = load(checkpoint), load(checkpoint), load(tmp_path / "masked")
    teacher = MaskedTeacher(model, 0.4)
    for ratio in (0.4, 0.2):  # and back from a larger one
        teacher.set_ratio(ratio)
    for (name, ours), theirs in zip(model.named_parameters(), disk.parameters()):
        assert torch.equal(ours.view(torch.int16), theirs.view(torch.int16)), name
    teacher.set_ratio(0.0)
    for ours, theirs in zip(model.parameters(), whole.parameters()):
        assert torch.equal(ours.view(torch.int16), theirs.view(torch.int16))


def test_every_published_weight_loses_its_share_and_biases_and_norms_nothing(checkpoint: Path, tmp_path: Path) -> None:
    mask_checkpoint(str(checkpoint), tmp_path / "masked", 0.25)
    with safe_open(tmp_path / "masked/model.safetensors", "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    model = load(checkpoint)
    assert {name for _, name, _ in published.weights(model)} == set(tensors)
    masked = maskable(model)
    assert len(masked) == sum(bool((tensor == 0).any()) for tensor in tensors.values())
    for name, tensor in tensors.items():
        never = "bias" in name or "norm" in name or tensor.dim() < 2
        assert int((tensor == 0).sum()) == (0 if never else tensor.numel() // 4), name


@pytest.mark.parametrize(
    ("name", "dimensions", "masked"),
    [
        ("model.layers.0.mlp.experts.3.up_proj.weight", 2, True),
        ("model.layers.0.mlp.experts.gate_up_proj", 3, True),
        ("model.layers.0.mlp.experts.gate_up_proj_bias", 2, False),
        ("model.layers.0.mlp.down_proj.bias", 2, False),
        ("model.layers.0.self_attn.q_norm.weight", 2, False),
        ("model.layers.0.input_layernorm.weight", 2, False),
        ("model.vision_tower.ln_1.weight", 2, False),
        ("model.embed_tokens.weight", 2, True),
        ("model.lnx.proj.weight", 2, True),
        ("model.ada_norm.linear.weight", 2, True),  # a layer inside of a norm's module
        ("model.layers.0.mlp.down_proj.weight", 1, False),
    ],
)
def test_what_is_a_layer(name: str, dimensions: int, masked: bool) -> None:
    assert published.is_layer(name, dimensions) is masked


def test_a_weight_that_no_view_undoes_is_refused_where_it_would_be_masked(tmp_path: Path) -> None:
    """Loaded turned round: what is adjacent on disk is not in memory."""
    from transformers.core_model_loading import Transpose, WeightConverter

    model = load(saved("qwen2", tmp_path / "turned"))
    turn = WeightConverter("mlp.down_proj.weight", "mlp.down_proj.weight", operations=[Transpose(0, 1)])
    model._weight_conversions = [turn]
    with pytest.raises(UserError, match=r"layers.0.mlp.down_proj.weight .* put it under mask.exclude"):
        MaskedTeacher(model, 0.2)
    MaskedTeacher(model, 0.0)
    assert "model.layers.0.mlp.up_proj.weight" in maskable(model, exclude=["*down_proj*"])
