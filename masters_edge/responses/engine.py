"""The transformers engine: batched generation with a KV cache, for responses, pseudo-labels and held-out accuracy."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import GenerationConfig, LogitsProcessorList

from masters_edge.data.records import Question
from masters_edge.families.base import Family
from masters_edge.families.prompts import Prompter, left_padded
from masters_edge.recipe.schema import Responses
from masters_edge.responses.sampling import SeededSampling, row_seed, warpers


@dataclass(frozen=True, slots=True)
class Request:
    """One response wanted: greedy where `seed` is None."""

    question: Question
    seed: int | None = None


class Engine:
    """Answers requests with one model.

    Rows are sorted by prompt length and left-padded; the batch size changes speed and memory only.
    """

    def __init__(self, model: Any, family: Family, prompter: Prompter, max_new_tokens: int, batch_size: int) -> None:
        self.model, self.family, self.prompter = model, family, prompter
        self.max_new_tokens, self.batch_size = max_new_tokens, batch_size
        ends = model.generation_config.eos_token_id
        if ends is None:
            ends = prompter.tokenizer.eos_token_id
        self.end_ids = set(ends) if isinstance(ends, list) else {ends}
        named = (getattr(model.config, name, None) for name in ("image_token_id", "video_token_id"))
        self.placeholders = [token for token in named if token is not None] or None

    def answer(
        self,
        requests: Sequence[Request],
        sampling: Responses | None = None,
        on_progress: Callable[[int], None] | None = None,
    ) -> list[list[int]]:
        """Token ids of one response per request, in order; the end token is the last where it was reached.

        `sampling` applies to requests with a seed. `on_progress` hears how many responses each batch added.
        """
        lengths = [len(self.prompter(request.question)[0]) for request in requests]
        order = sorted(range(len(requests)), key=lambda i: (requests[i].seed is not None, lengths[i]))
        answers: list[list[int]] = [[] for _ in requests]
        for batch in self._batches(order, requests):
            for position, ids in zip(batch, self._generate([requests[i] for i in batch], sampling)):
                answers[position] = ids
            if on_progress:
                on_progress(len(batch))
        return answers

    def texts(self, answers: Sequence[list[int]]) -> list[str]:
        """Responses as text, without special tokens and outer whitespace."""
        return [t.strip() for t in self.prompter.tokenizer.batch_decode(answers, skip_special_tokens=True)]

    def _batches(self, order: list[int], requests: Sequence[Request]) -> Iterator[list[int]]:
        """Consecutive positions of one kind (greedy or sampled), at most batch_size of them."""
        batch: list[int] = []
        for position in order:
            mixed = batch and (requests[batch[0]].seed is None) != (requests[position].seed is None)
            if mixed or len(batch) == self.batch_size:
                yield batch
                batch = []
            batch.append(position)
        if batch:
            yield batch

    @torch.inference_mode()
    def _generate(self, requests: list[Request], sampling: Responses | None) -> list[list[int]]:
        built = [self.prompter(request.question) for request in requests]
        pad = self.prompter.tokenizer.pad_token_id
        inputs = left_padded([ids for ids, _ in built], pad)
        images = self.family.collate_images([image for _, image in built])
        length = inputs["input_ids"].shape[1]
        processors = LogitsProcessorList()
        seeds = [request.seed for request in requests if request.seed is not None]
        if seeds and sampling:
            processors.extend(warpers(sampling))
            processors.append(SeededSampling(seeds, length, self.max_new_tokens))
        device = self.model.device
        was_training = self.model.training
        self.model.eval()
        out = self.model.generate(
            **{name: value.to(device) for name, value in {**inputs, **images}.items()},
            generation_config=GenerationConfig(
                do_sample=False,
                max_new_tokens=self.max_new_tokens,
                eos_token_id=sorted(self.end_ids),
                pad_token_id=pad,
                suppress_tokens=self.placeholders,  # a response with an image in it could not be trained on
            ),
            logits_processor=processors,
        )
        self.model.train(was_training)
        return [self._cut(row) for row in out[:, length:].tolist()]

    def _cut(self, ids: list[int]) -> list[int]:
        """Up to and with the first end token."""
        for place, token in enumerate(ids):
            if token in self.end_ids:
                return ids[: place + 1]
        return ids


def sampled(question: Question, count: int, *key: Any) -> list[Request]:
    """`count` sampled responses to one question, each with a seed of its own."""
    return [Request(question, row_seed(*key, question.id, number)) for number in range(count)]
