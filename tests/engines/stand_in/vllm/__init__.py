"""Stands where vLLM would, on machines without it: the same names and signatures (0.32, 0.33), transformers underneath.

What the real one says, `recipes/responses/vllm_check.py` compares.
"""

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

__version__ = "0.0 (stand-in)"
STARTED: list["LLM"] = []


@dataclass(kw_only=True)
class SamplingParams:
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    repetition_penalty: float = 1.0
    max_tokens: int | None = 16
    seed: int | None = None
    logit_bias: dict[int, float] | None = None
    detokenize: bool = True


@dataclass
class LLM:
    model: str
    tensor_parallel_size: int = 1
    gpu_memory_utilization: float = 0.92
    max_model_len: int | None = None
    limit_mm_per_prompt: dict[str, int] = field(default_factory=dict)
    enable_sleep_mode: bool = False
    dtype: str = "auto"

    def __post_init__(self) -> None:
        from masters_edge.families import load_model, load_processor

        self.loaded, self.processor = load_model(self.model), load_processor(self.model)
        self.heard: list[str] = []
        core = SimpleNamespace(shutdown=lambda: self.heard.append("shutdown"))
        config = SimpleNamespace(dtype=self.loaded.dtype, enable_sleep_mode=self.enable_sleep_mode)
        self.llm_engine = SimpleNamespace(model_config=config, engine_core=core)
        STARTED.append(self)

    def generate(self, prompts: list[dict[str, Any]], sampling_params: list[SamplingParams], *, use_tqdm: bool) -> list:
        assert "sleep" not in self.heard[-1:] and len(prompts) == len(sampling_params)
        self.heard.append(f"generate {len(prompts)}")
        return [self._one(prompt, params) for prompt, params in zip(prompts, sampling_params)]

    def sleep(self, level: int = 1) -> None:
        self.heard.append("sleep")

    def wake_up(self) -> None:
        self.heard.append("wake up")

    def _one(self, prompt: dict[str, Any], params: SamplingParams) -> Any:
        import torch

        text = self.processor.tokenizer.decode(prompt["prompt_token_ids"])
        image = prompt["multi_modal_data"]["image"]
        inputs = self.processor(text=text, images=[image], add_special_tokens=False, return_tensors="pt")
        length = inputs["input_ids"].shape[1]
        if self.max_model_len is not None and length > self.max_model_len:
            raise ValueError(f"The decoder prompt (length {length}) is longer than {self.max_model_len}.")
        torch.manual_seed(params.seed or 0)
        out = self.loaded.generate(
            **inputs,
            do_sample=params.temperature > 0,
            temperature=params.temperature or 1.0,
            top_p=params.top_p,
            top_k=params.top_k,
            repetition_penalty=params.repetition_penalty,
            max_new_tokens=params.max_tokens,
            sequence_bias={(token,): bias for token, bias in params.logit_bias.items()} if params.logit_bias else None,
        )
        completion = SimpleNamespace(token_ids=out[0, length:].tolist())
        return SimpleNamespace(prompt_token_ids=inputs["input_ids"][0].tolist(), outputs=[completion])
