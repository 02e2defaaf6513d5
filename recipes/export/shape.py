"""A student of SmolVLM-256M's shape with random weights, saved like any checkpoint; no hub needed.

SigLIP-B/16 at 512 pixels, 30 decoder layers of 576, vocabulary 49,280 (`HuggingFaceTB/SmolVLM2-256M-Video-Instruct`'s
config). The tokenizer is a small one trained here: what it lacks in words only matters to what is said.
"""

from pathlib import Path
from typing import Any

from masters_edge.common.quiet import hush, hush_transformers

hush()

SPECIAL = ["<|im_start|>", "<|im_end|>", "<end_of_utterance>", "<fake_token_around_image>", "<image>", "<global-img>"]


def build(folder: Path, seed: int = 0) -> Path:
    """Save model and processor into `folder` (1.0 GB in float32)."""
    import torch
    from transformers import SmolVLMConfig, SmolVLMForConditionalGeneration

    from masters_edge.families import processors

    hush()
    hush_transformers()
    tokenizer = processors.tokenizer(
        ["what is in this image? is there a triangle? yes, no, red, blue"] * 10,
        400,
        SPECIAL,
        bos_token="<|im_start|>",
        eos_token="<end_of_utterance>",
        pad_token="<|im_end|>",
        extra_special_tokens=processors.NAMED_TOKENS["smolvlm"],
    )
    images = dict(size={"longest_edge": 512}, max_image_size={"longest_edge": 512}, do_image_splitting=False)
    processor = processors.processor("smolvlm", tokenizer, images, image_seq_len=64)
    ids = dict(pad_token_id=1, bos_token_id=0, eos_token_id=2)
    untyped: dict[str, Any] = {"pad_token_id": 1}  # not among its annotations
    config = SmolVLMConfig(
        image_token_id=processor.image_token_id,
        scale_factor=4,
        **untyped,
        tie_word_embeddings=False,
        vision_config=dict(
            hidden_size=768,
            intermediate_size=3072,
            num_hidden_layers=12,
            num_attention_heads=12,
            image_size=512,
            patch_size=16,
        ),
        text_config=dict(
            model_type="llama",
            hidden_size=576,
            intermediate_size=1536,
            num_hidden_layers=30,
            num_attention_heads=9,
            num_key_value_heads=3,
            head_dim=64,
            vocab_size=49280,
            max_position_embeddings=8192,
            tie_word_embeddings=False,
            rope_parameters={"rope_type": "default", "rope_theta": 100000.0},
            **ids,
        ),
    )
    torch.manual_seed(seed)
    model = SmolVLMForConditionalGeneration(config).eval()
    model.generation_config.update(**ids, do_sample=False, max_new_tokens=32)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
