"""The transformers engine: batched generation with a KV cache, for responses, pseudo-labels and held-out accuracy."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import transformers
from transformers import LogitsProcessorList

from masters_edge.data.records import Question
from masters_edge.engines.base import Closing, Request
from masters_edge.engines.sampling import SeededSampling, warpers
from masters_edge.families import generation
from masters_edge.families.features import ImageFeatures
from masters_edge.families.prompts import Prompter, left_padded
from masters_edge.recipe.schema import Responses


class Engine(Closing):
    """Answers requests with one model.

    Rows are sorted by prompt length and left-padded; the batch size changes speed and memory only. `features`: those of
    the same model, as long as its weights stay as they are; default: kept for one call of `answer`.
    """

    def __init__(
        self,
        model: Any,
        prompter: Prompter,
        max_new_tokens: int,
        batch_size: int,
        features: ImageFeatures | None = None,
    ) -> None:
        self.model, self.prompter, self.family = model, prompter, prompter.family
        self.max_new_tokens, self.batch_size = max_new_tokens, batch_size
        self.features = features
        self.end_ids = generation.end_ids(model.generation_config, prompter.tokenizer)
        self.placeholders = self.family.placeholders(model.config) or None

    @property
    def name(self) -> str:
        """For the store's provenance."""
        return f"transformers {transformers.__version__}"

    def answer(
        self,
        requests: Sequence[Request],
        sampling: Responses | None = None,
        on_progress: Callable[[int], None] | None = None,
    ) -> list[list[list[int]]]:
        """Token ids `[request][response][token]`, in order; the end token is the last where it was reached.

        `sampling` applies to requests with seeds. `on_progress` hears how many requests each batch added.
        """
        lengths = [len(self.prompter(request.question)[0]) for request in requests]
        order = sorted(range(len(requests)), key=lambda i: (requests[i].count, not requests[i].seeds, lengths[i]))
        answers: list[list[list[int]]] = [[] for _ in requests]
        features = self.features or ImageFeatures(self.model, self.family)
        for batch in self._batches(order, requests):
            for position, responses in zip(batch, self._generate([requests[i] for i in batch], sampling, features)):
                answers[position] = responses
            if on_progress:
                on_progress(len(batch))
        return answers

    def greedy(self, questions: Sequence[Question]) -> list[str]:
        """One greedy answer per question, as text."""
        return self.texts([responses[0] for responses in self.answer([Request(q) for q in questions])])

    def texts(self, responses: Sequence[list[int]]) -> list[str]:
        """Responses as text, without special tokens and outer whitespace."""
        return [t.strip() for t in self.prompter.tokenizer.batch_decode(responses, skip_special_tokens=True)]

    def _batches(self, order: list[int], requests: Sequence[Request]) -> Iterator[list[int]]:
        """Positions of requests of one kind (greedy, or as many samples), at most batch_size sequences together."""
        kind = lambda position: (requests[position].count, not requests[position].seeds)  # noqa: E731
        for (count, _), positions in itertools.groupby(order, kind):
            chosen, size = list(positions), max(1, self.batch_size // count)
            for start in range(0, len(chosen), size):
                yield chosen[start : start + size]

    @torch.inference_mode()
    def _generate(
        self, requests: list[Request], sampling: Responses | None, features: ImageFeatures
    ) -> list[list[list[int]]]:
        built = [self.prompter(request.question) for request in requests]
        pad = self.prompter.tokenizer.pad_token_id
        inputs = left_padded([ids for ids, _ in built], pad)
        inputs |= self.family.text_inputs(self.model.config, inputs["input_ids"])
        length, count = inputs["input_ids"].shape[1], requests[0].count
        processors = LogitsProcessorList()
        if requests[0].seeds and sampling:
            rows_mask = inputs["attention_mask"].repeat_interleave(count, dim=0).to(self.model.device)
            processors.extend(warpers(sampling, rows_mask))
            seeds = [seed for request in requests for seed in request.seeds]
            processors.append(SeededSampling(seeds, length, self.max_new_tokens))
        was_training = self.model.training
        self.model.eval()
        images = features.inputs([request.question.image_id for request in requests], [image for _, image in built])
        out = generation.generate(
            self.model,
            {name: value.to(self.model.device) for name, value in inputs.items()} | images,
            ends=self.end_ids,
            pad=pad,
            num_return_sequences=count,  # generate encodes the image once, then repeats it
            # SeededSampling leaves one token per row, so transformers' own draw has no choice; it needs do_sample to
            # return several sequences, and must not warp the scores again.
            do_sample=bool(requests[0].seeds),
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            max_new_tokens=self.max_new_tokens,
            suppress_tokens=self.placeholders,  # a response with an image in it could not be trained on
            logits_processor=processors,
        )
        self.model.train(was_training)
        rows = [self._cut(row) for row in out[:, length:].tolist()]
        return [rows[start : start + count] for start in range(0, len(rows), count)]

    def _cut(self, ids: list[int]) -> list[int]:
        """Up to and with the first end token."""
        for place, token in enumerate(ids):
            if token in self.end_ids:
                return ids[: place + 1]
        return ids
