"""What is advised about students that can't be exported as they are, schemes and places."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from masters_edge.common import extras
from masters_edge.export import disk_space, export_student, graphs, pipeline, target_names
from masters_edge.export import student as students
from masters_edge.export.genai import transformers_js
from masters_edge.export.gguf_files import tokenizer
from masters_edge.export.graphs import internvl
from masters_edge.export.quantize import load, save
from masters_edge.export.quantize.record import SCHEMA_VERSION
from masters_edge.export.quantize.weights import quantize
from masters_edge.export.targets import Lowering, coreml
from masters_edge.quantization import by_part
from tests.advice import follows, said
from tests.export import bundles

PREFIXES = graphs.family("smolvlm").WEIGHTS


@pytest.fixture
def student(tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundles.student("smolvlm"), tmp_path / "student"))


@follows(
    "there is no student folder {}; train one with `masters-edge distill RECIPE`",
    "{} has no config.json; give the folder of a checkpoint saved by transformers",
    "{} names no model_type; give the folder of a checkpoint saved by transformers",
    "student.py: {} can't be read ({}); save the student again",
    "the student in {} can't be loaded ({}); save model and processor again",
    "the student in {} lacks weights its config.json asks for ({}); take config.json and weights from one checkpoint",
    "disk_space.py: {} can't be loaded (it is no safetensors file); save the student again",
)
def test_a_student_saved_again(student: Path, tmp_path: Path) -> None:
    with said("masters-edge distill RECIPE"):  # which writes the folder given here as `student`
        students.load(tmp_path / "none")
    config, weights = student / "config.json", student / "model.safetensors"
    own, tensors = config.read_text(), weights.read_bytes()
    config.unlink()
    with said("has no config.json; give the folder"):
        students.load(student)
    config.write_text("{}")
    with said("names no model_type; give the folder"):
        students.load(student)
    config.write_text("{")
    with said("save the student again"):
        students.load(student)
    config.write_text(own)
    weights.write_bytes(b"no weights")
    with said("save model and processor again"):
        students.load(student)
    with said("save the student again"):
        disk_space.weights_by_part(student, PREFIXES)
    weights.write_bytes(tensors)
    found = load_file(weights)
    save_file({name: found[name] for name in found if "layers.1" not in name}, weights, {"format": "pt"})
    with said("take config.json and weights from one checkpoint"):
        students.load(student)
    weights.write_bytes(tensors)
    assert disk_space.weights_by_part(student, PREFIXES)
    loaded = students.load(student)
    loaded.model.save_pretrained(student)
    loaded.processor.save_pretrained(student)
    assert students.load(student).model_type == "smolvlm"


@follows(
    "the disk of {} has {} free, but exporting {} as {} takes about {} (the files, and a copy while they are made)"
)
def test_room_is_made_or_another_disk_taken(student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "empty").mkdir()
    free = {tmp_path / "full": 1000, tmp_path / "empty": 10**10}
    monkeypatch.setattr(shutil, "disk_usage", lambda place: SimpleNamespace(free=free[place]))
    plan = by_part.plan("int4")
    with said("make room, or choose another folder with --out"):
        disk_space.check(tmp_path / "full" / "out", student, plan, PREFIXES)
    disk_space.check(tmp_path / "empty" / "out", student, plan, PREFIXES)
    free[tmp_path / "full"] = 10**10
    disk_space.check(tmp_path / "full" / "out", student, plan, PREFIXES)


@follows(
    "the export needs samples, (image, question) pairs, to prove parity with, and none was given; give one or more",
    "gptq needs samples, (image, question) pairs, to look at; give some, or use hqq or rtn",
)
def test_samples_or_another_method(student: Path, tmp_path: Path) -> None:
    with said("give one or more"):  # with one it is exported: what every test of the export does
        export_student(student, target="onnx", scheme="fp32", out=tmp_path / "out", samples=[])
    plan = by_part.plan("int4")
    with said("give some, or use hqq or rtn"):
        quantize(students.load(student), plan, "gptq", [])
    for method, samples in (("gptq", bundles.samples(1)), ("hqq", []), ("rtn", [])):
        assert quantize(students.load(student), plan, method, samples).tensors


@follows(
    "auto.py: {} needs samples, (image, question) pairs, to look at; give some, or take int4",
    "auto.py: the budget, {} MB, is below what the weights take at the least; give at least {}MB",
)
def test_a_budget_that_is_enough(student: Path) -> None:
    with said("give some, or take int4"):
        quantize(students.load(student), by_part.plan("auto"), "gptq", [])
    assert quantize(students.load(student), by_part.plan("int4")).tensors
    samples = bundles.samples(1)
    with said("or let more parts be int4") as caught:
        quantize(students.load(student), by_part.plan("auto", budget="100KB"), "gptq", samples)
    enough = str(caught.value).partition("give at least ")[2].partition(",")[0]
    assert quantize(students.load(student), by_part.plan("auto", budget=enough), "gptq", samples).tensors
    smaller = by_part.plan("auto", {"embeddings": "int4", "head": "int4", "connector": "int4"}, budget=enough)
    assert quantize(students.load(student), smaller, "gptq", samples).tensors


@follows(
    "pipeline.py: {} can't hold {} weights (asked for {}); use: {}",
    "pipeline.py: exporting to {} needs packages that are not installed ({}); run: pip install 'masters-edge[{}]'",
)
def test_a_scheme_that_the_target_holds_and_the_packages_of_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    target = pipeline._lowering("onnx_portable")
    with said("use: ") as caught:
        pipeline._fits("onnx_portable", target, by_part.plan("int8-a8"))
    for scheme in str(caught.value).rpartition(": ")[2].split(", "):
        pipeline._fits("onnx_portable", target, by_part.plan(scheme))
    for name in target_names():
        module = pipeline._lowering(name)
        for package in set(module.VERSIONS) - {"onnxruntime"}:  # which comes without an extra
            assert extras.extra_with(package.replace("-", "_")) is not None, package

    def missing(package: object, name: str) -> None:
        raise ModuleNotFoundError("No module named 'coremltools'", name="coremltools")

    monkeypatch.setattr(pipeline.registry, "load", missing)
    with said("run: pip install 'masters-edge[coreml]'"):
        pipeline._lowering("coreml")


@follows(
    "record.py: {} can't be read ({}); quantize the student again",
    "weights.py: {} can't be read ({}); quantize the student again",
    "{} has schema version {}, this masters-edge reads {}; quantize again",
)
def test_quantized_again(student: Path, tmp_path: Path) -> None:
    from safetensors.numpy import save_file as save_arrays

    path = tmp_path / "quantized.safetensors"
    made = quantize(students.load(student), by_part.plan("int4"))
    one = {"one": np.zeros(1, np.float32)}
    for metadata, words in (
        ({"schema_version": "0"}, "quantize again"),
        ({"schema_version": SCHEMA_VERSION, "tensors": "{}"}, "quantize the student again"),
        ({"schema_version": SCHEMA_VERSION, "tensors": "{"}, "quantize the student again"),
    ):
        save_arrays(one, path, metadata)
        with said(words):
            load(path)
        save(path, made)
        assert load(path).tensors.keys() == made.tensors.keys()


@follows(
    "{} holds numbers that float16 doesn't; give its part ({}) another scheme",
    "{} holds numbers that float16 doesn't, and Core ML computes in it; use --quant fp32",
)
def test_another_scheme_where_float16_is_too_narrow(student: Path, tmp_path: Path) -> None:
    def large() -> Any:
        loaded = students.load(student)
        loaded.model.model.text_model.layers[0].mlp.up_proj.weight.data[0, 0] = 1e6
        return loaded

    with said("give its part (decoder) another scheme"):
        quantize(large(), by_part.plan("fp16"))
    weights = quantize(large(), by_part.plan("fp16", {"decoder": "fp32"}))
    assert weights.float16
    with said("use --quant fp32"):
        coreml._round(Lowering(large(), quantize(large(), by_part.plan("fp16", {"decoder": "fp32"})), [], tmp_path))
    assert not coreml._half(Lowering(large(), quantize(large(), by_part.plan("fp32")), [], tmp_path))


@follows("{} can't be integers in ExecuTorch; leave the embeddings float: --quant.embeddings fp32")
def test_embeddings_stay_float_in_executorch() -> None:
    pytest.importorskip("executorch")
    from masters_edge.export.static_graphs import xnnpack

    record = SimpleNamespace(name="embed_tokens.weight")
    with said("--quant.embeddings fp32"):
        xnnpack.layer(torch.nn.Embedding(4, 4), record)  # type: ignore[arg-type]
    assert by_part.plan("int4-a8", {"embeddings": "fp32"}).parts["embeddings"].name == "fp32"
    assert xnnpack.layer(torch.nn.Embedding(4, 4), None) is None


@follows(
    "students of model_type {} can't be exported yet; these can: {}",
    "{} asks for vision_feature_layer {}; an InternVL can be exported with -1 only: train one that has it",
)
def test_a_student_that_can_be_exported() -> None:
    with said("these can: ") as caught:
        graphs.family("llava")
    assert all(graphs.family(name) for name in str(caught.value).rpartition(": ")[2].split(", "))
    loaded = students.load(bundles.student("internvl3"))
    loaded.model.config.vision_feature_layer = -2
    with said("train one that has it"):
        internvl._vision_part(loaded)
    loaded.model.config.vision_feature_layer = -1
    assert internvl._vision_part(loaded).name == "vision_encoder"


@follows(
    "the chat template of the student in {} doesn't write {} where a picture stands; save its processor with a template"
)
def test_a_template_with_the_placeholder_in_it(tmp_path: Path) -> None:
    loaded = students.load(bundles.student("internvl3"))
    for name in ("config", "preprocessor_config", "processor_config", "tokenizer_config", "generation_config"):
        (tmp_path / f"{name}.json").write_text("{}")
    template = loaded.processor.chat_template
    loaded.processor.chat_template = template.replace("<IMG_CONTEXT>", "{{ '<IMG_' + 'CONTEXT>' }}")
    with said("save its processor with a template that does"):
        transformers_js._as_llava(loaded, tmp_path)
    loaded.processor.chat_template = template
    transformers_js._as_llava(loaded, tmp_path)
    assert "<img><IMG_CONTEXT></img>" in json.loads((tmp_path / "tokenizer_config.json").read_text())["chat_template"]


@follows(
    "{} is no byte-level BPE, the only kind written to GGUF here; export to another target, such as onnx",
    "cuts words in a way that llama.cpp has no name for here ({}); expected that of one of: {}; export",
    "pipeline.py: {}; export to another target, such as onnx (nothing was written)",
)
def test_what_gguf_does_not_take(tmp_path: Path) -> None:
    """The remedy is what `tests/export/test_table.py` shows: ONNX takes every family, with any tokenizer."""
    pytest.importorskip("gguf")
    loaded = students.load(bundles.student("smolvlm"))
    steps = {"pre_tokenizer": {"type": "Whitespace"}}
    for state, words in (
        ({"model": {"type": "Unigram"}}, "no byte-level BPE, the only kind"),
        ({"model": {"type": "BPE"}, **steps}, "has no name for here"),
    ):
        with said(words) as caught:
            tokenizer._way(state, loaded)
        assert str(caught.value).endswith("export to another target, such as onnx")
    with said("export to another target, such as onnx (nothing was written)"):
        export_student(
            bundles.student("llava_onevision"), target="gguf", scheme="fp32", out=tmp_path, samples=bundles.samples(1)
        )
