"""OpenVINO files carry torchao's integers and openvino-genai's names, and compute what PyTorch computes."""

import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torchao.quantization import IntxWeightOnlyConfig, quantize_
from torchao.quantization.granularity import PerGroup
from transformers import AutoTokenizer

from masters_edge.bundle import manifest as manifests
from masters_edge.common.quiet import import_openvino
from masters_edge.export import graphs
from masters_edge.export.graphs import Part
from masters_edge.export.lowering import openvino_graphs
from masters_edge.export.student import load
from masters_edge.export.targets import Lowering
from masters_edge.export.targets import openvino as target
from masters_edge.runtime.backends.openvino import EXACT
from tests import shared
from tests.export import bundles, toys

ov = import_openvino()


@pytest.fixture(scope="module")
def folder() -> Path:
    return bundles.exported("smolvlm", "int4", True, "openvino")


def constants(path: Path) -> dict[str, tuple[str, list[int], bytes]]:
    """Name -> type, shape and bytes of each constant, read from the two files without OpenVINO."""
    content, found = path.with_suffix(".bin").read_bytes(), {}
    for layer in ElementTree.parse(path).getroot().iter("layer"):
        if layer.get("type") == "Const":
            data = layer.find("data")
            assert data is not None
            first, size = int(data.attrib["offset"]), int(data.attrib["size"])
            shape = [int(length) for length in data.attrib["shape"].split(",") if length]
            found[layer.attrib["name"]] = (data.attrib["element_type"], shape, content[first : first + size])
    return found


@pytest.mark.wide
def test_integers_in_the_bundle_are_torchaos_bit_for_bit(folder: Path) -> None:
    """Decoded here from the bytes in the files."""
    model = load(bundles.student("smolvlm", True)).model
    model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach().clone())
    quantize_(
        model,
        IntxWeightOnlyConfig(torch.int4, PerGroup(32), scale_dtype=torch.float16),
        filter_fn=lambda module, name: isinstance(module, nn.Linear) and module.in_features % 32 == 0,
    )
    expected = {
        f"{n}.weight": m.weight for n, m in model.named_modules() if hasattr(getattr(m, "weight", None), "qdata")
    }
    found = set()
    for file in manifests.read(folder).graphs.values():
        inside = constants(folder / file)
        for name in set(inside) & set(expected):
            kind, shape, content = inside[name]
            assert kind == "i4" and shape[-1] == 32
            packed = np.frombuffer(content, np.uint8)
            integers = np.stack([packed & 15, packed >> 4], axis=-1).reshape(shape[0], -1).astype(np.int8)
            integers[integers > 7] -= 16
            assert np.array_equal(integers, expected[name].qdata.numpy())
            kind, shape, content = inside[f"{name}.scales"]
            scales = np.frombuffer(content, np.float16).reshape(shape[0], -1)
            assert kind == "f16" and np.array_equal(scales, expected[name].scale.numpy())
            found.add(name)
    assert found == set(expected)


@pytest.mark.wide
@pytest.mark.parametrize("scheme", target.SCHEMES)
def test_every_scheme_computes_what_pytorch_does(scheme: str, tmp_path: Path) -> None:
    toy = toys.Toy(scheme)
    model, names = openvino_graphs.convert(toy.part)
    openvino_graphs.lower(model, {name: toy.part.student_name(inside) for name, inside in names.items()}, toy.weights)
    path = tmp_path / "toy.xml"
    ov.save_model(model, path, compress_to_fp16=False)
    core = ov.Core()
    toys.assert_same_integers(toy.weights, openvino_graphs.decode(core.read_model(path)))
    kinds = {name: kind for name, (kind, _, _) in constants(path).items() if name.startswith("toy.")}
    weight = {"fp16": "f16", "int8": "i8", "int4": "i4"}.get(scheme.split("-")[0])
    assert {kinds.get(f"toy.{name}.weight") for name in ("table", "wide", "flat")} == {weight}
    ids = torch.arange(21).reshape(3, 7)
    expected = toy.graph(ids).numpy()
    [found] = core.compile_model(path, "CPU", EXACT)([ids.numpy()]).values()
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize(("scheme", "kind"), [("int4", "i4"), ("int8", "i8")])
def test_weights_stay_integers_in_memory(scheme: str, kind: str) -> None:
    """What runs reads the integers: had OpenVINO unpacked the pattern, these would be float32."""
    toy = toys.Toy(scheme)
    model, names = openvino_graphs.convert(toy.part)
    openvino_graphs.lower(model, {name: toy.part.student_name(inside) for name, inside in names.items()}, toy.weights)
    running = ov.Core().compile_model(model, "CPU", EXACT).get_runtime_model()
    about = [(node.get_rt_info(), node) for node in running.get_ops()]
    held = [
        (info["outputPrecisions"].value, list(node.get_output_shape(0)))
        for info, node in about
        if info["layerType"].value == "Const"
    ]
    assert [kind for kind, shape in held if shape in ([40, 128], [256, 128], [64, 256])] == [kind] * 3


