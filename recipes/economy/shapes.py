"""Models and batches for the measurements in this folder: real transformers classes, random weights, given lengths.

No processor is needed: a prompt is image placeholders and random text up to the length asked for.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from masters_edge.common.quiet import hush, hush_transformers

hush()

IMAGE = 128  # pixels a side
PATCH = 16
IMAGE_TOKENS = (IMAGE // PATCH // 2) ** 2
IMAGE_ID, PAD_ID, END_ID = 3, 0, 2


def smolvlm(hidden: int, layers: int, vocabulary: int, seed: int, attention: str = "sdpa") -> Any:
    """A SmolVLM with a decoder of that shape and a small vision encoder, in evaluation mode."""
    from transformers import SmolVLMConfig, SmolVLMForConditionalGeneration

    hush()
    hush_transformers()
    torch.manual_seed(seed)
    untyped: dict[str, Any] = {"pad_token_id": PAD_ID}  # not among its annotations
    config = SmolVLMConfig(
        image_token_id=IMAGE_ID,
        scale_factor=2,
        **untyped,
        tie_word_embeddings=True,
        vision_config=dict(
            hidden_size=192,
            intermediate_size=768,
            num_hidden_layers=4,
            num_attention_heads=4,
            image_size=IMAGE,
            patch_size=PATCH,
        ),
        text_config=dict(
            model_type="llama",
            hidden_size=hidden,
            intermediate_size=hidden * 8 // 3 // 32 * 32,
            num_hidden_layers=layers,
            num_attention_heads=hidden // 64,
            num_key_value_heads=max(1, hidden // 192),
            head_dim=64,
            vocab_size=vocabulary,
            max_position_embeddings=8192,
            tie_word_embeddings=True,
            pad_token_id=PAD_ID,
            bos_token_id=1,
            eos_token_id=END_ID,
        ),
    )
    return SmolVLMForConditionalGeneration._from_config(config, attn_implementation=attention).eval()


def questions(count: int, prompt: int, vocabulary: int, seed: int = 0) -> tuple[list[list[int]], list[dict[str, Any]]]:
    """Prompts of exactly `prompt` tokens, each with one image, and the images' inputs."""
    random = torch.Generator().manual_seed(seed)
    prompts = [
        [IMAGE_ID] * IMAGE_TOKENS + torch.randint(4, vocabulary, (prompt - IMAGE_TOKENS,), generator=random).tolist()
        for _ in range(count)
    ]
    return prompts, [{"pixel_values": torch.randn(1, 1, 3, IMAGE, IMAGE, generator=random)} for _ in range(count)]


def responses(count: int, length: int, vocabulary: int, seed: int = 1) -> list[list[int]]:
    random = torch.Generator().manual_seed(seed)
    return torch.randint(4, vocabulary, (count, length), generator=random).tolist()


def side_by_side(ways: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Median seconds of each way, taken in turns so that a busy machine is busy for all of them."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for way in ways.values():
        way()  # warm-up
    for _ in range(repeats):
        for name, way in ways.items():
            started = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(values) for name, values in seconds.items()}


def step_sizes(about: str | None) -> argparse.Namespace:
    """What the command line says of a step: questions, prompt, response, group, repeats, threads, out."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=2)
    parser.add_argument("--prompt", type=int, default=512, help="tokens")
    parser.add_argument("--response", type=int, default=32, help="tokens")
    parser.add_argument("--group", type=int, default=8, help="responses to a question")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    return parser.parse_args()
