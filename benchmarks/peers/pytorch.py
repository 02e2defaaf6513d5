"""The side-by-side peer: the checkpoint answered by transformers' own `generate`, as a user would otherwise run it.

Greedy, one question at a time for latency, in batches for accuracy over the whole suite. This is the one module here
that touches torch, inside its functions.
"""

import functools
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from masters_edge.benchmarks import machine
from masters_edge.benchmarks.peers import Facts
from masters_edge.families import templates

COLD_STARTS = 1  # importing torch and transformers takes many seconds
CHOOSES = False
PACKAGES = ("masters-edge", "torch", "transformers", "tokenizers", "numpy", "pillow")
MAX_NEW_TOKENS = 128  # where the checkpoint's generation settings name no length; as in our runtime
_NEEDED = ("*.safetensors", "*.bin", "*.json", "*.jinja", "*.txt", "*.model")
_NOT_NEEDED = ("optimizer.bin", "trainer_state.json", "training_args.bin")


def fingerprint(path: str) -> str:
    """sha256 of a folder's weights, config and tokenizer; a hub id's name and commit."""
    from masters_edge import families

    return families.fingerprint(path)


def packages(path: str, backend: str = "auto") -> tuple[str, ...]:
    return PACKAGES


def runtimes(path: str, backend: str = "auto") -> tuple[str, ...]:
    return ("torch",)


@dataclass(frozen=True)
class TimedAnswer:
    """One answer and its stages; `vision_ms` is None where the model has no `get_image_features`."""

    text: str
    preprocess_ms: float
    vision_ms: float | None
    prefill_ms: float | None
    ttft_ms: float | None
    decode_tokens_per_s: float | None
    total_ms: float


class _Clock:
    """A transformers streamer that keeps no tokens, only when each arrived (seconds)."""

    def __init__(self) -> None:
        self.arrivals: list[float] = []
        self.prompt_seen = False

    def put(self, value: Any) -> None:
        if self.prompt_seen:
            self.arrivals.append(time.perf_counter())
        self.prompt_seen = True

    def end(self) -> None:
        pass


class PyTorchAnswerer:
    """A checkpoint in PyTorch, float32 on the CPU unless it was saved otherwise."""

    def __init__(self, path: str, threads: int) -> None:
        import torch

        from masters_edge import families

        torch.set_num_threads(threads)
        self.path = path
        self.model = families.load_model(path)
        self.processor = families.load_processor(path)
        self.processor.tokenizer.padding_side = "left"
        self.parameters = sum(parameter.numel() for parameter in self.model.parameters())
        self.batch_size = 64 if self.parameters < 50_000_000 else 8
        text = self.model.config.get_text_config()
        self.context = int(getattr(text, "max_position_embeddings", 1 << 30))
        self._vision_s: list[float] = []
        self._watch_vision()

    @property
    def facts(self) -> Facts:
        return Facts(
            target="checkpoint",
            runtime="pytorch",
            scheme=str(next(self.model.parameters()).dtype).removeprefix("torch."),
            size_bytes=_size(self.path) or sum(p.numel() * p.element_size() for p in self.model.parameters()),
            parameters=self.parameters,
            weights=_weights(self.path),
            versions=machine.versions(*PACKAGES),
        )

    def answer(self, image: Image.Image, question: str, exactly: int | None = None) -> TimedAnswer:
        clock = _Clock()
        self._vision_s.clear()
        start = time.perf_counter()
        inputs = self._inputs([image], [question])
        prepared = time.perf_counter()
        length = {} if exactly is None else dict(min_new_tokens=exactly, max_new_tokens=exactly)
        ids = self._generate(inputs, streamer=clock, **length)
        text = self._texts(ids)[0]
        end = time.perf_counter()
        vision_ms = 1000 * sum(self._vision_s) if self._vision_s else None
        ttft_ms = decode = prefill_ms = None
        if clock.arrivals:
            first, last = clock.arrivals[0], clock.arrivals[-1]
            ttft_ms = 1000 * (first - start)
            prefill_ms = 1000 * (first - prepared) - (vision_ms or 0)
            decode = (len(clock.arrivals) - 1) / (last - first) if last > first else None
        return TimedAnswer(
            text=text,
            preprocess_ms=1000 * (prepared - start),
            vision_ms=vision_ms,
            prefill_ms=prefill_ms,
            ttft_ms=ttft_ms,
            decode_tokens_per_s=decode,
            total_ms=1000 * (end - start),
        )

    def answer_many(self, images: Sequence[Image.Image], questions: Sequence[str]) -> list[str]:
        return self._texts(self._generate(self._inputs(images, questions)))

    def prompt_size(self, image: Image.Image, question: str) -> tuple[int, int]:
        ids = self._inputs([image], [question])["input_ids"]
        return ids.shape[1], int((ids == self.model.config.image_token_id).sum())

    def _inputs(self, images: Sequence[Image.Image], questions: Sequence[str]) -> Any:
        prompts = [self._prompt(question) for question in questions]
        return self.processor(text=prompts, images=[[image] for image in images], padding=True, return_tensors="pt")

    def _prompt(self, question: str) -> str:
        return self.processor.apply_chat_template(templates.chat(question), add_generation_prompt=True)

    def _generate(self, inputs: Any, **options: Any) -> Any:
        """New token ids, `[questions, new_tokens]`."""
        import torch

        from masters_edge.families import generation

        own, tokenizer = self.model.generation_config, self.processor.tokenizer
        options.setdefault("max_new_tokens", own.max_new_tokens or MAX_NEW_TOKENS)
        with torch.inference_mode():
            ids = generation.generate(
                self.model,
                inputs,
                ends=generation.end_ids(own, tokenizer),
                pad=tokenizer.pad_token_id,
                suppress_tokens=[self.model.config.image_token_id],  # as the runtime does
                **options,
            )
        return ids[:, inputs["input_ids"].shape[1] :]

    def _texts(self, ids: Any) -> list[str]:
        return [text.strip() for text in self.processor.batch_decode(ids, skip_special_tokens=True)]

    def _watch_vision(self) -> None:
        """Time the model's image features where it computes them, inside `generate`."""
        inner = self.model.base_model
        compute = getattr(inner, "get_image_features", None)
        if compute is None:
            return

        @functools.wraps(compute)  # generate looks at its signature
        def timed(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            features = compute(*args, **kwargs)
            self._vision_s.append(time.perf_counter() - start)
            return features

        inner.get_image_features = timed


def open_subject(path: str, threads: int, backend: str = "auto") -> PyTorchAnswerer:
    return PyTorchAnswerer(path, threads)


def _weights(path: str) -> str | None:
    """The fingerprint that bundles of this checkpoint carry; None for a hub id or another format."""
    from masters_edge.bundle import manifest as manifests

    return manifests.fingerprint(Path(path)) if any(Path(path).glob("*.safetensors")) else None


def _size(path: str) -> int:
    """Bytes of the files that running the checkpoint needs; 0 for a hub id."""
    folder = Path(path)
    if not folder.is_dir():
        return 0
    files = {file for pattern in _NEEDED for file in folder.glob(pattern) if file.name not in _NOT_NEEDED}
    if any(file.suffix == ".safetensors" for file in files):
        files = {file for file in files if file.suffix != ".bin"}
    return sum(file.stat().st_size for file in files)
