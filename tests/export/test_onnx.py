"""ONNX files carry torchao's integers, transformers.js's names, fast kernels, and nothing of the exporting machine."""

import json
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from onnx import numpy_helper
from torch import nn
from torchao.quantization import IntxWeightOnlyConfig, quantize_
from torchao.quantization.granularity import PerGroup

from masters_edge.bundle import manifest as manifests
from masters_edge.export import export_student
from masters_edge.export.lowering import onnx_graphs
from masters_edge.export.quantize.record import QuantizedTensor
from masters_edge.export.student import load
from masters_edge.export.targets import onnx as target
from masters_edge.quantization.schemes import SCHEMES
from masters_edge.runtime import Student
from tests import shared, tiny, wide
from tests.export import bundles, toys

FAMILIES = [("smolvlm", False), ("idefics3", True)]


def graphs(family: str, splitting: bool, scheme: str = "int4") -> dict[str, onnx.ModelProto]:
    folder = bundles.exported(family, scheme, splitting)
    return {part: onnx.load(folder / file) for part, file in manifests.read(folder).graphs.items()}


@pytest.mark.parametrize(("family", "splitting"), wide.cells(FAMILIES, FAMILIES[:1]))
def test_integers_in_the_bundle_are_torchaos_bit_for_bit(family: str, splitting: bool) -> None:
    """Decoded here by the operator's own specification, not by the code that packed them."""
    model = load(bundles.student(family, splitting)).model
    model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach().clone())
    quantize_(
        model,
        IntxWeightOnlyConfig(torch.int4, PerGroup(32), scale_dtype=torch.float16),
        filter_fn=lambda module, name: isinstance(module, nn.Linear) and module.in_features % 32 == 0,
    )
    expected = {n: m.weight for n, m in model.named_modules() if hasattr(getattr(m, "weight", None), "qdata")}
    found = set()
    for graph in graphs(family, splitting).values():
        arrays = {i.name: numpy_helper.to_array(i) for i in graph.graph.initializer}
        for node in graph.graph.node:
            if node.op_type != "MatMulNBits":
                continue
            assert len(node.input) == 3  # no zero points: the operator's default is 8
            about = {a.name: a.i for a in node.attribute}
            name = node.input[1].removesuffix(".weight.integers")
            packed = arrays[node.input[1]]
            assert packed.dtype == np.uint8
            integers = np.empty((about["N"], about["K"]), np.int8)
            for column in range(about["K"]):
                group, place = divmod(column, about["block_size"])
                integers[:, column] = (packed[:, group, place // 2] >> (4 * (place % 2)) & 15).astype(np.int8) - 8
            scales = arrays[node.input[2]].reshape(about["N"], -1)
            assert np.array_equal(integers, expected[name].qdata.numpy())
            assert np.array_equal(scales, expected[name].scale.float().numpy())
            found.add(name)
    assert found == set(expected)


@pytest.mark.parametrize("scheme", wide.cells(target.SCHEMES, ["int4", "int8"]))
def test_every_scheme_computes_and_decodes(scheme: str, tmp_path: Path) -> None:
    toy = toys.Toy(scheme)
    model = onnx_graphs.lower(toy.part, toy.weights, target.OPSET, target._product)
    ir.save(model, tmp_path / "toy.onnx")
    toys.assert_same_integers(toy.weights, target.integers(tmp_path, {"toy": "toy.onnx"}))
    kinds = [node.op_type for node in onnx.load(tmp_path / "toy.onnx").graph.node]
    assert kinds.count("MatMulNBits") == (2 if SCHEMES[scheme].bits else 0)
    halves = [i for i in onnx.load(tmp_path / "toy.onnx").graph.initializer if i.name.endswith(".float16")]
    assert len(halves) == (3 if SCHEMES[scheme].float16 else 0)
    assert all(i.data_type == onnx.TensorProto.FLOAT16 for i in halves)
    toys.assert_computes(toy, tmp_path / "toy.onnx")


@pytest.mark.parametrize(
    ("inside", "bits", "group", "block"),
    [(144, 8, 144, 16), (64, 8, 64, 64), (576, 8, 576, 64), (1536, 8, 1536, 128), (100, 8, 100, 32), (96, 4, 32, 32)],
)
def test_blocks(inside: int, bits: int, group: int, block: int) -> None:
    """One scale per channel is repeated for blocks the operator knows; the last block may be filled up."""
    rng = np.random.default_rng(0)
    record = QuantizedTensor(
        "w",
        integers=rng.integers(-8, 8, (5, inside)).astype(np.int8),
        scales=rng.random((5, inside // group)).astype(np.float16),
        zero_points=np.zeros((5, inside // group), np.int8),
        bits=bits,
        group_size=group,
    )
    assert target.block_size(record) == block
    weights, scales, zeros = target.pack(record)
    blocks = -(-inside // block)
    assert weights.shape == (5, blocks, block * bits // 8) and scales.shape == (5 * blocks,) and zeros is None
    assert np.array_equal(target.unpack(weights, bits)[:, :inside], record.integers)
    x = rng.standard_normal((3, inside)).astype(np.float32)
    inputs = [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [3, inside])]
    outputs = [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [3, 5])]
    about = dict(K=inside, N=5, bits=bits, block_size=block, accuracy_level=target.EXACT)
    node = onnx.helper.make_node("MatMulNBits", ["x", "w", "s"], ["y"], domain="com.microsoft", **about)
    held = [numpy_helper.from_array(weights, "w"), numpy_helper.from_array(scales, "s")]
    opsets = [onnx.helper.make_opsetid("", 20), onnx.helper.make_opsetid("com.microsoft", 1)]
    graph = onnx.helper.make_graph([node], "g", inputs, outputs, held)
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10)
    [found] = ort.InferenceSession(model.SerializeToString()).run(None, {"x": x})
    assert np.abs(found - x @ record.dequantize().T).max() < 1e-4


def test_groups_that_the_operator_does_not_know_are_refused() -> None:
    record = QuantizedTensor(
        "w", np.zeros((2, 96), np.int8), np.ones((2, 2), np.float16), np.zeros((2, 2), np.int8), bits=4, group_size=48
    )
    with pytest.raises(ValueError, match="no blocks of 48"):
        target.pack(record)


def test_a_weight_that_feeds_something_else_is_a_clear_error() -> None:
    toy = toys.Toy("int4", misuse=True)
    with pytest.raises(RuntimeError, match="wide.weight feeds .*expected"):
        onnx_graphs.lower(toy.part, toy.weights, target.OPSET, target._product)


def test_packing_by_hand() -> None:
    integers = np.tile(np.arange(-8, 8, dtype=np.int8), 6).reshape(1, 96)
    zeros = np.array([[-8, 0, 7]], np.int8)
    record = QuantizedTensor("w", integers, np.ones((1, 3), np.float16), zeros, bits=4, group_size=32)
    weights, scales, packed_zeros = target.pack(record)
    assert weights.shape == (1, 3, 16) and scales.shape == (3,)
    assert weights[0, 0, :3].tolist() == [0x10, 0x32, 0x54]
    assert packed_zeros is not None and packed_zeros.tolist() == [0x80, 0x0F]


@pytest.mark.wide
def test_a_mixed_plan_keeps_its_parts_apart() -> None:
    """balanced: int4 decoder, the rest int8, embedding and head one tensor; the table is looked up as integers."""
    folder = bundles.exported("smolvlm", "balanced")
    manifest = manifests.read(folder)
    assert manifest.graphs["embed_tokens"] == "onnx/embed_tokens_q4.onnx"
    assert manifest.quantization.tied == "shared"
    assert manifest.parity.exact.equal_answers == 1
    assert manifest.parity.exact.parts["embed_tokens"].max_relative_error == 0
    found = {name: onnx.load(folder / file).graph for name, file in manifest.graphs.items()}
    [table] = [i for i in found["embed_tokens"].initializer if i.name.endswith(".integers")]
    assert table.data_type == onnx.TensorProto.INT8
    assert all(node.domain == "" for node in found["embed_tokens"].node)
    bits = {
        name: {n.input[1]: a.i for n in graph.node for a in n.attribute if a.name == "bits"}
        for name, graph in found.items()
    }
    assert set(bits["vision_encoder"].values()) == {8}
    assert {name for name, number in bits["decoder"].items() if number == 8} == {"lm_head.weight.integers"}
    config = json.loads((folder / "config.json").read_text())
    assert config["transformers.js_config"] == {"dtype": "q4"}


def test_names_follow_the_decoders_scheme() -> None:
    expected = {"fp32": ("fp32", ""), "fp16": ("fp16", "_fp16"), "int8-a8": ("q8", "_quantized"), "int4": ("q4", "_q4")}
    assert {name: onnx_graphs.dtype_of(SCHEMES[name]) for name in expected} == expected


@pytest.mark.wide
@pytest.mark.parametrize(("family", "splitting"), FAMILIES)
def test_names_and_dimensions_are_those_of_transformers_js(family: str, splitting: bool) -> None:
    def ends(values) -> dict[str, list[int | str]]:
        return {v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in values}

    found = graphs(family, splitting)
    inputs = {part: ends(graph.graph.input) for part, graph in found.items()}
    outputs = {part: ends(graph.graph.output) for part, graph in found.items()}
    assert inputs["vision_encoder"] == {
        "pixel_values": ["batch_size", "num_images", 3, 32, 32],
        "pixel_attention_mask": ["batch_size", "num_images", 32, 32],
    }
    types = {v.name: v.type.tensor_type.elem_type for g in found.values() for v in g.graph.input}
    assert types["pixel_attention_mask"] == onnx.TensorProto.BOOL
    assert types["pixel_values"] == types["inputs_embeds"] == types["past_key_values.1.value"] == onnx.TensorProto.FLOAT
    assert types["input_ids"] == types["attention_mask"] == types["position_ids"] == onnx.TensorProto.INT64
    assert list(outputs["vision_encoder"]) == ["image_features"]
    assert inputs["embed_tokens"] == {"input_ids": ["batch_size", "sequence_length"]}
    assert list(outputs["embed_tokens"]) == ["inputs_embeds"]
    cache = [f"{layer}.{which}" for layer in (0, 1) for which in ("key", "value")]
    assert list(inputs["decoder"]) == [
        "inputs_embeds", "attention_mask", "position_ids", *(f"past_key_values.{name}" for name in cache),
        "num_logits_to_keep",
    ]  # fmt: skip
    # The last has a value of its own, so nobody needs to set it.
    assert "num_logits_to_keep" in {weight.name for weight in found["decoder"].graph.initializer}
    assert inputs["decoder"]["past_key_values.0.key"] == ["batch_size", 2, "past_sequence_length", 16]
    assert list(outputs["decoder"]) == ["logits", *(f"present.{name}" for name in cache)]


def test_it_ships_with_fast_kernels_and_a_float_embedding() -> None:
    found = graphs("smolvlm", False)
    levels = {a.i for g in found.values() for n in g.graph.node for a in n.attribute if a.name == "accuracy_level"}
    assert levels == {target.FAST}
    assert [node.op_type for node in found["embed_tokens"].graph.node] == ["Gather"]
    folder = bundles.exported("smolvlm", "int4")
    assert sorted(path.name for path in (folder / "onnx").iterdir()) == [
        "decoder_model_merged_q4.onnx", "embed_tokens_q4.onnx", "vision_encoder_q4.onnx"
    ]  # fmt: skip


def test_nothing_of_the_exporting_machine_is_inside() -> None:
    for folder in (bundles.exported("smolvlm", "int4"), bundles.exported("smolvlm", "fp32", True)):
        for path in folder.rglob("*"):
            content = path.read_bytes() if path.is_file() else b""
            assert b"site-packages" not in content and b".py" not in content, path
            assert str(shared.root()).encode() not in content, path


@pytest.mark.parametrize(("family", "splitting"), wide.cells(FAMILIES, FAMILIES[:1]))
def test_settings_that_transformers_js_reads(family: str, splitting: bool) -> None:
    folder = bundles.exported(family, "int4", splitting)

    def read(name: str) -> dict:
        return json.loads((folder / name).read_text(encoding="utf-8"))

    assert read("config.json")["transformers.js_config"] == {"dtype": "q4"}
    assert read("config.json")["model_type"] == family
    image = read("preprocessor_config.json")
    assert image["processor_class"] == {"smolvlm": "SmolVLMProcessor", "idefics3": "Idefics3Processor"}[family]
    assert image["do_image_splitting"] is splitting and image["max_image_size"] == {"longest_edge": 32}
    assert read("processor_config.json")["image_seq_len"] == tiny.IMAGE_SEQ_LEN
    assert (
        read("tokenizer_config.json")["chat_template"]
        == (folder / "chat_template.jinja").read_text()
        == (tiny.CHAT_TEMPLATE)
    )
    assert read("generation_config.json")["eos_token_id"] == 2


@pytest.mark.wide
def test_weights_in_a_file_beside_the_graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_graphs, "EXTERNAL_FROM", 100_000)
    out = tmp_path / "out"
    manifest = export_student(
        bundles.student("smolvlm"), target="onnx", scheme="int4", out=out, samples=bundles.samples(1)
    )
    paths = {file.path for file in manifest.files}
    assert "onnx/decoder_model_merged_q4.onnx_data" not in paths
    assert "onnx/vision_encoder_q4.onnx_data" in paths
    config = json.loads((out / "config.json").read_text())
    assert config["transformers.js_config"]["use_external_data_format"] == {"vision_encoder": 1}
    inline = Student.load(bundles.exported("smolvlm", "int4"), backend="onnxruntime")
    image, question = bundles.samples(1)[0]
    assert (
        Student.load(out, backend="onnxruntime").answer(image, question).token_ids
        == inline.answer(image, question).token_ids
    )


@pytest.mark.wide
@pytest.mark.parametrize(("keep", "expected"), [(0, 7), (1, 1), (3, 3)])
def test_only_the_last_logits_where_they_are_asked_for(keep: int, expected: int) -> None:
    folder = bundles.exported("smolvlm", "fp32")
    options = ort.SessionOptions()
    options.log_severity_level = 3
    decoder = ort.InferenceSession(folder / manifests.read(folder).graphs["decoder"], options)
    past = [item for item in decoder.get_inputs() if item.name.startswith("past_key_values.")]
    feed = {
        "inputs_embeds": np.random.default_rng(0).standard_normal((1, 7, 64)).astype(np.float32),
        "attention_mask": np.ones((1, 7), np.int64),
        "position_ids": np.arange(7)[None],
        **{item.name: np.zeros((1, item.shape[1], 0, item.shape[3]), np.float32) for item in past},
    }
    whole = decoder.run(["logits"], feed)[0]
    found = decoder.run(["logits"], {**feed, "num_logits_to_keep": np.array([keep], np.int64)})[0]
    assert whole.shape[1] == 7 and found.shape[1] == expected
    assert np.abs(found - whole[:, -expected:]).max() <= 1e-6 * np.abs(whole).max()


def test_the_decoder_is_in_onnx_runtimes_own_operators() -> None:
    kinds = [node.op_type for node in graphs("smolvlm", False)["decoder"].graph.node]
    assert kinds.count("GroupQueryAttention") == 2 and kinds.count("RotaryEmbedding") == 4
    assert kinds.count("SkipSimplifiedLayerNormalization") == 4 and kinds.count("SimplifiedLayerNormalization") == 1
    assert not {"Softmax", "Pow", "LastTokens"} & set(kinds)