def test_a_weight_that_went_missing_is_an_error() -> None:
    toy = toys.Toy("int4")
    model, _ = openvino_graphs.convert(toy.part)
    with pytest.raises(RuntimeError, match=r"toy\.wide\.weight is in the exported program, but not in the OpenVINO"):
        openvino_graphs.lower(model, {"nowhere:0": "toy.wide.weight"}, toy.weights)


class Count(nn.Module):
    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return (values > 0).sum(-1)[:, :, None] * 4


def test_a_count_times_a_number_is_right_in_every_row() -> None:
    """OpenVINO's CPU fuses the two as int32, and gets rows wrong."""
    dynamic = torch.export.Dim.DYNAMIC
    shape: list[int | str] = ["rows", 4, 3]
    part = Part("count", Count(), (torch.ones(5, 4, 3),), ({0: dynamic},), ["values"], ["found"], {"values": shape}, {})
    model, _ = openvino_graphs.convert(part)
    compiled = ov.Core().compile_model(model, "CPU")
    for rows in range(1, 12):
        values = torch.randn(rows, 4, 3)
        assert np.array_equal(compiled([values.numpy()])[0], Count()(values).numpy()), rows


@pytest.mark.wide
def test_names_and_shapes_are_those_of_openvino_genai(folder: Path) -> None:
    files = manifests.read(folder).graphs
    assert files == {
        "vision_encoder": "openvino_vision_embeddings_model.xml",
        "embed_tokens": "openvino_text_embeddings_model.xml",
        "decoder": "openvino_language_model.xml",
    }
    core = ov.Core()
    decoder = core.read_model(folder / files["decoder"])
    inputs = {end.get_any_name(): str(end.get_partial_shape()) for end in decoder.inputs}
    assert inputs == {
        "inputs_embeds": "[?,?,64]",
        "attention_mask": "[?,?]",
        "position_ids": "[?,?]",
        "beam_idx": "[?]",
    }
    assert [end.get_any_name() for end in decoder.outputs] == ["logits"]
    kinds = Counter(node.get_type_name() for node in decoder.get_ops())
    assert kinds["ReadValue"] == kinds["Assign"] == 4 and kinds["ScaledDotProductAttention"] == 2
    vision = core.read_model(folder / files["vision_encoder"])
    assert [end.get_any_name() for end in vision.inputs] == ["pixel_values", "pixel_attention_mask"]


