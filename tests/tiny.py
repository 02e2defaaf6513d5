"""Tiny random checkpoints of supported families, made in a second, saved like any other.

Every builder, `FAMILIES["qwen2_5_vl"](folder, seed)`, builds the model from a config, trains a tokenizer here and saves
model and processor, with the special tokens and chat template of the real checkpoints. Weights are drawn wide enough
for answers to vary and to depend on the picture; pictures of different sizes become more or fewer tiles or patches.
"""

import functools
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image
from tokenizers import normalizers

from masters_edge.common.quiet import hush
from masters_edge.families import processors

hush()

SIDE = 32  # pixels of one frame
IMAGE_SEQ_LEN = 4  # (SIDE / patch 8) ** 2 / scale factor 2 ** 2
TEXTS = [
    "User:what is in this image? a red square on a blue field.",
    "Assistant: yes, there is a green circle. no, the shape is not yellow.",
    "is there a triangle? what color is the shape?",
]
CHAT_TEMPLATE = (
    "<|im_start|>{% for message in messages %}{{ message['role'] | capitalize }}"
    "{% if message['content'][0]['type'] == 'image' %}{{ ':' }}{% else %}{{ ': ' }}{% endif %}"
    "{% for line in message['content'] %}{% if line['type'] == 'text' %}{{ line['text'] }}"
    "{% elif line['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}<end_of_utterance>\n"
    "{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)


def smolvlm(folder: Path, seed: int = 0, splitting: bool = False) -> Path:
    """A SmolVLM of about 0.1 M parameters in `folder`; with `splitting`, images become frames of 32 pixels."""
    from transformers import SmolVLMConfig, SmolVLMForConditionalGeneration

    tokenizer = _tokenizer(extra_special_tokens=processors.NAMED_TOKENS["smolvlm"])
    processor = _smolvlm_processor("smolvlm", tokenizer, splitting)
    return _save(folder, SmolVLMForConditionalGeneration, SmolVLMConfig(**_config(tokenizer)), processor, seed)


def idefics3(folder: Path, seed: int = 0, splitting: bool = False) -> Path:
    """An Idefics3 of about 0.1 M parameters in `folder`."""
    from transformers import Idefics3Config, Idefics3ForConditionalGeneration

    tokenizer = _tokenizer()
    processor = _smolvlm_processor("idefics3", tokenizer, splitting)
    return _save(folder, Idefics3ForConditionalGeneration, Idefics3Config(**_config(tokenizer)), processor, seed)


def qwen2_5_vl(folder: Path, seed: int = 0) -> Path:
    """A Qwen2.5-VL of about 0.1 M parameters: windows in its first vision layer, 4 to 24 tokens an image."""
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    vision = dict(window_size=32, fullatt_block_indexes=[1])
    config = functools.partial(_qwen_config, Qwen2_5_VLConfig, vision, dict(mrope_section=[2, 3, 3]), tied=False)
    return _qwen(folder, seed, Qwen2_5_VLForConditionalGeneration, config, "qwen2_5_vl")


def qwen3_vl(folder: Path, seed: int = 0) -> Path:
    """A Qwen3-VL of about 0.2 M parameters with DeepStack from both vision layers, 4 to 24 tokens an image."""
    from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

    vision = dict(num_position_embeddings=16, deepstack_visual_indexes=[0, 1])
    rope = dict(mrope_section=[4, 2, 2], mrope_interleaved=True)
    config = functools.partial(_qwen_config, Qwen3VLConfig, vision, rope, tied=True)
    return _qwen(folder, seed, Qwen3VLForConditionalGeneration, config, "qwen3_vl")


def internvl3(folder: Path, seed: int = 0, text: str = "qwen2") -> Path:
    """An InternVL3 of about 0.1 M parameters in transformers' layout: 1 to 6 tiles and a thumbnail, 4 tokens each."""
    from transformers import InternVLConfig, InternVLForConditionalGeneration

    tokenizer = _qwen_tokenizer(**processors.NAMED_TOKENS["internvl"])
    # As the published checkpoints of each have it.
    dynamic = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e6}
    rope = {"rope_parameters": dynamic} if text == "qwen2" else {}
    config = InternVLConfig(
        image_token_id=tokenizer.context_image_token_id,
        image_seq_length=IMAGE_SEQ_LEN,
        downsample_ratio=0.5,
        tie_word_embeddings=False,
        vision_config=_vision(image_size=[SIDE, SIDE], patch_size=[8, 8]),
        text_config=_text(tokenizer, model_type=text, tie_word_embeddings=False, **rope),
    )
    # As the real checkpoints have it: the image processor does not cut tiles, the processor's own default does.
    images = dict(size={"height": SIDE, "width": SIDE}, crop_to_patches=False, min_patches=1, max_patches=6)
    processor = processors.processor("internvl", tokenizer, images, image_seq_length=IMAGE_SEQ_LEN)
    return _save(folder, InternVLForConditionalGeneration, config, processor, seed)


