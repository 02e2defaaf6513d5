"""A family's processor put together here, around a tokenizer trained here: for models that come without one.

Previews of a config alone, the demo's models, recipes that time random weights, and tests are made of it. In: texts,
special tokens, and the settings of the family's image processor. Out: what `AutoProcessor` would load, unsaved.
"""

from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module
from typing import Any

# model type -> (processor, image processor); the latter without torchvision, as our own runtimes compute
CLASSES = {
    "smolvlm": ("SmolVLMProcessor", "smolvlm.image_processing_pil_smolvlm.SmolVLMImageProcessorPil"),
    "idefics3": ("Idefics3Processor", "idefics3.image_processing_pil_idefics3.Idefics3ImageProcessorPil"),
    "qwen2_5_vl": ("Qwen2_5_VLProcessor", "qwen2_vl.image_processing_pil_qwen2_vl.Qwen2VLImageProcessorPil"),
    "qwen3_vl": ("Qwen3VLProcessor", "qwen2_vl.image_processing_pil_qwen2_vl.Qwen2VLImageProcessorPil"),
    "internvl": ("InternVLProcessor", "got_ocr2.image_processing_pil_got_ocr2.GotOcr2ImageProcessorPil"),
    "llava_onevision": (
        "LlavaOnevisionProcessor",
        "llava_onevision.image_processing_pil_llava_onevision.LlavaOnevisionImageProcessorPil",
    ),
}

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
# As the published checkpoints write a prompt of text and images.
CHAT_TEMPLATES = {
    "smolvlm": _SMOLVLM,
    "idefics3": _SMOLVLM,
    "qwen2_5_vl": _CHATML.replace("SYSTEM", _SYSTEM).replace("IMAGE", _QWEN_IMAGE),
    "qwen3_vl": _CHATML.replace("SYSTEM", "").replace("IMAGE", _QWEN_IMAGE),
    "internvl": _CHATML.replace("SYSTEM", "").replace("IMAGE", "<IMG_CONTEXT>\n"),
    "llava_onevision": (
        "{% for message in messages %}<|im_start|>{{ message['role'] + ' ' }}"
        "{% for part in message['content'] | selectattr('type', 'equalto', 'image') %}<image>{% endfor %}"
        "{% for part in message['content'] | selectattr('type', 'equalto', 'text') %}{{ '\n' + part['text'] }}"
        "{% endfor %}<|im_end|>{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    ),
}
# The names under which a processor asks its tokenizer for special tokens.
NAMED_TOKENS: dict[str, dict[str, str]] = {
    "smolvlm": {
        "image_token": "<image>",
        "fake_image_token": "<fake_token_around_image>",
        "global_image_token": "<global-img>",
        "end_of_utterance_token": "<end_of_utterance>",
    },
    "qwen2_5_vl": {"image_token": "<|image_pad|>", "video_token": "<|video_pad|>"},
    "qwen3_vl": {"image_token": "<|image_pad|>", "video_token": "<|video_pad|>"},
    "internvl": {
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    },
    "llava_onevision": {"image_token": "<image>", "video_token": "<video>"},
}
NAMED_TOKENS["idefics3"] = NAMED_TOKENS["smolvlm"]


def tokenizer(texts: Iterable[str], vocabulary: int, special: Sequence[str], **settings: Any) -> Any:
    """Byte-level BPE trained on `texts`, at most `vocabulary` tokens; the special ones get the first ids, in order.

    `settings` are those of transformers' `PreTrainedTokenizerFast`, such as `eos_token`.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(special),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=bpe, **settings)


def processor(model_type: str, tokenizer: Any, images: Mapping[str, Any], **settings: Any) -> Any:
    """The family's processor; `images` are settings of its image processor, `settings` its own.

    Without a `chat_template` among them it writes prompts as the published checkpoints do.
    """
    import transformers

    from masters_edge.families import video_slot

    name, image_processor = CLASSES[model_type]
    module, _, image_class = image_processor.rpartition(".")
    video_slot.fill()
    parts = [getattr(import_module(f"transformers.models.{module}"), image_class)(**images), tokenizer]
    if "video_processor" in getattr(transformers, name).get_attributes():
        parts.append(video_slot.VideoSlot())
    return getattr(transformers, name)(*parts, **{"chat_template": CHAT_TEMPLATES[model_type]} | settings)