@pytest.mark.wide
def test_the_cache_follows_the_beams() -> None:
    student = load(bundles.student("smolvlm", True))
    model = student.model
    _, _, part = graphs.family("smolvlm").parts(student)
    stateful, _ = openvino_graphs.convert(part)
    openvino_graphs.make_stateful(stateful)
    decoder = ov.Core().compile_model(stateful, "CPU", EXACT).create_infer_request()
    torch.manual_seed(0)
    embeds = torch.randn(2, 6, 64)
    mask = torch.ones(2, 6, dtype=torch.long)
    mask[1, :2] = 0  # left padding
    positions = (mask.cumsum(-1) - 1).clamp(min=0)

    def run(places: slice, beams: list[int]) -> np.ndarray:
        feed = {
            "inputs_embeds": embeds[:, places].numpy(),
            "attention_mask": mask[:, : places.stop].numpy(),
            "position_ids": positions[:, places].numpy(),
            "beam_idx": np.array(beams, np.int32),
        }
        return decoder.infer(feed)["logits"]

    with torch.no_grad():
        hidden = model.model.text_model(inputs_embeds=embeds, attention_mask=mask, position_ids=positions)
        expected = model.lm_head(hidden.last_hidden_state).numpy()
        found = np.concatenate([run(slice(0, 4), [0, 1]), run(slice(4, 5), [0, 1]), run(slice(5, 6), [0, 1])], axis=1)
        assert np.abs(found - expected)[mask.bool().numpy()].max() <= 1e-5 * np.abs(expected).max()
        decoder.reset_state()
        run(slice(0, 5), [0, 1])
        both = run(slice(5, 6), [0, 0])  # the second row goes on from the first one's past
        embeds[1, :5], mask[1], positions[1] = embeds[0, :5], mask[0], torch.arange(6)
        decoder.reset_state()
        run(slice(0, 5), [0, 1])
        assert np.abs(both[0] - expected[0, 5:]).max() <= 1e-5 * np.abs(expected).max()
        assert np.abs(both[0] - run(slice(5, 6), [0, 1])[0]).max() <= 1e-5 * np.abs(expected).max()


def test_the_tokenizer_graphs_say_the_same(folder: Path) -> None:
    import_openvino("openvino_tokenizers")
    core = ov.Core()
    there = core.compile_model(folder / "openvino_tokenizer.xml", "CPU")
    back = core.compile_model(folder / "openvino_detokenizer.xml", "CPU")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for text in ("what is in this image? ", "<image>User: a red square", "naïve 图"):
        ids = there([np.array([text])])["input_ids"]
        assert ids[0].tolist() == tokenizer(text)["input_ids"]
        assert back([ids])["string_output"][0] == tokenizer.decode(ids[0], skip_special_tokens=True)


@pytest.mark.parametrize(("bits", "group"), [(8, "32"), (None, None)])
def test_int8_activations_are_asked_for_in_the_file(bits: int | None, group: str | None, tmp_path: Path) -> None:
    toy = toys.Toy("int4")
    toy.part.name = "vision_encoder"
    weights = replace(toy.weights, activations={"vision": bits, "decoder": None})
    model = target._model(toy.part, Lowering(load(bundles.student("smolvlm", True)), weights, [], tmp_path))
    ov.save_model(model, tmp_path / "toy.xml")
    read = ov.Core().read_model(tmp_path / "toy.xml")
    key = ["runtime_options", "DYNAMIC_QUANTIZATION_GROUP_SIZE"]
    assert (read.get_rt_info(key).value if read.has_rt_info(key) else None) == group


def test_parity_is_that_of_float32(folder: Path) -> None:
    exact = manifests.check(folder).parity.exact
    assert exact.parts["embed_tokens"].max_relative_error == 0
    assert exact.parts["vision_encoder"].max_relative_error < 1e-5
    assert exact.parts["decoder"].max_relative_error < 1e-5
    assert exact.equal_answers == 1


def test_nothing_of_the_exporting_machine_is_inside(folder: Path) -> None:
    for path in folder.rglob("*"):
        content = path.read_bytes() if path.is_file() else b""
        assert b"site-packages" not in content and b".py" not in content, path
        assert str(shared.root()).encode() not in content, path


@pytest.mark.wide
def test_a_lowering_prints_nothing() -> None:
    code = """
from masters_edge.common.quiet import hush
hush()
from masters_edge.export import graphs
from masters_edge.export.lowering import openvino_graphs
from masters_edge.export.targets import openvino
from tests.export import toys
openvino_graphs.convert(toys.Toy("fp32").part)
import sys
assert sys.modules["openvino_telemetry"] is None
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")
