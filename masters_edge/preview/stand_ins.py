"""Tokenizer and image processor for a config that comes without: the family's own processor, with a small tokenizer.

In: a transformers config. Out: the processor, and the config's token ids changed to the small tokenizer's. Pictures are
cut and shrunk as the family's published checkpoints do it, so the number of image tokens is theirs; the text's is about
that of a real tokenizer, since every word of the protocol's questions is one token.
"""

from collections.abc import Callable
from typing import Any

from masters_edge.common.errors import UserError
from masters_edge.families import processors

_MORE_WORDS = "system user assistant User: Assistant: You are a helpful assistant. what is in this image?"
_VOCABULARY = 2000  # at most; a small config has a smaller one
_CHATML_SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
_SMOLVLM_GRID = 6  # rows and columns of tiles that the published tokenizers have tokens for


def stand_in(config: Any) -> Any:
    """A processor for the config, whose token ids are changed to fit. Raises UserError for an unknown family."""
    if config.model_type not in _MAKERS:
        raise UserError(
            f"no image processor is known here for a config of model_type {config.model_type!r}; give a checkpoint "
            f"folder with a processor, or a config of: {', '.join(sorted(_MAKERS))}"
        )
    processor = _MAKERS[config.model_type](config)
    tokenizer = processor.tokenizer
    text = config.get_text_config()
    text.pad_token_id = tokenizer.pad_token_id
    text.bos_token_id = tokenizer.pad_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    text.eos_token_id = tokenizer.eos_token_id
    if hasattr(config, "pad_token_id"):
        config.pad_token_id = tokenizer.pad_token_id
    return processor


def _smolvlm(config: Any) -> Any:
    side = config.vision_config.image_size
    grid = range(1, _SMOLVLM_GRID + 1)
    special = ["<|endoftext|>", "<|im_start|>", "<end_of_utterance>", "<image>", "<fake_token_around_image>"]
    special += ["<global-img>", *(f"<row_{row}_col_{column}>" for row in grid for column in grid)]
    tokenizer = _tokenizer(config, special, bos_token="<|im_start|>", eos_token="<end_of_utterance>")
    config.image_token_id = tokenizer.convert_tokens_to_ids("<image>")
    # As published: the longest side becomes four tiles.
    images = dict(size={"longest_edge": 4 * side}, max_image_size={"longest_edge": side}, do_image_splitting=True)
    length = (side // config.vision_config.patch_size // config.scale_factor) ** 2
    return processors.processor(config.model_type, tokenizer, images, image_seq_len=length)


def _qwen(config: Any) -> Any:
    names = processors.NAMED_TOKENS[config.model_type]
    around = dict(vision_start_token_id="<|vision_start|>", vision_end_token_id="<|vision_end|>")
    tokenizer = _tokenizer(config, [*_CHATML_SPECIAL, *around.values(), *names.values()], eos_token="<|im_end|>")
    tokens = around | dict(image_token_id=names["image_token"], video_token_id=names["video_token"])
    for key, token in tokens.items():
        setattr(config, key, tokenizer.convert_tokens_to_ids(token))
    vision = config.vision_config
    pixels = (vision.patch_size * vision.spatial_merge_size) ** 2  # of one token
    # tokens of a picture, as published
    fewest, most = (64, 16_384) if config.model_type == "qwen3_vl" else (4, 16_384)
    images = dict(
        patch_size=vision.patch_size,
        merge_size=vision.spatial_merge_size,
        temporal_patch_size=vision.temporal_patch_size,
        size={"shortest_edge": fewest * pixels, "longest_edge": most * pixels},
    )
    return processors.processor(config.model_type, tokenizer, images)


def _internvl(config: Any) -> Any:
    special = [*_CHATML_SPECIAL, *processors.NAMED_TOKENS["internvl"].values()]
    tokenizer = _tokenizer(config, special, eos_token="<|im_end|>")
    config.image_token_id = tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>")
    height, width = config.vision_config.image_size
    # As published: the image processor does not cut tiles, the processor's own default does.
    images = dict(size={"height": height, "width": width}, crop_to_patches=False, min_patches=1, max_patches=12)
    return processors.processor("internvl", tokenizer, images, image_seq_length=config.image_seq_length)


def _llava_onevision(config: Any) -> Any:
    special = [*_CHATML_SPECIAL, *processors.NAMED_TOKENS["llava_onevision"].values()]
    tokenizer = _tokenizer(config, special, eos_token="<|im_end|>")
    config.image_token_id = tokenizer.convert_tokens_to_ids("<image>")
    config.video_token_id = tokenizer.convert_tokens_to_ids("<video>")
    vision = config.vision_config
    images = dict(
        size={"height": vision.image_size, "width": vision.image_size}, image_grid_pinpoints=config.image_grid_pinpoints
    )
    return processors.processor(
        "llava_onevision",
        tokenizer,
        images,
        num_image_tokens=(vision.image_size // vision.patch_size) ** 2,
        vision_feature_select_strategy=config.vision_feature_select_strategy,
        vision_aspect_ratio=config.vision_aspect_ratio,
    )


_MAKERS: dict[str, Callable[[Any], Any]] = {
    "smolvlm": _smolvlm,
    "idefics3": _smolvlm,
    "qwen2_5_vl": _qwen,
    "qwen3_vl": _qwen,
    "internvl": _internvl,
    "llava_onevision": _llava_onevision,
}


def _tokenizer(config: Any, special: list[str], **ends: str) -> Any:
    """Byte-level BPE that knows the words of the protocol's questions."""
    from masters_edge.benchmarks.cases import PROMPTS

    size = config.get_text_config().vocab_size
    if size < 256 + len(special):
        raise UserError(
            f"a vocabulary of {size} is too small: 256 bytes and {len(special)} special tokens must fit; "
            "give a checkpoint folder with a tokenizer of its own"
        )
    return processors.tokenizer(
        [*PROMPTS.values(), _MORE_WORDS] * 2,
        min(size, _VOCABULARY),
        special,
        pad_token="<|endoftext|>",
        padding_side="left",
        extra_special_tokens=processors.NAMED_TOKENS[config.model_type],
        **ends,
    )
