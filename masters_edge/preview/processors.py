"""Tokenizer and image processor for a config that comes without: the family's own processor, with a small tokenizer.

In: a transformers config. Out: the processor, and the config's token ids changed to the small tokenizer's. Pictures are
cut and shrunk as the family's published checkpoints do it, so the number of image tokens is theirs; the text's is about
that of a real tokenizer, since every word of the protocol's questions is one token.
"""

from collections.abc import Callable
from typing import Any

from masters_edge.common.errors import UserError

_CHATML = (
    "{% for message in messages %}SYSTEM<|im_start|>{{ message['role'] }}\n{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}IMAGE{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_SYSTEM = "{% if loop.first %}<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
_QWEN_IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"
_SMOLVLM = (
    "<|im_start|>{% for message in messages %}{{ message['role'] | capitalize }}:"
    "{% for part in message['content'] %}{% if part['type'] == 'text' %}{{ part['text'] }}{% else %}<image>{% endif %}"
    "{% endfor %}<end_of_utterance>\n{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"
)
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
    from masters_edge.families import video_slot

    video_slot.fill()
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
    from transformers import Idefics3Processor, SmolVLMProcessor
    from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
    from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil

    from masters_edge.families import video_slot

    side = config.vision_config.image_size
    grid = range(1, _SMOLVLM_GRID + 1)
    special = ["<|endoftext|>", "<|im_start|>", "<end_of_utterance>", "<image>", "<fake_token_around_image>"]
    special += ["<global-img>", *(f"<row_{row}_col_{column}>" for row in grid for column in grid)]
    names = dict(image_token="<image>", fake_image_token="<fake_token_around_image>")
    names |= dict(global_image_token="<global-img>", end_of_utterance_token="<end_of_utterance>")
    tokenizer = _tokenizer(config, special, names, bos_token="<|im_start|>", eos_token="<end_of_utterance>")
    config.image_token_id = tokenizer.convert_tokens_to_ids("<image>")
    # As published: the longest side becomes four tiles.
    settings = dict(size={"longest_edge": 4 * side}, max_image_size={"longest_edge": side}, do_image_splitting=True)
    length = (side // config.vision_config.patch_size // config.scale_factor) ** 2
    shared = dict(image_seq_len=length, chat_template=_SMOLVLM)
    if config.model_type == "idefics3":
        return Idefics3Processor(Idefics3ImageProcessorPil(**settings), tokenizer, **shared)
    return SmolVLMProcessor(SmolVLMImageProcessorPil(**settings), tokenizer, video_slot.VideoSlot(), **shared)


def _qwen(config: Any) -> Any:
    from transformers import Qwen2_5_VLProcessor, Qwen3VLProcessor
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    from masters_edge.families import video_slot

    names = dict(image_token="<|image_pad|>", video_token="<|video_pad|>")
    around = dict(vision_start_token_id="<|vision_start|>", vision_end_token_id="<|vision_end|>")
    special = [*_CHATML_SPECIAL, *around.values(), *names.values()]
    tokenizer = _tokenizer(config, special, names, eos_token="<|im_end|>")
    tokens = around | dict(image_token_id=names["image_token"], video_token_id=names["video_token"])
    for key, token in tokens.items():
        setattr(config, key, tokenizer.convert_tokens_to_ids(token))
    vision = config.vision_config
    third = config.model_type == "qwen3_vl"
    pixels = (vision.patch_size * vision.spatial_merge_size) ** 2  # of one token
    fewest, most = (64, 16_384) if third else (4, 16_384)  # tokens of a picture, as published
    images = Qwen2VLImageProcessorPil(
        patch_size=vision.patch_size,
        merge_size=vision.spatial_merge_size,
        temporal_patch_size=vision.temporal_patch_size,
        size={"shortest_edge": fewest * pixels, "longest_edge": most * pixels},
    )
    template = _CHATML.replace("SYSTEM", "" if third else _SYSTEM).replace("IMAGE", _QWEN_IMAGE)
    maker = Qwen3VLProcessor if third else Qwen2_5_VLProcessor
    return maker(images, tokenizer, video_slot.VideoSlot(), chat_template=template)


def _internvl(config: Any) -> Any:
    from transformers import InternVLProcessor
    from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil

    from masters_edge.families import video_slot

    names = dict(start_image_token="<img>", end_image_token="</img>")
    names |= dict(context_image_token="<IMG_CONTEXT>", video_token="<video>")
    tokenizer = _tokenizer(config, [*_CHATML_SPECIAL, *names.values()], names, eos_token="<|im_end|>")
    config.image_token_id = tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>")
    height, width = config.vision_config.image_size
    # As published: the image processor does not cut tiles, the processor's own default does.
    images = GotOcr2ImageProcessorPil(
        size={"height": height, "width": width}, crop_to_patches=False, min_patches=1, max_patches=12
    )
    template = _CHATML.replace("SYSTEM", "").replace("IMAGE", "<IMG_CONTEXT>\n")
    length = config.image_seq_length
    slot = video_slot.VideoSlot()
    return InternVLProcessor(images, tokenizer, slot, image_seq_length=length, chat_template=template)


def _llava_onevision(config: Any) -> Any:
    from transformers import LlavaOnevisionProcessor
    from transformers.models.llava_onevision.image_processing_pil_llava_onevision import LlavaOnevisionImageProcessorPil

    from masters_edge.families import video_slot

    names = dict(image_token="<image>", video_token="<video>")
    tokenizer = _tokenizer(config, [*_CHATML_SPECIAL, *names.values()], names, eos_token="<|im_end|>")
    config.image_token_id = tokenizer.convert_tokens_to_ids("<image>")
    config.video_token_id = tokenizer.convert_tokens_to_ids("<video>")
    vision = config.vision_config
    images = LlavaOnevisionImageProcessorPil(
        size={"height": vision.image_size, "width": vision.image_size}, image_grid_pinpoints=config.image_grid_pinpoints
    )
    picture = "{% for part in message['content'] | selectattr('type', 'equalto', 'image') %}<image>{% endfor %}"
    words = "{% for part in message['content'] | selectattr('type', 'equalto', 'text') %}{{ '\n' + part['text'] }}"
    template = (
        "{% for message in messages %}<|im_start|>{{ message['role'] + ' ' }}" + picture + words + "{% endfor %}"
        "<|im_end|>{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    return LlavaOnevisionProcessor(
        images,
        tokenizer,
        video_slot.VideoSlot(),
        num_image_tokens=(vision.image_size // vision.patch_size) ** 2,
        vision_feature_select_strategy=config.vision_feature_select_strategy,
        vision_aspect_ratio=config.vision_aspect_ratio,
        chat_template=template,
    )


_MAKERS: dict[str, Callable[[Any], Any]] = {
    "smolvlm": _smolvlm,
    "idefics3": _smolvlm,
    "qwen2_5_vl": _qwen,
    "qwen3_vl": _qwen,
    "internvl": _internvl,
    "llava_onevision": _llava_onevision,
}


def _tokenizer(config: Any, special: list[str], names: dict[str, str], **ends: str) -> Any:
    """Byte-level BPE that knows the words of the protocol's questions."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    from masters_edge.benchmarks.cases import PROMPTS

    alphabet = pre_tokenizers.ByteLevel.alphabet()
    size = config.get_text_config().vocab_size
    if size < len(alphabet) + len(special):
        raise UserError(
            f"a vocabulary of {size} is too small: 256 bytes and {len(special)} special tokens must fit; "
            "give a checkpoint folder with a tokenizer of its own"
        )
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=min(size, _VOCABULARY), special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator([*PROMPTS.values(), _MORE_WORDS] * 2, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, pad_token="<|endoftext|>", padding_side="left", extra_special_tokens=names, **ends
    )
