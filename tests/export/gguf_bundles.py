"""Tiny students as GGUF, each made once in a test session, and questions to them beside what PyTorch says."""

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from masters_edge.export import graphs
from masters_edge.export.quantize.weights import quantize
from masters_edge.export.student import LoadedStudent, load
from masters_edge.export.targets import Lowering
from masters_edge.export.targets import gguf as target
from masters_edge.quantization.by_part import plan
from masters_edge.runtime.backends import WholeQuestion
from masters_edge.runtime.backends.llamacpp import LlamaCpp, open_backend
from masters_edge.runtime.families import open_family
from masters_edge.runtime.prompt import Prompt
from tests import shared, tiny
from tests.export import bundles

NEW_TOKENS = 12
QUESTION = "what is in this image?"


@dataclass(frozen=True)
class Made:
    """A finished folder: `exact` before the integers were written, `shipped` after."""

    student: LoadedStudent
    lowering: Lowering
    graphs: dict[str, str]
    exact: Path
    shipped: Path


def windows(folder: Path, seed: int = 0) -> Path:
    """A Qwen2.5-VL with windows of 112 pixels, the only ones llama.cpp knows."""
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    vision = dict(window_size=112, fullatt_block_indexes=[1])
    config = functools.partial(tiny._qwen_config, Qwen2_5_VLConfig, vision, dict(mrope_section=[2, 3, 3]), tied=False)
    return tiny._qwen(folder, seed, Qwen2_5_VLForConditionalGeneration, config, "qwen2_5_vl")


def tiled(folder: Path, width: int = 144) -> Path:
    """A SmolVLM whose pictures are always cut, and whose tokenizer has two line breaks as one token, as the real ones;
    `width` of the vision MLPs."""
    texts, config = tiny.TEXTS, tiny._config

    def changed(tokenizer: Any) -> dict:
        found = config(tokenizer)
        return found | {"vision_config": found["vision_config"] | {"intermediate_size": width}}

    tiny.TEXTS, tiny._config = [*texts, "one.\n\ntwo.\n\n"], changed
    try:
        return tiny.smolvlm(folder, splitting=True)
    finally:
        tiny.TEXTS, tiny._config = texts, config


def one_more(folder: Path) -> Path:
    """An InternVL3 whose tokenizer has an id more than there are embeddings, as the published one (`<video>`)."""
    from masters_edge.families import load_processor

    processor = load_processor(str(tiny.internvl3(folder)))
    processor.tokenizer.add_tokens(["</s>"], special_tokens=True)  # an end to llama.cpp
    processor.save_pretrained(folder)
    return folder


STUDENTS = {
    **{name: tiny.FAMILIES[name] for name in ("smolvlm", "idefics3", "qwen3_vl", "internvl3_5")},
    "internvl3": one_more,
    "qwen2_5_vl": windows,
    "smolvlm_whole": functools.partial(tiny.smolvlm, splitting=False),
    "smolvlm_tiled": tiled,
    "smolvlm_square": functools.partial(tiled, width=64),
}


@functools.lru_cache
def student(name: str) -> Path:
    return shared.once(f"gguf-{name}", STUDENTS[name])


@functools.lru_cache
def made(name: str, scheme: str) -> Made:
    loaded = load(student(name))
    weights = quantize(loaded, plan(scheme))
    exact, shipped = (bundles.root() / f"gguf-{name}-{scheme}-{which}" for which in ("exact", "shipped"))
    for folder in (exact, shipped):
        folder.mkdir()
    written = target.write(Lowering(loaded, weights, [], exact))
    lowering = Lowering(loaded, weights, [], shipped)
    target.write(lowering)
    target.ship(lowering, written)
    return Made(loaded, lowering, written, exact, shipped)


def backend(of: Made, exact: bool) -> LlamaCpp:
    return open_backend(of.exact if exact else of.shipped, of.graphs, 1, exact)


def question(of: Made, image: Image.Image, text: str = QUESTION) -> WholeQuestion:
    family, prompt = open_family(of.student.model_type, of.exact), Prompt(of.exact)
    seen = family.look(image)
    image_text = family.image_text(seen)
    ids = prompt.ids(text, family.placeholder, image_text)
    return WholeQuestion(seen, family.placeholder, image_text, ids, prompt.tokenizer)


def reference(of: Made, image: Image.Image, text: str = QUESTION) -> Any:
    """What PyTorch says, with the very numbers the integers mean."""
    return graphs.family(of.student.model_type).Reference(of.student, image, text, NEW_TOKENS)


def stop_ids(of: Made) -> list[int]:
    stops = of.student.model.generation_config.eos_token_id
    return stops if isinstance(stops, list) else [stops]
