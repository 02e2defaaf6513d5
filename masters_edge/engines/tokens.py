"""What these engines share: seeds that others take, and responses that end at the model's own end tokens."""

from collections.abc import Collection, Sequence
from typing import Any

from masters_edge.engines.base import Speaker
from masters_edge.families import generation


def narrow(seed: int) -> int:
    """31 of a seed's 64 bits: JSON readers round beyond 53 bits, servers declare int64 or int32. Responses to one
    question still draw from streams of their own."""
    return seed & 0x7FFF_FFFF


def end_ids(speaker: Speaker) -> list[int]:
    """Ids that end a response, the tokenizer's own first, as the transformers engine has them."""
    from transformers import GenerationConfig

    try:
        settings = GenerationConfig.from_pretrained(speaker.source)
    except OSError:  # a checkpoint without generation_config.json: what a loaded model would have
        settings = GenerationConfig.from_model_config(speaker.prompter.config)
    return generation.end_ids(settings, speaker.prompter.tokenizer)


def cut(ids: Sequence[int], ends: Collection[int], placeholders: Collection[int]) -> list[int]:
    """Up to and with the first end token, or up to the first image placeholder, which no response may hold."""
    for place, token in enumerate(ids):
        if token in placeholders:
            return list(ids[:place])
        if token in ends:
            return list(ids[: place + 1])
    return list(ids)


def retokenized(tokenizer: Any, text: str) -> list[int]:
    """Ids of a server's text. What looks like a special token in it was written letter by letter, since servers leave
    special tokens out: it stays letters."""
    return tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
