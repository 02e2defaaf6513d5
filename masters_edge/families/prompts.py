"""Questions into model inputs: the chat template, image placeholders and pixels, cached where questions repeat them."""

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from masters_edge.common import memo
from masters_edge.common.errors import UserError
from masters_edge.data.images import first_by_image
from masters_edge.data.records import Question, image_size, open_image
from masters_edge.families import checks, templates
from masters_edge.families.base import Family, family_of
from masters_edge.families.loading import load_config, load_processor

_CACHED_PIXELS = 512 << 20  # bytes
_CACHED_PROMPTS = 65_536
_CHECKED_SIZES = 64
_OF_TEXT = {"input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids"}


class Prompter:
    """Builds one model's prompts with that model's own processor.

    The prompt's ids depend on the question and the image's size alone (placeholders follow the size), and an image's
    pixels on the image alone; both are kept, pixels up to 512 MiB. `config` is that of the model the prompts are for.
    """

    def __init__(self, processor: Any, family: Family, config: Any) -> None:
        self.processor, self.family, self.config = processor, family, config
        self._ids: OrderedDict[tuple[str, tuple[int, int]], list[int]] = OrderedDict()
        self._answers: OrderedDict[tuple[str, str], list[int]] = OrderedDict()
        self._images: OrderedDict[str, tuple[tuple[int, int], dict[str, torch.Tensor]]] = OrderedDict()
        self._bytes = 0
        self.longest = 0
        """Tokens of the longest prompt built so far."""

    @classmethod
    def load(cls, source: str) -> "Prompter":
        """The prompter of a checkpoint; reads no weights.

        Raises:
            UserError: `source` can't be read, or is of a family that isn't built in.
        """

        def make() -> "Prompter":
            config = load_config(source)
            return cls(load_processor(source), family_of(config, source), config)

        return memo.once("prompter", lambda: _processor_of(source), make)

    @property
    def tokenizer(self) -> Any:
        return self.processor.tokenizer

    def __call__(self, question: Question) -> tuple[list[int], dict[str, torch.Tensor]]:
        """Token ids of the whole prompt, placeholders expanded, and the image's inputs (one image).

        Raises:
            UserError: the question holds a placeholder of its own, or the prompt's placeholders aren't as many as the
                features that the model makes of the image.
        """
        kept = self._images.get(question.image_id)
        if kept is None or (question.text, kept[0]) not in self._ids:
            kept = self._build(question)
        key = (question.text, kept[0])
        self._ids.move_to_end(key)
        self._images.move_to_end(question.image_id)
        return self._ids[key], kept[1]

    def text(self, question: Question) -> str:
        """The prompt as text, up to where the answer starts."""
        return self.processor.apply_chat_template(templates.chat(question.text), add_generation_prompt=True)

    def response_ids(self, question: Question, answer: str) -> list[int]:
        """Token ids of an answer as the chat template writes it, end token included."""
        key = (question.text, answer)
        if key not in self._answers:
            while len(self._answers) >= _CACHED_PROMPTS:
                self._answers.popitem(last=False)
            self._answers[key] = self._written(question, answer)
        return list(self._answers[key])

    def _written(self, question: Question, answer: str) -> list[int]:
        whole = self.processor.apply_chat_template(templates.chat(question.text, answer))
        prompt = self.text(question)
        written = whole[len(prompt) :] if whole.startswith(prompt) else answer
        ids = self.tokenizer(written, add_special_tokens=False)["input_ids"]
        self._refuse_unknown(question, "answer", ids)
        end = self.tokenizer.eos_token_id
        return [*ids[: ids.index(end)], end] if end in ids else [*ids, end]

    def _build(self, question: Question) -> tuple[tuple[int, int], dict[str, torch.Tensor]]:
        """Prompt and pixels by one call of the processor, both kept."""
        self.refuse_placeholders(question)
        text, start, image = self.text(question), self.tokenizer.bos_token, open_image(question)
        written = start is not None and text.startswith(start)  # as apply_chat_template(tokenize=True) decides it
        try:
            built = dict(self.processor(text=text, images=[image], add_special_tokens=not written, return_tensors="pt"))
        except ValueError as error:
            raise UserError(
                f"question {question.id}: the processor of {self.name} refuses the image of {image.width} x "
                f"{image.height} pixels: {error}; crop it, or leave the question out"
            ) from None
        ids = built["input_ids"][0].tolist()
        self._refuse_unknown(question, "text", ids)
        inputs = {name: value for name, value in built.items() if name not in _OF_TEXT}
        found, needed = ids.count(self.config.image_token_id), self.family.image_tokens(self.config, inputs)
        if found != needed:
            raise UserError(
                f"question {question.id}: the processor of {self.name} writes {found} image placeholders into the "
                f"prompt, and its model makes {needed} features of the image, so they don't fit together; take the "
                "processor files that came with its weights"
            )
        context = context_of(self.config)
        if context is not None and len(ids) >= context:
            raise UserError(
                f"question {question.id}: its prompt of {len(ids):,} tokens leaves no room for a response within the "
                f"{context:,} positions of {self.name}; ask a shorter question, or take a smaller image"
            )
        self.longest = max(self.longest, len(ids))
        self._ids[question.text, image.size] = ids
        while len(self._ids) > _CACHED_PROMPTS:
            self._ids.popitem(last=False)
        if question.image_id not in self._images:
            self._images[question.image_id] = (image.size, inputs)
            self._bytes += _bytes(inputs)
        while self._bytes > _CACHED_PIXELS and len(self._images) > 1:
            self._bytes -= _bytes(self._images.popitem(last=False)[1][1])
        return self._images[question.image_id]

    def lengths_around(self, texts: Mapping[str, int]) -> dict[tuple[int, int], int]:
        """By image size, the tokens of a prompt without its text, as far as prompts of such images are built; `texts`
        are the tokens of each text alone."""
        return {size: len(ids) - texts[text] for (text, size), ids in self._ids.items() if text in texts}

    @cached_property
    def image_words(self) -> list[str]:
        """What stands for an image in this family's prompts, as text."""
        return [word for word in self.tokenizer.convert_ids_to_tokens(self.family.placeholders(self.config)) if word]

    def refuse_placeholders(self, question: Question) -> None:
        """No question writes an image of its own.

        Raises:
            UserError: one does.
        """
        for token in self.image_words:
            if token in question.text:
                raise UserError(
                    f"question {question.id} has {token} in its text, which stands for an image in this family's "
                    "prompts; take it out of the question, the image is put in front by itself"
                )

    def _refuse_unknown(self, question: Question, where: str, ids: list[int]) -> None:
        """A tokenizer may have more ids than its model has embeddings."""
        rows = self.config.get_text_config().vocab_size
        unknown = next((token for token in ids if token >= rows), None)
        if unknown is not None:
            raise UserError(
                f"question {question.id} has {self.tokenizer.convert_ids_to_tokens(unknown)} in its {where}, token "
                f"{unknown}, and {self.name} has embeddings for {rows} tokens only; take it out, or leave the "
                "question out"
            )

    @property
    def name(self) -> str:
        """The checkpoint and its family, for messages."""
        return f"{self.config._name_or_path or 'the checkpoint'} ({self.config.model_type})"


