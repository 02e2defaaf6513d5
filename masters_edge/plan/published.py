"""Shapes of checkpoints that recipes name, for planning where the hub can't be reached: dimensions only, no weights.

Each is what the checkpoint's own config.json says of its dimensions (hub repositories named as keys). PARAMETERS_B are
the totals that its hub page gives, in billions; tests check these shapes against them.
"""

from typing import Any


def _qwen3_text(hidden: int, layers: int, heads: int, wide: int, vocabulary: int = 151_936, kv: int = 8) -> dict:
    return dict(
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv,
        head_dim=128,
        intermediate_size=wide,
        vocab_size=vocabulary,
        max_position_embeddings=40_960,
    )


def _qwen3_vl(hidden: int, layers: int, heads: int, wide: int, *, small_vision: bool = False) -> dict[str, Any]:
    tied = small_vision
    small = dict(depth=24, hidden_size=1024, intermediate_size=4096, deepstack_visual_indexes=[5, 11, 17])
    large = dict(depth=27, hidden_size=1152, intermediate_size=4304, deepstack_visual_indexes=[8, 16, 24])
    rope = dict(rope_type="default", rope_theta=5e6, mrope_section=[24, 20, 20], mrope_interleaved=True)
    return dict(
        model_type="qwen3_vl",
        dtype="bfloat16",
        tie_word_embeddings=tied,
        image_token_id=151_655,
        video_token_id=151_656,
        vision_start_token_id=151_652,
        vision_end_token_id=151_653,
        text_config=_qwen3_text(hidden, layers, heads, wide)
        | dict(tie_word_embeddings=tied, rope_parameters=rope, max_position_embeddings=262_144),
        vision_config=(small if small_vision else large)
        | dict(num_heads=16, patch_size=16, num_position_embeddings=2304, out_hidden_size=hidden),
    )


def _qwen2_5_vl(hidden: int, layers: int, heads: int, kv: int, wide: int, vision_wide: int) -> dict[str, Any]:
    rope = dict(rope_type="default", rope_theta=1e6, mrope_section=[16, 24, 24])
    text = dict(
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv,
        intermediate_size=wide,
        vocab_size=152_064,
        max_position_embeddings=128_000,
        rope_parameters=rope,
        tie_word_embeddings=False,
    )
    vision = dict(depth=32, hidden_size=1280, intermediate_size=vision_wide, num_heads=16, out_hidden_size=hidden)
    return dict(
        model_type="qwen2_5_vl",
        dtype="bfloat16",
        tie_word_embeddings=False,
        image_token_id=151_655,
        video_token_id=151_656,
        vision_start_token_id=151_652,
        vision_end_token_id=151_653,
        text_config=text,
        vision_config=vision | dict(patch_size=14, window_size=112, fullatt_block_indexes=[7, 15, 23, 31]),
    )


def _internvl(text: dict[str, Any], *, large_vision: bool = False) -> dict[str, Any]:
    small: dict[str, Any] = dict(hidden_size=1024, num_hidden_layers=24, intermediate_size=4096)
    small |= dict(num_attention_heads=16)
    small |= dict(attention_bias=True, use_qk_norm=False, norm_type="layer_norm")  # InternViT-300M
    large: dict[str, Any] = dict(
        hidden_size=3200, num_hidden_layers=45, num_attention_heads=25, intermediate_size=12_800
    )
    large |= dict(attention_bias=False, use_qk_norm=True, norm_type="rms_norm")  # InternViT-6B
    return dict(
        model_type="internvl",
        dtype="bfloat16",
        tie_word_embeddings=False,
        image_token_id=151_671,
        image_seq_length=256,
        downsample_ratio=0.5,
        text_config=text | dict(tie_word_embeddings=False),
        vision_config=(large if large_vision else small) | dict(image_size=[448, 448], patch_size=[14, 14]),
    )


def _qwen2_text(hidden: int, layers: int, heads: int, kv: int, wide: int) -> dict[str, Any]:
    return dict(
        model_type="qwen2",
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv,
        intermediate_size=wide,
        vocab_size=151_674,
        max_position_embeddings=32_768,
    )


def _internvl3_5(hidden: int, layers: int, heads: int, wide: int, *, large_vision: bool = False) -> dict[str, Any]:
    return _internvl(dict(model_type="qwen3") | _qwen3_text(hidden, layers, heads, wide), large_vision=large_vision)


def _smolvlm2(vision: dict[str, Any], text: dict[str, Any], scale: int) -> dict[str, Any]:
    return dict(
        model_type="smolvlm",
        dtype="bfloat16",
        tie_word_embeddings=False,
        image_token_id=49_190,
        scale_factor=scale,
        pad_token_id=2,
        vision_config=vision,
        text_config=dict(model_type="llama", vocab_size=49_280, max_position_embeddings=8192, pad_token_id=2)
        | dict(tie_word_embeddings=False)
        | text,
    )


