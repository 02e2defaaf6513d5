"""Static graphs compute what transformers computes, for each family: chunks, single steps, vision, integers."""

from collections.abc import Mapping

import numpy as np
import pytest
import torch

from masters_edge.common.errors import UserError
from masters_edge.export import graphs, static_graphs
from masters_edge.export.quantize.record import QuantizedTensor
from masters_edge.export.static_graphs.decoder import Decoder
from masters_edge.export.static_graphs.parts import StaticPart
from masters_edge.export.static_graphs.weights import QuantizedEmbedding, QuantizedLinear, quantized, replaced
from masters_edge.export.static_graphs.xnnpack import DynamicLinear, TanhGelu
from masters_edge.export.student import load
from masters_edge.runtime.backends._static import StaticStudent
from tests import tiny
from tests.export import bundles

FAMILIES = sorted(tiny.FAMILIES)


class Eager:
    """Runs the static modules as they are, by functions and fixed shapes (`_static.Runner`)."""

    name = "eager"

    def __init__(self, parts: list[StaticPart]) -> None:
        self.parts = {part.name: part for part in parts}

    def shapes(self, part: str, function: str) -> dict[str, tuple[int, ...]]:
        return {name: tuple(example.shape) for name, example in self.parts[part].functions[function].items()}

    def run(self, part: str, function: str, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        feed = {name: torch.from_numpy(array) for name, array in inputs.items()}
        assert {n: tuple(t.shape) for n, t in feed.items()} == self.shapes(part, function)
        with torch.no_grad():
            return self.parts[part].module(**feed).numpy()

    def forget(self) -> None:
        pass


def opened(family: str, context: int | None = None) -> tuple:
    student = load(bundles.student(family, family in ("smolvlm", "idefics3")))
    if context:
        student.model.config.text_config.max_position_embeddings = context
        static_graphs.text_model(student.model).config.max_position_embeddings = context
    assert static_graphs.unsupported(student) is None
    return student, StaticStudent(Eager(static_graphs.parts(student, torch.int64)))


def error(ours: np.ndarray, theirs: np.ndarray) -> float:
    assert ours.shape == theirs.shape
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


@pytest.mark.parametrize("family", FAMILIES)
def test_every_part_equals_transformers(family: str) -> None:
    student, backend = opened(family)
    reference = graphs.family(student.model_type).Reference
    for image, question in bundles.samples():
        expected = reference(student, image, question, 6)
        assert error(backend.vision(expected.vision_inputs), expected.features) < 3e-6
        assert error(backend.embed(expected.input_ids), expected.token_embeds) == 0
        backend.start()
        prompt = expected.input_ids.shape[1]
        found = [backend.forward(expected.embeds, expected.position_ids[..., :prompt])]
        for place, token in enumerate(expected.answer[:-1]):
            at = prompt + place
            embeds = backend.embed(np.array([[token]]))
            found.append(backend.forward(embeds, expected.position_ids[..., at : at + 1]))
        assert error(np.concatenate(found, axis=1), expected.logits) < 5e-6


@pytest.mark.parametrize("family", ["smolvlm", "qwen3_vl"])
@pytest.mark.parametrize("splits", [[100], [64, 36], [1, 70, 29], [99, 1], [30, 64, 6]])
def test_any_split_gives_the_same_logits_up_to_the_last_place(family: str, splits: list[int]) -> None:
    """100 tokens in a cache of 100: where a chunk would reach past its end, steps of one take over."""
    _, backend = opened(family, context=100)
    rng = np.random.default_rng(0)
    embeds = rng.normal(size=(1, 100, backend.runner.shapes("decoder", "decode")["inputs_embeds"][2]))
    embeds, positions = embeds.astype(np.float32), np.arange(100)[None]
    if backend.axes == 3:
        positions = np.stack([positions, positions[:, ::-1], positions // 2])
    whole = np.concatenate([backend.forward(embeds[:, [i]], positions[..., [i]]) for i in range(100)], axis=1)
    backend.start()
    found, done = [], 0
    for count in splits:
        piece = slice(done, done + count)
        found.append(backend.forward(embeds[:, piece], positions[..., piece]))
        done += count
    assert error(np.concatenate(found, axis=1), whole) < 5e-6
    with pytest.raises(UserError, match="longer than the bundle's 100 tokens"):
        backend.forward(embeds[:, :1], positions[..., :1])


def test_each_axis_turns_its_own_frequencies() -> None:
    for family in ("qwen2_5_vl", "qwen3_vl"):
        model = load(bundles.student(family)).model
        decoder = Decoder(model.model.language_model, model.lm_head, 32)
        assert decoder.chosen.sum(0).unique().tolist() == [1.0]
        sections = model.config.text_config.rope_parameters["mrope_section"]
        assert (decoder.chosen[:, 0, 0].sum(-1) / 2).tolist() == sections


def test_integers_stand_in_the_program_and_not_in_the_student() -> None:
    student = load(bundles.student("smolvlm", True))
    integers = np.random.default_rng(0).integers(-8, 8, (64, 64)).astype(np.int8)
    scales = np.full((64, 2), 0.03, np.float16)
    name = "model.text_model.layers.1.self_attn.q_proj.weight"
    record = QuantizedTensor(name, integers, scales, np.zeros((64, 2), np.int8), 4, 32)
    before = student.model.get_parameter(name).clone()
    decoder = static_graphs.parts(student, torch.int64)[2]
    program = decoder.capture("decode", {name: record})
    assert torch.equal(student.model.get_parameter(name), before)
    found = {n: b for n, b in program.named_buffers() if n.endswith(".integers")}
    assert list(found) == ["layers.1.self_attn.q_proj.integers"]
    assert np.array_equal(found["layers.1.self_attn.q_proj.integers"].numpy(), integers)
    assert decoder.student_name("layers.1.self_attn.q_proj.weight") == name


def test_quantized_layers_mean_what_the_record_means() -> None:
    rng = np.random.default_rng(0)
    integers, scales = rng.integers(-8, 8, (6, 64)).astype(np.int8), rng.random((6, 2)).astype(np.float16)
    record = QuantizedTensor("w", integers, scales, rng.integers(-3, 3, (6, 2)).astype(np.int8), 4, 32)
    weight = torch.from_numpy(record.dequantize())
    linear, hidden = torch.nn.Linear(64, 6), torch.randn(3, 64)
    expected = torch.nn.functional.linear(hidden, weight, linear.bias)
    assert torch.equal(QuantizedLinear(linear, record)(hidden), expected)
    assert torch.equal(QuantizedEmbedding(record)(torch.tensor([5, 0])), weight[[5, 0]])
    dynamic = DynamicLinear(linear, record)(hidden)
    assert 0 < (dynamic - expected).abs().max() < 0.02 * expected.abs().max()
    with pytest.raises(RuntimeError, match="belongs to a LayerNorm"):
        quantized(torch.nn.LayerNorm(4), record)


def test_layers_come_back_even_after_a_failure() -> None:
    module = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Sequential(torch.nn.Linear(2, 2)))
    first = list(module.modules())
    with (
        pytest.raises(ValueError),
        replaced(module, lambda _, m: TanhGelu() if isinstance(m, torch.nn.Linear) else None),
    ):
        assert isinstance(module[1][0], TanhGelu)
        raise ValueError
    assert list(module.modules()) == first


def test_gelu_in_plain_operators() -> None:
    x = torch.linspace(-9, 9, 1001)
    assert (TanhGelu()(x) - torch.nn.functional.gelu(x, approximate="tanh")).abs().max() < 1e-6


def test_reasons_why_not() -> None:
    student = load(bundles.student("smolvlm", True))
    student.processor.image_processor.max_image_size = {"longest_edge": 64}
    assert "32 pixels, not the 64" in str(static_graphs.unsupported(student))
    student = load(bundles.student("qwen2_5_vl"))
    student.processor.image_processor.size = {"shortest_edge": 1, "longest_edge": 10**9}
    assert "size.longest_edge" in str(static_graphs.unsupported(student))
    student.model.model.language_model.config.layer_types = ["full_attention", "sliding_attention"]
    assert "sliding attention" in str(static_graphs.unsupported(student))
    student.config["model_type"] = "llava"
    assert "smolvlm" in str(static_graphs.unsupported(student))


def test_pictures_that_do_not_fit() -> None:
    _, backend = opened("smolvlm")
    pixels, mask = np.zeros((1, 1, 3, 32, 32), np.float32), np.ones((1, 1, 32, 32), bool)
    mask[..., 30:] = False
    with pytest.raises(UserError, match="whole frames"):
        backend.vision({"pixel_values": pixels, "pixel_attention_mask": mask})
    with pytest.raises(UserError, match="frames of 32 x 32 pixels, not 16 x 32"):
        backend.vision({"pixel_values": pixels[..., :16]})
    _, backend = opened("qwen2_5_vl")
    with pytest.raises(UserError, match="at most 96 patches, not 200"):
        backend.vision({"pixel_values": np.zeros((200, 384), np.float32), "image_grid_thw": np.array([[1, 10, 20]])})
