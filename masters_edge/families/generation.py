"""How a checkpoint writes: by the settings that the caller gives, up to the checkpoint's own end tokens.

transformers fills whatever a caller leaves open from the checkpoint's `generation_config.json`, and published ones have
a repetition penalty, a temperature, beams or forbidden words in it. Whoever calls a model's `generate` here goes
through `generate`, so that of that file only the end tokens, and the longest answer where nobody says one, count.
"""

from collections.abc import Mapping
from typing import Any

# What a server with transformers' settings is told, so that it takes nothing from the checkpoint's file.
NEUTRAL = {
    "num_beams": 1,
    "min_length": 0,
    "min_new_tokens": 0,
    "repetition_penalty": 1.0,
    "encoder_repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "encoder_no_repeat_ngram_size": 0,
    "min_p": 0.0,
    "typical_p": 1.0,
    "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0,
    "guidance_scale": 1.0,
}


def end_ids(generation: Any, tokenizer: Any) -> list[int]:
    """Ids that end an answer, the tokenizer's own first: all that a `GenerationConfig` names, or else the tokenizer's.

    Empty where neither knows one.
    """
    own, named = tokenizer.eos_token_id, generation.eos_token_id
    ends = own if named is None else named
    ends = ends if isinstance(ends, list) else [] if ends is None else [ends]
    return sorted(ends, key=lambda token: token != own)


def generate(model: Any, inputs: Mapping[str, Any], *, ends: list[int], pad: int | None, **options: Any) -> Any:
    """`model.generate`, greedy unless `options` say otherwise; int64 [rows, prompt + new tokens].

    `inputs`: what the model takes. `options`: further fields of a `GenerationConfig` (`max_new_tokens` among them), and
    `logits_processor` or `streamer`.
    """
    from transformers import GenerationConfig

    others = {name: options.pop(name) for name in ("logits_processor", "streamer") if name in options}
    settings = GenerationConfig(**{"do_sample": False, "eos_token_id": ends or None, "pad_token_id": pad} | options)
    # Adapters around a model (peft) hand the call on to it, and it is the model's own settings that would be taken.
    owner = getattr(model.generate, "__self__", model)
    own, owner.generation_config = owner.generation_config, GenerationConfig()
    try:
        return model.generate(**inputs, **others, generation_config=settings)
    finally:
        owner.generation_config = own
