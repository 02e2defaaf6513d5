"""A judge in this process: a language model on transformers, batched and greedy.

In: prompts. Out: replies, batch by batch. The model is a folder saved by transformers, a hub id, or a .gguf file; an
image-text model serves as well, asked without images.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from masters_edge.common import processes
from masters_edge.common.errors import UserError
from masters_edge.common.quiet import hush, hush_transformers
from masters_edge.families import generation
from masters_edge.families.loading import load_config, load_pretrained
from masters_edge.recipe.schema import Judge
from masters_edge.rewards.judge.replies import Reply


class LocalJudge:
    """Greedy replies, prompts of similar length together. The same prompts give the same replies."""

    def __init__(self, judge: Judge) -> None:
        """Load the model, in its own number format on a GPU, in float32 on the CPU.

        Raises:
            UserError: it can't be found or loaded, or has no chat template.
        """
        hush()
        from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoTokenizer
        from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES as IMAGE_TEXT

        hush_transformers()
        self.judge = judge
        self.device = processes.state().device
        path = Path(judge.model)
        gguf = path.suffix == ".gguf"
        source, options = (str(path.parent), {"gguf_file": path.name}) if gguf else (judge.model, {})
        self.tokenizer = load_pretrained(AutoTokenizer, source, padding_side="left", **options)
        if not self.tokenizer.chat_template:
            raise UserError(
                f"the judge {judge.model} has no chat template, so it can't be asked; take an instruction-tuned model"
            )
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        self._sees = not gguf and load_config(source).model_type in IMAGE_TEXT
        dtype = torch.float32 if self.device.type == "cpu" else "auto"
        kind = AutoModelForImageTextToText if self._sees else AutoModelForCausalLM
        self.model = load_pretrained(kind, source, dtype=dtype, **options).eval().to(self.device)

    def close(self) -> None:
        del self.model

    @torch.inference_mode()
    def replies(self, prompts: Sequence[str]) -> Iterator[list[tuple[int, Reply]]]:
        """(place, reply) of every prompt, a batch at a time, the longest prompts first."""
        texts = [self._templated(prompt) for prompt in prompts]
        order = sorted(range(len(texts)), key=lambda place: (-len(texts[place]), place))
        for start in range(0, len(order), self.judge.batch_size):
            places = order[start : start + self.judge.batch_size]
            batch = self.tokenizer(
                [texts[place] for place in places], padding=True, add_special_tokens=False, return_tensors="pt"
            ).to(self.device)
            written = generation.generate(
                self.model,
                {name: batch[name] for name in ("input_ids", "attention_mask")},
                ends=generation.end_ids(self.model.generation_config, self.tokenizer),
                pad=self.tokenizer.pad_token_id,
                max_new_tokens=self.judge.max_new_tokens,
            )
            said = self.tokenizer.batch_decode(written[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
            yield [(place, Reply(text)) for place, text in zip(places, said)]

    def _templated(self, prompt: str) -> str:
        content = [{"type": "text", "text": prompt}] if self._sees else prompt
        messages: list[dict[str, Any]] = [{"role": "user", "content": content}]
        # Templates that know no thinking ignore the last argument; those that do would think past max_new_tokens.
        return self.tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True, enable_thinking=False
        )