def internvl3_5(folder: Path, seed: int = 0) -> Path:
    """An InternVL3.5: as InternVL3, over a Qwen3."""
    return internvl3(folder, seed, text="qwen3")


def llava_onevision(folder: Path, seed: int = 0) -> Path:
    """A LLaVA-OneVision of about 0.1 M parameters: 1 to 4 tiles beside the whole image, thinned out above two."""
    from transformers import LlavaOnevisionConfig, LlavaOnevisionForConditionalGeneration

    tokenizer = _qwen_tokenizer(**processors.NAMED_TOKENS["llava_onevision"])
    grid = [[SIDE * rows, SIDE * columns] for rows in range(1, 5) for columns in range(1, 5) if rows * columns <= 4]
    config = LlavaOnevisionConfig(
        image_token_index=tokenizer.image_token_id,
        video_token_index=tokenizer.video_token_id,
        image_grid_pinpoints=grid,
        vision_config=_vision(model_type="siglip_vision_model", image_size=SIDE, patch_size=8, vision_use_head=False),
        text_config=_text(tokenizer, model_type="qwen2", tie_word_embeddings=True),
        vision_feature_select_strategy="full",
        vision_aspect_ratio="anyres_max_2",
    )
    images = dict(size={"height": SIDE, "width": SIDE}, image_grid_pinpoints=grid)
    processor = processors.processor(
        "llava_onevision",
        tokenizer,
        images,
        num_image_tokens=(SIDE // 8) ** 2,
        vision_feature_select_strategy="full",
        vision_aspect_ratio="anyres_max_2",
    )
    return _save(folder, LlavaOnevisionForConditionalGeneration, config, processor, seed)


FAMILIES: dict[str, Callable[..., Path]] = {
    "smolvlm": functools.partial(smolvlm, splitting=True),
    "idefics3": functools.partial(idefics3, splitting=True),
    "qwen2_5_vl": qwen2_5_vl,
    "qwen3_vl": qwen3_vl,
    "internvl3": internvl3,
    "internvl3_5": internvl3_5,
    "llava_onevision": llava_onevision,
}


def picture(width: int = 64, height: int = 48, seed: int = 0) -> Image.Image:
    """Coloured blocks and noise."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 255, (height // 8 + 1, width // 8 + 1, 3)).repeat(8, 0).repeat(8, 1)[:height, :width]
    return Image.fromarray(np.clip(blocks + rng.integers(-20, 20, blocks.shape), 0, 255).astype(np.uint8))


def _smolvlm_processor(model_type: str, tokenizer, splitting: bool):
    longest = 2 * SIDE if splitting else SIDE
    images = dict(size={"longest_edge": longest}, max_image_size={"longest_edge": SIDE}, do_image_splitting=splitting)
    settings = dict(image_seq_len=IMAGE_SEQ_LEN, chat_template=CHAT_TEMPLATE)
    return processors.processor(model_type, tokenizer, images, **settings)


def _qwen(folder: Path, seed: int, model_class, config: Callable, model_type: str) -> Path:
    tokenizer = _qwen_tokenizer(**processors.NAMED_TOKENS[model_type])
    pixels = 16 * 16  # of one token: 2 x 2 patches of 8 x 8
    images = dict(patch_size=8, merge_size=2, size={"shortest_edge": 4 * pixels, "longest_edge": 24 * pixels})
    processor = processors.processor(model_type, tokenizer, images)
    return _save(folder, model_class, config(tokenizer), processor, seed, ends=["<|im_end|>", "<|endoftext|>"])


def _qwen_config(config_class, vision: dict, rope: dict, tokenizer, tied: bool):
    names = dict(image="<|image_pad|>", video="<|video_pad|>", start="<|vision_start|>", end="<|vision_end|>")
    ids = {name: tokenizer.convert_tokens_to_ids(token) for name, token in names.items()}
    common = dict(depth=2, hidden_size=32, intermediate_size=64, num_heads=2, patch_size=8, spatial_merge_size=2)
    rope = dict(rope_type="default", rope_theta=10_000.0, **rope)
    return config_class(
        image_token_id=ids["image"],
        video_token_id=ids["video"],
        vision_start_token_id=ids["start"],
        vision_end_token_id=ids["end"],
        tie_word_embeddings=tied,
        vision_config=dict(out_hidden_size=64, **common, **vision),
        # What DeepStack adds behind a last layer would reach no answer.
        text_config=_text(tokenizer, num_hidden_layers=3, rope_parameters=rope, tie_word_embeddings=tied),
    )


def _vision(**settings) -> dict:
    return dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, **settings)


def _text(tokenizer, **settings) -> dict:
    return dict(num_hidden_layers=2) | dict(
        hidden_size=64,
        intermediate_size=128,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        vocab_size=len(tokenizer),
        max_position_embeddings=512,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.pad_token_id,  # as the Qwens' configs have it; their tokenizers have none
        eos_token_id=tokenizer.eos_token_id,
        **settings,
    )


def _qwen_tokenizer(**extra):
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>"]
    special += [token for token in ("<|image_pad|>", "<|video_pad|>") if token not in extra.values()]
    special += extra.values()
    tokenizer = _trained(special, eos_token="<|im_end|>", extra_special_tokens=extra)
    tokenizer.backend_tokenizer.normalizer = normalizers.NFC()  # as the published ones
    return tokenizer


def _tokenizer(**extra):
    special = ["<|endoftext|>", "<|im_start|>", "<end_of_utterance>", "<image>", "<fake_token_around_image>"]
    special += ["<global-img>", *(f"<row_{row}_col_{column}>" for row in range(1, 5) for column in range(1, 5))]
    return _trained(special, bos_token="<|im_start|>", eos_token="<end_of_utterance>", **extra)


def _trained(special: list[str], **settings):
    return processors.tokenizer(TEXTS * 10, 352, special, pad_token="<|endoftext|>", padding_side="left", **settings)


def _config(tokenizer) -> dict:
    ids = dict(
        pad_token_id=tokenizer.pad_token_id, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id
    )
    return dict(
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        scale_factor=2,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=True,
        # 144 is no multiple of 32: these layers can't be quantized in groups of 32
        vision_config=dict(
            hidden_size=64,
            intermediate_size=144,
            num_hidden_layers=2,
            num_attention_heads=4,
            image_size=SIDE,
            patch_size=8,
        ),
        text_config=dict(
            model_type="llama",
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=16,
            vocab_size=len(tokenizer),
            max_position_embeddings=512,
            tie_word_embeddings=True,
            **ids,
        ),
    )


def _save(folder: Path, model_class, config, processor, seed: int, ends: list[str] | None = None) -> Path:
    import torch

    from masters_edge.common.quiet import hush_transformers

    hush()  # torch's import sets its own log levels
    hush_transformers()
    torch.manual_seed(seed)
    model = model_class(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.1 if "embed_tokens" in name else 0.2)
    model.generation_config.update(
        pad_token_id=config.text_config.pad_token_id,
        bos_token_id=config.text_config.bos_token_id,
        eos_token_id=processor.tokenizer.convert_tokens_to_ids(ends) if ends else config.text_config.eos_token_id,
        do_sample=False,
        max_new_tokens=12,
    )
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return Path(folder)
