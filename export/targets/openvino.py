"""OpenVINO IR named as openvino-genai and optimum-intel expect: weights compressed in place, the KV cache as state.

Each part's exported program becomes an OpenVINO model. A weight's constant still carries its parameter's name then, and
is replaced by the record's integers and float16 scales in the pattern that OpenVINO keeps compressed. Settings,
tokenizer and detokenizer (as graphs, for openvino-genai) are written beside them.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from masters_edge.common.quiet import import_openvino
from masters_edge.export.genai import openvino_genai
from masters_edge.export.graphs import Part
from masters_edge.export.lowering.openvino_graphs import convert, decode, lower, make_stateful
from masters_edge.export.settings import write_settings
from masters_edge.export.targets import Lowering

openvino = import_openvino()
tokenizers = import_openvino("openvino_tokenizers")

BACKEND = "openvino"
VERSIONS = ("openvino", "openvino-tokenizers")
SCHEMES = ("fp32", "fp16", "int8", "int4", "int4-g64", "int4-g128", "int8-a8", "int4-a8")
# The graphs hold no setting: the backend's `exact` chooses the arithmetic, so what ships is asked again without it.
SHIPS_FASTER = True
_GENAI = "openvino-genai's `VLMPipeline`, as `{}`; `VISION_PREPROCESS=CPP` lets it resize pictures as PyTorch does"
RUNTIMES = {
    "qwen2_5_vl": (_GENAI.format("qwen2_5_vl"),),
    "qwen3_vl": (_GENAI.format("qwen3_vl"),),
    "internvl": (
        "openvino-genai's `VLMPipeline`, as `internvl_chat`, equal where a picture fills its tiles unresized",
    ),
}
# Which part of the plan says whether a graph's activations become int8 on the way, and how many of them share a scale.
SCHEME_OF = {"vision_encoder": "vision", "decoder": "decoder"}
ACTIVATION_GROUP = "32"


def write(lowering: Lowering) -> dict[str, str]:
    """One `.xml` with its `.bin` per part, the tokenizers, and the settings around them. Returns part -> file.

    Where openvino-genai cuts the vision into more graphs, these are parts of their own.
    """
    graphs = {}
    for part, file in openvino_genai.split(lowering.student, lowering.parts):
        openvino.save_model(_model(part, lowering), lowering.folder / file, compress_to_fp16=False)
        graphs[part.name] = file
        lowering.on_part(len(graphs))
    for kind, model in zip(
        ("tokenizer", "detokenizer"),
        tokenizers.convert_tokenizer(lowering.student.processor.tokenizer, with_detokenizer=True),
    ):
        openvino.save_model(model, lowering.folder / f"openvino_{kind}.xml")
    write_settings(lowering.student, lowering.folder)
    openvino_genai.adapt_settings(lowering.student, lowering.folder)
    return graphs


def ship(lowering: Lowering, graphs: dict[str, str]) -> bool:
    """The files are what ships: what is fast about it are the settings they are compiled with."""
    return False


def integers(folder: Path, graphs: dict[str, str]) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Each quantized parameter in the files: its name, integers int8 [out, in], scales float32 [out, groups]."""
    core = openvino.Core()
    for name in graphs.values():
        yield from decode(core.read_model(folder / name))


def _model(part: Part, lowering: Lowering) -> Any:
    """The part as an OpenVINO model, ready to be saved."""
    model, names = convert(part)
    lower(model, {name: part.student_name(inside) for name, inside in names.items()}, lowering.weights)
    if part.name == "decoder":
        make_stateful(model)
    if lowering.weights.activations.get(SCHEME_OF.get(part.name, "")) is not None:
        model.set_rt_info(ACTIVATION_GROUP, ["runtime_options", "DYNAMIC_QUANTIZATION_GROUP_SIZE"])
    return model
