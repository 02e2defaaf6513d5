"""Integers under a budget: scales by search, second-order costs against the KL itself, and what a budget buys."""

import copy
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from masters_edge import workflow
from masters_edge.common.errors import UserError
from masters_edge.data import questions
from masters_edge.data.records import Question
from masters_edge.export.gguf_files import blocks
from masters_edge.export.quantize import auto, curvature, quantize, rtn, scales, spend
from masters_edge.export.quantize.record import QuantizedTensor
from masters_edge.export.quantize.weights import layers_of
from masters_edge.export.student import load
from masters_edge.quantization import by_part
from masters_edge.quantization.schemes import SCHEMES
from masters_edge.responses import store
from tests import tiny
from tests.export import bundles

WIDTH, VOCABULARY = 64, 16


class Net(nn.Module):
    """ids -> logits [tokens, vocabulary]; one layer matters much, one little, one is never reached."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(VOCABULARY, WIDTH)
        self.much = nn.Linear(WIDTH, WIDTH)
        self.little = nn.Linear(WIDTH, WIDTH)
        self.never = nn.Linear(WIDTH, WIDTH)
        self.head = nn.Linear(WIDTH, VOCABULARY)
        with torch.no_grad():
            self.little.weight.mul_(0.02)
        self.requires_grad_(False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        hidden = torch.tanh(2 * self.much(self.table(ids)))
        return self.head(hidden + self.little(hidden))


@pytest.fixture
def net() -> Net:
    return Net()


def texts(net: Net, count: int, length: int = 12) -> list[curvature.Text]:
    every = torch.randint(VOCABULARY, (count, length), generator=torch.Generator().manual_seed(5))
    return [partial(net, ids) for ids in every]


def layers(net: Net) -> auto.Layers:
    of = lambda name, scheme: (net.get_submodule(name), SCHEMES[scheme])  # noqa: E731
    chosen = {"table": "int8", "much": "int4", "little": "int4", "never": "int4", "head": "int8"}
    return {f"{name}.weight": of(name, scheme) for name, scheme in chosen.items()}  # type: ignore[return-value]


@pytest.mark.parametrize(("bits", "group"), [(4, 32), (8, 64)])
def test_scales_by_search_err_less_than_those_of_the_largest_magnitude(bits: int, group: int) -> None:
    weight = torch.randn(40, 64, generator=torch.Generator().manual_seed(0))
    weight[3] = 0
    low, high = -(1 << (bits - 1)), (1 << (bits - 1)) - 1

    def error(factors: torch.Tensor, heavy: torch.Tensor) -> float:
        step = factors.float().repeat_interleave(group, 1)
        return float((((weight / step).round().clamp(low, high) * step - weight).square() * heavy).sum())

    plain = torch.from_numpy(rtn.round_to_nearest("w", weight, SCHEMES["int4" if bits == 4 else "int8"]).scales)
    heavy = torch.ones(64)
    found = scales.least_error(weight, bits, group)
    assert found.dtype == torch.float16 and found.shape == plain.shape and (found > 0).all()
    assert error(found, heavy) < (0.9 if bits == 4 else 1.0) * error(plain, heavy)
    heavy[:4] = 100
    weighed = scales.least_error(weight, bits, group, heavy)
    assert error(weighed, heavy) < error(found, heavy)


def test_costs_are_the_kl_of_a_small_change(net: Net) -> None:
    [text] = texts(net, 1)
    change = 0.01 * torch.randn(WIDTH, WIDTH, generator=torch.Generator().manual_seed(3))
    before = text().log_softmax(-1)
    costs = curvature.costs({"much": net.much, "little": net.little}, {"much": change}, [text] * 400)
    net.much.weight += change
    after = text().log_softmax(-1)
    divergence = float((before.exp() * (before - after)).sum(-1).mean())
    assert costs.keys() == {"much"}
    assert costs["much"] == pytest.approx(divergence, rel=0.25)


def test_a_budget_buys_what_the_answers_owe_most_to(net: Net) -> None:
    exact = copy.deepcopy(net.state_dict())
    found = auto.choices(layers(net), texts(net, 24))
    least = sum(map(spend.size, found.start.values()))
    one = spend.size(found.larger["much.weight"]) - spend.size(found.start["much.weight"])
    bits = lambda budget: {name: tensor.bits for name, tensor in found.within(budget).items()}  # noqa: E731
    start = {"table.weight": 8, "much.weight": 4, "little.weight": 4, "never.weight": 4, "head.weight": 8}
    assert bits(least) == bits(least + one - 1) == start
    assert bits(least + one) == {**start, "much.weight": 8}
    assert bits(10 * least) == {**start, "much.weight": 8, "little.weight": 8}
    with pytest.raises(UserError, match="is below what the weights take at the least"):
        found.within(least - 1)
    assert all(torch.equal(exact[name], now) for name, now in net.state_dict().items())


@pytest.mark.parametrize("scheme", ["int4", "int4-g64", "int8"])
def test_sizes_are_those_of_ggml_blocks(scheme: str) -> None:
    weight = torch.randn(8, 192, generator=torch.Generator().manual_seed(0))
    record: QuantizedTensor = rtn.round_to_nearest("w", weight, SCHEMES[scheme])
    assert spend.size(record) == blocks.encode(record).nbytes


def test_budgets_are_bought_by_gain_for_bytes() -> None:
    upgrades = {
        "dear": spend.Upgrade(5.0, 100),
        "cheap": spend.Upgrade(1.0, 10),
        "small": spend.Upgrade(0.1, 5),
        "useless": spend.Upgrade(0.0, 1),
    }
    assert spend.choose(upgrades, 200) == ["cheap", "dear", "small"]
    assert spend.choose(upgrades, 60) == ["cheap", "small"]
    assert spend.choose(upgrades, 0) == []


def test_budgets_are_read() -> None:
    assert by_part.budget_bytes("92MB", 1) == 92e6
    assert by_part.budget_bytes(" 1.5 GiB ", 1) == 1.5 * 2**30
    assert by_part.budget_bytes("4.5bits", 16) == 9
    for wrong in ("92", "MB", "-1MB", "0MB", "4.5 bits each", "nan"):
        with pytest.raises(UserError, match="write bytes such as 92MB"):
            by_part.budget_bytes(wrong, 16)
    assert np.isfinite(by_part.budget_bytes("4bit", 1))


def test_a_whole_student_under_a_budget(tmp_path: Path) -> None:
    """Within its bytes, the same integers for the next target, weights as the records say, and a table of it."""
    samples = [(tiny.picture(seed=n), tiny.TEXTS[2], "a red square" if n % 2 else None) for n in range(8)]
    kept, plan = tmp_path / "integers.safetensors", by_part.plan("auto", budget="245KB")
    student = load(bundles.student("smolvlm"))
    found = quantize(student, plan, "gptq", samples, kept)
    bits = {name: tensor.bits for name, tensor in found.tensors.items()}
    assert {4, 8} == set(bits.values())
    quantized = {id(student.model.get_parameter(name)): name for name in bits}
    size = sum(
        spend.size(found.tensors[quantized[id(parameter)]]) if id(parameter) in quantized else 4 * parameter.numel()
        for parameter in student.model.parameters()
    )
    assert 0.95 * 245e3 < size <= 245e3
    for name, tensor in found.tensors.items():
        assert torch.equal(student.model.get_parameter(name), torch.from_numpy(tensor.dequantize())), name
    assert f"auto-245kb: {size / 1e6:.2f} of 0.24 MB" in found.notes
    assert "layers int8, per output channel" in found.parts["decoder"]
    again = quantize(load(bundles.student("smolvlm")), plan, "gptq", None, kept)
    assert again.notes == found.notes and again.tensors.keys() == found.tensors.keys()
    for name, tensor in again.tensors.items():
        assert np.array_equal(tensor.integers, found.tensors[name].integers)
        assert np.array_equal(tensor.scales, found.tensors[name].scales)


@pytest.mark.wide
@pytest.mark.parametrize("family", sorted(set(tiny.FAMILIES) - {"smolvlm"}))
def test_students_of_all_families(family: str) -> None:
    """Every layer that texts reach has its cost, those of vision included."""
    student = load(bundles.student(family))
    samples = [(image, question, "a red square") for image, question in bundles.samples(4)]
    texts = auto.texts(student, samples)
    layers = {
        f"{name}.weight": (layer, SCHEMES["int4"])
        for part in ("vision", "connector", "decoder")
        for name, layer in layers_of(student)[part].items()
        if SCHEMES["int4"].fits(layer.weight.shape[1])
    }
    found = auto.choices(layers, texts)
    assert found.costs.keys() == layers.keys() == found.larger.keys()
    assert all(cost > 0 for cost in found.costs.values())


def test_calibration_is_training_questions_with_what_was_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stored response before the label, the label before nothing; held-out questions stay out."""
    image = tmp_path / "picture.png"
    tiny.picture(seed=0).save(image)
    asked = [
        Question(str(n), f"what is {n}?", image, "picture", answer) for n, answer in enumerate(["red", "blue", None])
    ]
    held_out = [Question("9", "kept back?", image, "picture", "yes")]
    monkeypatch.setattr(questions, "read_questions", lambda *_: SimpleNamespace(train=asked, held_out=held_out))
    rows = [{"question_id": "0", "text": "a red square"}, {"question_id": "9", "text": "no"}]
    store.write(tmp_path / "phase-0-joint" / "responses" / "stage-00" / "part-00000.parquet", rows)
    run, recipe = SimpleNamespace(folder=tmp_path, recipe_file=lambda: tmp_path), SimpleNamespace(seed=0)
    found = workflow._calibration(run, recipe)  # type: ignore[arg-type]
    assert found is not None
    assert {text: answer for _, text, answer in found} == {
        "what is 0?": "a red square",
        "what is 1?": "blue",
        "what is 2?": None,
    }
    assert workflow._calibration(None, None) is None
