"""vLLM in this process: `LLM.generate` over token ids and images, weights on one GPU or spread over several.

A masked teacher is written to disk first, since vLLM loads checkpoints, not models; the student comes from its folder.
One vLLM request per response, each with its own seed: vLLM makes n requests of one with `n` anyway, and shares the
prompt's KV cache between them. Between two calls of `answer` the weights sleep in the CPU's memory where the platform
can do that, so that student, teacher and the models that score can take turns on one GPU.

Checked with vLLM 0.32 on a CPU (recipes/responses/vllm_check.py); sleeping, tensor parallelism and GPUs weren't run.
"""

import importlib.util
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from masters_edge.common import processes
from masters_edge.common.display import say
from masters_edge.common.errors import UserError
from masters_edge.common.files import temporary_folder
from masters_edge.data.records import open_image
from masters_edge.engines import tokens
from masters_edge.engines.base import Closing, Request, Speaker
from masters_edge.engines.prompts import check_prompt, unexpanded
from masters_edge.recipe.schema import Responses

_AT_ONCE = 1024  # sequences handed over together: their images are in memory all at once


class VllmEngine(Closing):
    """Answers requests with one checkpoint; starts vLLM when it is first asked anything, its name included.

    `options` are further arguments of `vllm.LLM`.
    """

    def __init__(self, responses: Responses, speaker: Speaker, folder: Path, **options: Any) -> None:
        if importlib.util.find_spec("vllm") is None:
            raise UserError(
                f"{speaker} is to answer with vLLM, which isn't installed: pip install vllm (it brings a torch of its "
                "own, so best into an environment of its own), or set the engine to transformers or an endpoint"
            )
        if processes.state().num_processes > 1:
            raise UserError(
                f"vLLM in {processes.state().num_processes} processes of one run isn't built in; make the responses "
                "with `masters-edge generate` in one process first (responses.vllm.tensor_parallel spreads the model "
                "over GPUs), or use an endpoint"
            )
        self.responses, self.speaker, self.folder, self.options = responses, speaker, folder, options
        self.end_ids, self.placeholders = tokens.end_ids(speaker), speaker.placeholders
        self._llm: Any = None
        self._asleep = False
        self._held = ExitStack()  # the masked checkpoint

    @property
    def name(self) -> str:
        """Version and number format; vLLM takes float32 checkpoints in 16 bits unless it is told otherwise."""
        import vllm

        dtype = str(self._started().llm_engine.model_config.dtype).removeprefix("torch.")
        return f"vllm {vllm.__version__} {dtype}"

    def answer(
        self,
        requests: Sequence[Request],
        sampling: Responses | None = None,
        on_progress: Callable[[int], None] | None = None,
    ) -> list[list[list[int]]]:
        """As `AnyEngine.answer`. Rows depend on their batch as far as vLLM's kernels round differently in it."""
        answers: list[list[list[int]]] = []
        with self._awake() as llm:
            for some in _blocks(requests):
                answers += self._generate(llm, some, sampling or self.responses)
                if on_progress:
                    on_progress(len(some))
        return answers

    def close(self) -> None:
        """End vLLM's processes and remove the masked checkpoint."""
        if self._llm is not None:
            shutdown = getattr(self._llm.llm_engine.engine_core, "shutdown", None)
            if shutdown:
                shutdown()
        self._llm = None
        self._held.close()

    def _generate(self, llm: Any, requests: Sequence[Request], sampling: Responses) -> list[list[list[int]]]:
        prompts, params = [], []
        for request in requests:
            ids = unexpanded(self.speaker.prompter, request.question)
            image = open_image(request.question)
            for own in [self._params(sampling, seed) for seed in request.seeds] or [self._params()]:
                prompts.append({"prompt_token_ids": ids, "multi_modal_data": {"image": image}})
                params.append(own)
        try:
            outputs = iter(llm.generate(prompts, params, use_tqdm=False))
        except ValueError as error:  # a prompt too long, and the like
            raise UserError(f"vLLM refuses a request of {self.speaker}: {_first(error)}") from None
        answers, cuts = [], 0
        for request in requests:
            own = [next(outputs) for _ in range(request.count)]
            check_prompt(self.speaker, request.question, own[0].prompt_token_ids, "vLLM", _OTHER_PROMPT)
            found = [list(output.outputs[0].token_ids) for output in own]
            answers.append([tokens.cut(ids, self.end_ids, self.placeholders) for ids in found])
            cuts += sum(not {*ids}.isdisjoint(self.placeholders) for ids in found)
        if cuts:
            say(f"{cuts} responses of vLLM held an image placeholder and were cut there")
        return answers

    def _params(self, sampling: Responses | None = None, seed: int | None = None) -> Any:
        """vLLM's SamplingParams, greedy without `sampling`."""
        from vllm import SamplingParams

        return SamplingParams(
            temperature=sampling.temperature if sampling else 0.0,
            top_p=sampling.top_p if sampling else 1.0,
            top_k=sampling.top_k if sampling else 0,
            repetition_penalty=sampling.repetition_penalty if sampling else 1.0,
            max_tokens=self.responses.max_new_tokens,
            seed=None if seed is None else tokens.narrow(seed),
            logit_bias={token: -100.0 for token in self.placeholders} or None,  # vLLM's lowest
            detokenize=False,
        )

    @contextmanager
    def _awake(self) -> Iterator[Any]:
        llm = self._started()
        if self._asleep:
            llm.wake_up()
            self._asleep = False
        try:
            yield llm
        finally:
            self._rest()

    def _rest(self) -> None:
        if self._llm.llm_engine.model_config.enable_sleep_mode:
            self._llm.sleep(level=1)  # weights to the CPU's memory, KV cache given up
            self._asleep = True

    def _started(self) -> Any:
        if self._llm is None:
            os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
            from vllm import LLM
            from vllm.platforms import current_platform

            settings = self.responses.vllm
            options = {
                "tensor_parallel_size": settings.tensor_parallel,
                "gpu_memory_utilization": settings.gpu_memory,
                "max_model_len": settings.max_model_len,
                "limit_mm_per_prompt": {"image": 1, "video": 0},
                "enable_sleep_mode": current_platform.is_sleep_mode_available(),
            }
            source = self._source()
            try:
                self._llm = LLM(source, **options | self.options)
            except Exception as error:  # of many kinds, some from vLLM's own processes
                self.close()
                raise UserError(
                    f"vLLM can't start {self.speaker} ({self.speaker.source}): {type(error).__name__}: "
                    f"{_first(error)}; its own messages stand above; where memory is short, lower "
                    "responses.vllm.gpu_memory (what the run's own models hold isn't free) or max_model_len, or raise "
                    "tensor_parallel"
                ) from error
            self._rest()  # the next one may be about to start
        return self._llm

    def _source(self) -> str:
        """The checkpoint that vLLM loads: the speaker's own, or a masked copy in the folder."""
        speaker = self.speaker
        if speaker.write is None:
            return speaker.source
        masked = self._held.enter_context(temporary_folder(self.folder / f"masked-teacher-{speaker.teacher}"))
        speaker.write(masked)
        return str(masked)


_OTHER_PROMPT = "take the transformers engine or an endpoint, and report this"


def _blocks(requests: Sequence[Request]) -> Iterator[Sequence[Request]]:
    """Requests in order, about `_AT_ONCE` sequences at a time."""
    start = size = 0
    for place, request in enumerate(requests):
        if size and size + request.count > _AT_ONCE:
            yield requests[start:place]
            start, size = place, 0
        size += request.count
    if size:
        yield requests[start:]


def _first(error: Exception) -> str:
    return (str(error).strip().splitlines() or ["no message"])[0]
