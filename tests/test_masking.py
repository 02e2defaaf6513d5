"""Masked teachers: exact counts, nesting, ties, tied tensors, bit-exact restore."""

import pytest
import torch
from torch import nn

from masters_edge import masking
from tests import tiny


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 5)
        self.body = nn.Sequential(nn.Linear(5, 9), nn.LayerNorm(9), nn.Linear(9, 5))
        self.head = nn.Linear(5, 7, bias=False)
        self.head.weight = self.embed.weight  # tied


def state(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_zeroes_exactly_the_smallest_of_each_layer_and_restores_bits(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = Small().to(dtype)
    before = state(model)
    teacher = masking.MaskedTeacher(model, 0.5)
    for ratio in (0.5, 0.3, 0.45, 0.0):
        teacher.set_ratio(ratio)
        for name, parameter in model.named_parameters():
            if parameter.dim() < 2:
                assert torch.equal(parameter, before[name])
                continue
            dropped = parameter == 0
            assert dropped.sum() == int(ratio * parameter.numel() + 1e-9)
            assert torch.equal(parameter[~dropped], before[name][~dropped])
            if dropped.any():
                assert before[name][dropped].abs().max() <= before[name][~dropped].abs().min()
    assert all(torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())


def test_masks_are_nested_even_with_ties() -> None:
    layer = nn.Linear(10, 10, bias=False)
    nn.init.constant_(layer.weight, 0.5)
    teacher = masking.MaskedTeacher(layer, 0.4)
    teacher.set_ratio(0.1)
    few = layer.weight == 0
    teacher.set_ratio(0.4)
    many = layer.weight == 0
    assert few.sum() == 10 and many.sum() == 40 and (many & few).equal(few)


def test_a_tied_tensor_is_masked_once_and_globs_choose() -> None:
    model = Small()
    assert set(masking.maskable(model)) == {"embed.weight", "body.0.weight", "body.2.weight"}
    assert set(masking.maskable(model, include=["body.*"], exclude=["*.2.*"])) == {"body.0.weight"}


def test_refuses_ratios_outside_its_range() -> None:
    teacher = masking.MaskedTeacher(Small(), 0.2)
    for ratio in (-0.1, 0.25):
        with pytest.raises(ValueError, match="between 0 and r_max"):
            teacher.set_ratio(ratio)


def test_changes_what_a_real_model_says_and_gives_it_back(tmp_path) -> None:
    from masters_edge.families import load_model

    model = load_model(str(tiny.smolvlm(tmp_path / "teacher")))
    ids = torch.arange(10, 30)[None]
    with torch.no_grad():
        whole = model(input_ids=ids).logits
        teacher = masking.MaskedTeacher(model, 0.6)
        teacher.set_ratio(0.6)
        assert not torch.equal(model(input_ids=ids).logits, whole)
        teacher.set_ratio(0.0)
        assert torch.equal(model(input_ids=ids).logits, whole)