_SIGLIP_BASE = dict(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12)
_SIGLIP_SO400M = dict(hidden_size=1152, intermediate_size=4304, num_hidden_layers=27, num_attention_heads=16)
_SMOLLM2_135M = dict(hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9)
_SMOLLM2_360M = dict(hidden_size=960, intermediate_size=2560, num_hidden_layers=32, num_attention_heads=15)
_SMOLLM2_1_7B = dict(hidden_size=2048, intermediate_size=8192, num_hidden_layers=24, num_attention_heads=32)

SHAPES: dict[str, dict[str, Any]] = {
    "Qwen/Qwen3-VL-2B-Instruct": _qwen3_vl(2048, 28, 16, 6144, small_vision=True),
    "Qwen/Qwen3-VL-8B-Instruct": _qwen3_vl(4096, 36, 32, 12_288),
    "Qwen/Qwen3-VL-32B-Instruct": _qwen3_vl(5120, 64, 64, 25_600),
    "Qwen/Qwen2.5-VL-7B-Instruct": _qwen2_5_vl(3584, 28, 28, 4, 18_944, 3420),
    "Qwen/Qwen2.5-VL-32B-Instruct": _qwen2_5_vl(5120, 64, 40, 8, 27_648, 3456),
    "Qwen/Qwen2.5-VL-72B-Instruct": _qwen2_5_vl(8192, 80, 64, 8, 29_568, 3456),
    "OpenGVLab/InternVL3-8B-hf": _internvl(_qwen2_text(3584, 28, 28, 4, 18_944)),
    "OpenGVLab/InternVL3-14B-hf": _internvl(_qwen2_text(5120, 48, 40, 8, 13_824)),
    "OpenGVLab/InternVL3-38B-hf": _internvl(_qwen2_text(5120, 64, 40, 8, 27_648), large_vision=True),
    "OpenGVLab/InternVL3-78B-hf": _internvl(_qwen2_text(8192, 80, 64, 8, 29_568), large_vision=True),
    "OpenGVLab/InternVL3_5-1B-HF": _internvl3_5(1024, 28, 16, 3072),
    "OpenGVLab/InternVL3_5-2B-HF": _internvl3_5(2048, 28, 16, 6144),
    "OpenGVLab/InternVL3_5-8B-HF": _internvl3_5(4096, 36, 32, 12_288),
    "OpenGVLab/InternVL3_5-14B-HF": _internvl3_5(5120, 40, 40, 17_408),
    "OpenGVLab/InternVL3_5-38B-HF": _internvl3_5(5120, 64, 64, 25_600, large_vision=True),
    "HuggingFaceTB/SmolVLM-256M-Instruct": _smolvlm2(
        _SIGLIP_BASE | dict(image_size=512, patch_size=16), _SMOLLM2_135M | dict(num_key_value_heads=3, head_dim=64), 4
    )
    | dict(model_type="idefics3"),
    "HuggingFaceTB/SmolVLM-500M-Instruct": _smolvlm2(
        _SIGLIP_BASE | dict(image_size=512, patch_size=16), _SMOLLM2_360M | dict(num_key_value_heads=5, head_dim=64), 4
    )
    | dict(model_type="idefics3"),
    "HuggingFaceTB/SmolVLM2-256M-Video-Instruct": _smolvlm2(
        _SIGLIP_BASE | dict(image_size=512, patch_size=16), _SMOLLM2_135M | dict(num_key_value_heads=3, head_dim=64), 4
    ),
    "HuggingFaceTB/SmolVLM2-2.2B-Instruct": _smolvlm2(
        _SIGLIP_SO400M | dict(image_size=384, patch_size=14),
        _SMOLLM2_1_7B | dict(num_key_value_heads=32, head_dim=64),
        3,
    ),
}
# Billions of parameters, as published.
PARAMETERS_B = {
    "Qwen/Qwen3-VL-2B-Instruct": 2.13,
    "Qwen/Qwen3-VL-8B-Instruct": 8.77,
    "Qwen/Qwen3-VL-32B-Instruct": 33.4,
    "Qwen/Qwen2.5-VL-7B-Instruct": 8.29,
    "Qwen/Qwen2.5-VL-32B-Instruct": 33.5,
    "Qwen/Qwen2.5-VL-72B-Instruct": 73.4,
    "OpenGVLab/InternVL3-8B-hf": 7.94,
    "OpenGVLab/InternVL3-14B-hf": 15.1,
    "OpenGVLab/InternVL3-38B-hf": 38.4,
    "OpenGVLab/InternVL3-78B-hf": 78.4,
    "OpenGVLab/InternVL3_5-1B-HF": 1.06,
    "OpenGVLab/InternVL3_5-2B-HF": 2.35,
    "OpenGVLab/InternVL3_5-8B-HF": 8.53,
    "OpenGVLab/InternVL3_5-14B-HF": 15.1,
    "OpenGVLab/InternVL3_5-38B-HF": 38.4,
    "HuggingFaceTB/SmolVLM-256M-Instruct": 0.256,
    "HuggingFaceTB/SmolVLM-500M-Instruct": 0.507,
    "HuggingFaceTB/SmolVLM2-256M-Video-Instruct": 0.256,
    "HuggingFaceTB/SmolVLM2-2.2B-Instruct": 2.25,
}
