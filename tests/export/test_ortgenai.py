"""onnxruntime-genai itself loads the finished folder and answers as PyTorch does, from a picture file."""

import functools
import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from masters_edge.bundle import manifest as manifests
from masters_edge.export.genai import ortgenai
from masters_edge.export.graphs import qwen_vl
from masters_edge.export.quantize import quantize
from masters_edge.export.student import LoadedStudent, load
from masters_edge.export.targets import onnx as onnx_target
from masters_edge.quantization import by_part
from masters_edge.runtime.prompt import Prompt
from tests import tiny, wide
from tests.export import bundles

FAMILIES = ["qwen2_5_vl", "qwen3_vl"]
QUESTION = "what is in this image?"
SIZES = [(32, 32), (70, 51), (300, 200)]
NEW = 24
IMAGE_TOKEN = 7


@functools.lru_cache
def finished(family: str, scheme: str) -> tuple[LoadedStudent, Path]:
    """The student as exported, and a copy of its bundle that multiplies exactly."""
    student = load(bundles.student(family))
    quantize(student, by_part.plan(scheme))
    folder = bundles.root() / f"{family}-{scheme}-genai"
    shutil.copytree(bundles.exported(family, scheme), folder)
    for file in manifests.read(
        folder
    ).graphs.values():  # the fast kernels that ship round activations to 8 bits, which PyTorch doesn't
        model = onnx.load(folder / file)
        for attribute in (a for node in model.graph.node for a in node.attribute if a.name == "accuracy_level"):
            attribute.i = onnx_target.EXACT
        onnx.save(model, folder / file)
    return student, folder


@pytest.mark.parametrize("scheme", wide.cells(["fp32", "int4"], ["fp32"]))
@pytest.mark.parametrize("family", wide.cells(FAMILIES, ["qwen3_vl"]))
def test_answers_equal_pytorch(family: str, scheme: str, tmp_path: Path) -> None:
    genai = pytest.importorskip("onnxruntime_genai")
    student, folder = finished(family, scheme)
    text = Prompt(folder).text(QUESTION)
    model = genai.Model(str(folder))
    processor = model.create_multimodal_processor()
    for seed, size in enumerate(SIZES):
        picture = tiny.picture(*size, seed=seed)
        picture.save(tmp_path / "picture.png")
        reference = qwen_vl.Reference(student, picture, QUESTION, NEW)
        inputs = processor(text, images=genai.Images.open(str(tmp_path / "picture.png")))
        assert inputs["input_ids"].as_numpy().reshape(-1).tolist() == reference.input_ids[0].tolist()
        pixels = inputs["pixel_values"].as_numpy().reshape(-1)
        assert np.abs(pixels - reference.vision_inputs["pixel_values"].reshape(-1)).max() <= 1e-5
        assert generated(genai, model, inputs, reference.input_ids.shape[1]) == reference.answer


@pytest.mark.parametrize("family", wide.cells(FAMILIES, ["qwen3_vl"]))
def test_a_prompt_without_a_picture_is_answered(family: str) -> None:
    genai = pytest.importorskip("onnxruntime_genai")
    import torch

    student, folder = finished(family, "fp32")
    ids = torch.tensor([Prompt(folder).tokenizer.encode("is there a triangle?").ids])
    model = genai.Model(str(folder))
    inputs = model.create_multimodal_processor()("is there a triangle?")
    with torch.no_grad():
        whole = student.model.generate(ids, max_new_tokens=NEW, do_sample=False)
    assert generated(genai, model, inputs, ids.shape[1]) == whole[0, ids.shape[1] :].tolist()


def test_the_graphs_are_shared_and_transformers_files_stay() -> None:
    student, folder = finished("qwen3_vl", "fp32")
    config = json.loads((folder / "genai_config.json").read_text())["model"]
    graphs = manifests.read(folder).graphs
    assert config["vision"]["filename"] == graphs["vision_encoder"]
    assert config["decoder"]["filename"] == graphs["decoder"]
    assert config["decoder"]["hidden_size"] == 3 * student.model.config.text_config.hidden_size  # DeepStack
    assert config["vision"]["config_filename"] != "processor_config.json"
    exported = bundles.exported("qwen3_vl", "fp32") / "processor_config.json"
    assert (folder / "processor_config.json").read_bytes() == exported.read_bytes()


@pytest.mark.parametrize("external", [False, True])
@pytest.mark.parametrize("count", [0, 2, 3])
def test_features_take_the_image_tokens_places(external: bool, count: int, tmp_path: Path) -> None:
    """Zero features, too few, and one for each place; a table in a file beside the graph is used where it lies."""
    table = np.random.default_rng(0).normal(size=(10, 512)).astype(np.float32)
    onnx.save(
        small_embedding(table),
        tmp_path / "embed_tokens.onnx",
        save_as_external_data=external,
        location="embed_tokens.onnx_data",
    )
    model = onnx.load(tmp_path / "embed_tokens.onnx", load_external_data=False)
    onnx.save(ortgenai.with_features(model, IMAGE_TOKEN), tmp_path / "embedding.onnx")
    assert ((tmp_path / "embedding.onnx").stat().st_size < table.nbytes) == external
    session = ort.InferenceSession(str(tmp_path / "embedding.onnx"), providers=["CPUExecutionProvider"])
    ids = np.asarray([[1, 7, 2, 7], [7, 3, 4, 5]])
    features = np.random.default_rng(1).normal(size=(count, 512)).astype(np.float32)
    found = session.run(None, {"input_ids": ids, "image_features": features})[0]
    expected = table[ids]
    for place, feature in zip([(0, 1), (0, 3), (1, 0)], features):
        expected[place] = feature
    assert np.array_equal(found, expected)


def small_embedding(table: np.ndarray) -> onnx.ModelProto:
    steps = ["batch_size", "sequence_length"]
    graph = helper.make_graph(
        [helper.make_node("Gather", ["table", "input_ids"], ["inputs_embeds"])],
        "embed_tokens",
        [helper.make_tensor_value_info("input_ids", TensorProto.INT64, steps)],
        [helper.make_tensor_value_info("inputs_embeds", TensorProto.FLOAT, [*steps, table.shape[1]])],
        [numpy_helper.from_array(table, "table")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def generated(genai, model, inputs, prompt: int) -> list[int]:
    settings = genai.GeneratorParams(model)
    settings.set_search_options(max_length=prompt + NEW, do_sample=False)
    generator = genai.Generator(model, settings)
    generator.set_inputs(inputs)
    found = []
    while not generator.is_done():
        generator.generate_next_token()
        found.append(int(generator.get_next_tokens()[0]))
    return found
