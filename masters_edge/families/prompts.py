"""Questions into model inputs: the chat template, image placeholders and pixels, cached where questions repeat them."""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch

from masters_edge.data.records import Question, open_image
from masters_edge.families.base import Family

_CACHED_PIXELS = 512 << 20  # bytes


class Prompter:
    """Builds one model's prompts with that model's own processor.

    The prompt's ids depend on the question and the image's size alone (placeholders follow the size), and an image's
    pixels on the image alone; both are kept, pixels up to 512 MiB.
    """

    def __init__(self, processor: Any, family: Family) -> None:
        self.processor, self.family = processor, family
        self._ids: OrderedDict[tuple[str, tuple[int, int]], list[int]] = OrderedDict()
        self._images: OrderedDict[str, tuple[tuple[int, int], dict[str, torch.Tensor]]] = OrderedDict()
        self._bytes = 0

    @property
    def tokenizer(self) -> Any:
        return self.processor.tokenizer

    def __call__(self, question: Question) -> tuple[list[int], dict[str, torch.Tensor]]:
        """Token ids of the whole prompt, placeholders expanded, and the image's inputs (batch dimension 1)."""
        size, inputs = self._image(question)
        key = (question.text, size)
        if key not in self._ids:
            text, start = self.text(question), self.tokenizer.bos_token
            written = start is not None and text.startswith(start)  # as apply_chat_template(tokenize=True) decides it
            ids = self.processor(text=text, images=[open_image(question)], add_special_tokens=not written)["input_ids"][
                0
            ]
            self._ids[key] = list(ids)
            while len(self._ids) > 65_536:
                self._ids.popitem(last=False)
        self._ids.move_to_end(key)
        return self._ids[key], inputs

    def text(self, question: Question) -> str:
        """The prompt as text, up to where the answer starts."""
        content = [{"type": "image"}, {"type": "text", "text": question.text}]
        return self.processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)

    def response_ids(self, question: Question, answer: str) -> list[int]:
        """Token ids of an answer as the chat template writes it, end token included."""
        content = [{"type": "image"}, {"type": "text", "text": question.text}]
        chat = [
            {"role": "user", "content": content},
            {"role": "assistant", "content": [{"type": "text", "text": answer}]},
        ]
        whole, prompt = self.processor.apply_chat_template(chat), self.text(question)
        written = whole[len(prompt) :] if whole.startswith(prompt) else answer
        ids = self.tokenizer(written, add_special_tokens=False)["input_ids"]
        end = self.tokenizer.eos_token_id
        return [*ids[: ids.index(end)], end] if end in ids else [*ids, end]

    def _image(self, question: Question) -> tuple[tuple[int, int], dict[str, torch.Tensor]]:
        if question.image_id not in self._images:
            image = open_image(question)
            inputs = self.family.image_inputs(self.processor, image)
            self._images[question.image_id] = (image.size, inputs)
            self._bytes += _bytes(inputs)
            while self._bytes > _CACHED_PIXELS and len(self._images) > 1:
                self._bytes -= _bytes(self._images.popitem(last=False)[1][1])
        self._images.move_to_end(question.image_id)
        return self._images[question.image_id]


def left_padded(prompts: Sequence[list[int]], pad: int) -> dict[str, torch.Tensor]:
    """Prompts for batched generation: int64 `input_ids` and `attention_mask`, `[prompts, longest]`."""
    longest = max(map(len, prompts))
    return {
        "input_ids": torch.tensor([[pad] * (longest - len(p)) + p for p in prompts]),
        "attention_mask": torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts]),
    }


def _bytes(inputs: dict[str, torch.Tensor]) -> int:
    return sum(t.numel() * t.element_size() for t in inputs.values())