def context_of(config: Any) -> int | None:
    """Positions that a model's decoder has, prompt and response together; None where its config doesn't say."""
    return getattr(config.get_text_config(), "max_position_embeddings", None)


def check_image_tokens(
    prompters: Sequence[Prompter],
    questions: Sequence[Question],
    on_progress: Callable[[int, int], None] | None = None,
) -> dict[str, tuple[int, int]]:
    """Build a prompt of every prompter for one question of every image size, as headers tell them.

    Of more than 64 sizes, 64 are taken, evenly by area, the smallest and the largest among them, and with them the
    narrowest and the widest. `on_progress(done, total)` is called after each header and each prompt; `total` grows once
    the sizes are known. Returns each image's width and height, by image_id.

    Raises:
        UserError: as `Prompter.__call__`, or an image that can't be read.
    """
    distinct = list(first_by_image(questions))
    heard = on_progress or (lambda done, total: None)
    sizes: dict[tuple[int, int], Question] = {}
    of_image: dict[str, tuple[int, int]] = {}
    for done, question in enumerate(distinct, 1):
        of_image[question.image_id] = image_size(question)
        sizes.setdefault(of_image[question.image_id], question)
        heard(done, len(distinct))
    by_area = sorted(sizes, key=lambda size: (size[0] * size[1], size))
    count = min(_CHECKED_SIZES, len(by_area))
    chosen = {by_area[place * (len(by_area) - 1) // max(1, count - 1)] for place in range(count)}
    by_shape = sorted(sizes, key=lambda size: size[0] / size[1])
    chosen |= set(by_shape[:1] + by_shape[-1:])
    done, total = len(distinct), len(distinct) + len(prompters) * len(chosen)
    for prompter in prompters:
        for size in sorted(chosen):
            prompter(sizes[size])
            heard(done := done + 1, total)
    return of_image


def _processor_of(source: str) -> str:
    """A digest of all in a checkpoint's folder that prompts are built by; a hub id as it is."""
    if not Path(source).is_dir():
        return source
    checks.regular_files(Path(source))
    total = hashlib.sha256()
    for path in sorted(Path(source).iterdir()):
        if path.suffix in (".json", ".jinja", ".txt", ".model") and not path.name.endswith(".index.json"):
            total.update(f"{path.name} ".encode() + hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()


def left_padded(prompts: Sequence[list[int]], pad: int) -> dict[str, torch.Tensor]:
    """Prompts for batched generation: int64 `input_ids` and `attention_mask`, `[prompts, longest]`."""
    longest = max(map(len, prompts))
    return {
        "input_ids": torch.tensor([[pad] * (longest - len(p)) + p for p in prompts]),
        "attention_mask": torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts]),
    }


def _bytes(inputs: dict[str, torch.Tensor]) -> int:
    return sum(t.numel() * t.element_size() for t in inputs.values())
