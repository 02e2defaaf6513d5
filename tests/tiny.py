"""Tiny random checkpoints of supported families, made in a second, saved like any other.

`smolvlm(folder)` and `idefics3(folder)` build the model from a config, train a tokenizer here and save model and
processor. Weights are drawn wide enough for answers to vary and to depend on the picture.
"""

from pathlib import Path

import numpy as np
from PIL import Image

from masters_edge.quiet import hush

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
    from transformers import SmolVLMConfig, SmolVLMForConditionalGeneration, SmolVLMProcessor
    from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil

    from masters_edge.families import video_slot

    video_slot.fill()
    tokenizer = _tokenizer(
        extra_special_tokens={
            "image_token": "<image>",
            "fake_image_token": "<fake_token_around_image>",
            "global_image_token": "<global-img>",
            "end_of_utterance_token": "<end_of_utterance>",
        }
    )
    images = SmolVLMImageProcessorPil(**_image_settings(splitting))
    processor = SmolVLMProcessor(
        images, tokenizer, video_slot.VideoSlot(), image_seq_len=IMAGE_SEQ_LEN, chat_template=CHAT_TEMPLATE
    )
    return _save(folder, SmolVLMForConditionalGeneration, SmolVLMConfig(**_config(tokenizer)), processor, seed)


def idefics3(folder: Path, seed: int = 0, splitting: bool = False) -> Path:
    """An Idefics3 of about 0.1 M parameters in `folder`."""
    from transformers import Idefics3Config, Idefics3ForConditionalGeneration, Idefics3Processor
    from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil

    tokenizer = _tokenizer()
    images = Idefics3ImageProcessorPil(**_image_settings(splitting))
    processor = Idefics3Processor(images, tokenizer, image_seq_len=IMAGE_SEQ_LEN, chat_template=CHAT_TEMPLATE)
    return _save(folder, Idefics3ForConditionalGeneration, Idefics3Config(**_config(tokenizer)), processor, seed)


def picture(width: int = 64, height: int = 48, seed: int = 0) -> Image.Image:
    """Coloured blocks and noise."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 255, (height // 8 + 1, width // 8 + 1, 3)).repeat(8, 0).repeat(8, 1)[:height, :width]
    return Image.fromarray(np.clip(blocks + rng.integers(-20, 20, blocks.shape), 0, 255).astype(np.uint8))


def _image_settings(splitting: bool) -> dict:
    longest = 2 * SIDE if splitting else SIDE
    return dict(size={"longest_edge": longest}, max_image_size={"longest_edge": SIDE}, do_image_splitting=splitting)


def _tokenizer(**extra):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    special = ["<|endoftext|>", "<|im_start|>", "<end_of_utterance>", "<image>", "<fake_token_around_image>"]
    special += ["<global-img>", *(f"<row_{row}_col_{column}>" for row in range(1, 5) for column in range(1, 5))]
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=352,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(TEXTS * 10, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token="<|im_start|>",
        eos_token="<end_of_utterance>",
        pad_token="<|endoftext|>",
        padding_side="left",
        **extra,
    )


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


def _save(folder: Path, model_class, config, processor, seed: int) -> Path:
    import torch

    from masters_edge.quiet import hush_transformers

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
        eos_token_id=config.text_config.eos_token_id,
        do_sample=False,
        max_new_tokens=12,
    )
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return Path(folder)
