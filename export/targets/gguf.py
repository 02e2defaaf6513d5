"""GGUF for llama.cpp: `model.gguf` and `mmproj.gguf`, torchao's int4 as Q4_0 blocks and int8 as Q8_0 blocks.

At exact settings both files are float32, with what the integers mean: llama.cpp's integer kernels round the activations
to 8 bits, so parity is proven on these. Then `ship` writes the integers themselves. `llamacpp.json` tells our runtime
how to hand pictures over.
"""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np

from masters_edge.common.errors import UserError
from masters_edge.export.gguf_files import blocks, files, text, tokenizer, vision
from masters_edge.export.settings import write_json, write_settings
from masters_edge.export.student import LoadedStudent
from masters_edge.export.targets import Lowering

BACKEND = "llamacpp"
VERSIONS = ("gguf", "xllamacpp")
SCHEMES = ("fp32", "fp16", "int8", "int4", "int4-g64", "int4-g128")
# Files of float32 are what is proven, but what runs them ships with a cache and attention in float16.
SHIPS_FASTER = True
_LLAMA = ("llama.cpp and what is built on it, with `model.gguf` and `mmproj.gguf`",)
RUNTIMES = dict.fromkeys(("smolvlm", "idefics3", "qwen2_5_vl", "qwen3_vl", "internvl"), _LLAMA)
MODEL, VISION = "model.gguf", "mmproj.gguf"


def write(lowering: Lowering) -> dict[str, str]:
    """Both files at exact arithmetic, and the settings around them."""
    graphs = {"vision_encoder": VISION, "embed_tokens": MODEL, "decoder": MODEL}
    write_settings(lowering.student, lowering.folder)
    _, pictures = vision.content(lowering.student)
    lowering.weights.notes.extend(vision.notes(lowering.student))
    image_token = int(lowering.student.model.config.image_token_id)
    write_json(lowering.folder / "llamacpp.json", {**asdict(pictures), "image_token_id": image_token})
    _write(lowering, exact=True)
    _check_tokenizer(lowering, graphs)
    lowering.on_part(len(lowering.parts))
    return graphs


def ship(lowering: Lowering, graphs: dict[str, str]) -> bool:
    """The files with the integers; False where every part is float32."""
    if not lowering.weights.tensors and not lowering.weights.float16:
        return False
    lowering.weights.notes.extend(
        f"{record.name} is int8, but float32 in the GGUF file, as its {record.integers.shape[1]} input features are no "
        f"multiple of {blocks.BLOCK}; its numbers are the integers' all the same"
        for record in lowering.weights.tensors.values()
        if not blocks.fits(record)
    )
    _write(lowering, exact=False)
    return True


def unsupported(student: LoadedStudent) -> str | None:
    """Why this student can't become GGUF, if it can't."""
    return vision.unsupported(student) or text.unsupported(student)


def integers(folder: Path, graphs: dict[str, str]) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Every quantized parameter of the finished files: name, int8 [out, in], float32 scales [out, in / 32]."""
    for file in sorted(set(graphs.values())):
        yield from files.read_integers(folder / file)


def _write(lowering: Lowering, exact: bool) -> None:
    parameters = lowering.student.model.named_parameters(remove_duplicate=False)
    values = {name: parameter.detach().float().numpy() for name, parameter in parameters}
    encoder, _ = vision.content(lowering.student)
    model = text.content(lowering.student, tokenizer.keys(lowering.student))
    for name, content in ((VISION, encoder), (MODEL, model)):
        files.write(lowering.folder / name, content, values, lowering.weights, exact)


def _check_tokenizer(lowering: Lowering, graphs: dict[str, str]) -> None:
    """Raise UserError unless llama.cpp makes the tokenizer's own ids of a few hard texts and of every added token."""
    from masters_edge.runtime.contained import Contained

    ours = lowering.student.processor.tokenizer
    contained = lowering.contained or Contained(BACKEND, "gguf", 1)
    backend = contained.open(lowering.folder, graphs, exact=True)
    rows = lowering.student.model.get_input_embeddings().weight.shape[0]
    added = "".join(text for text, token in ours.get_added_vocab().items() if token < rows)
    try:
        for probe in [*tokenizer.PROBES, added]:
            words = backend.misread(ours(probe, add_special_tokens=False).input_ids, ours.backend_tokenizer)
            if words is not None:
                raise UserError(
                    f"llama.cpp cuts {words!r} into other tokens than the student's tokenizer, whose way to cut words "
                    "is not written to GGUF here; export to another target, such as onnx (no bundle was written)"
                )
    finally:
        if contained is not lowering.contained:
            contained.close()
