"""Does vLLM say what transformers says? Run it where vLLM is installed, after updating either.

    PYTHONPATH=. python recipes/responses/vllm_check.py --out vllm-check.md      # a tiny random SmolVLM, no download
    PYTHONPATH=. python recipes/responses/vllm_check.py --checkpoint HuggingFaceTB/SmolVLM-256M-Instruct --dtype auto

Compares, on pictures of several sizes: prompts token by token, greedy answers, the distribution that is sampled from
(temperature, top-k, top-p, repetition penalty), seeds, a masked teacher, and the same through vLLM's server (unless
--no-server). In 16 bits greedy answers part where two tokens are almost as likely; in float32 on a CPU all were equal.
"""

import argparse
import contextlib
import dataclasses
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from masters_edge.data.records import Question
from masters_edge.recipe.schema import Endpoint, Responses

SIZES = ((64, 48), (32, 32), (48, 96), (128, 40))
TEXTS = ("what is in this image?", "is there a red triangle?", "what colour is the shape on the left?")


def main() -> None:
    options = parse()
    import transformers

    from masters_edge.engines import Request, Speaker, sampled
    from masters_edge.engines.endpoint import EndpointEngine
    from masters_edge.engines.transformers import Engine
    from masters_edge.engines.vllm import VllmEngine
    from masters_edge.families import load_model
    from masters_edge.families.prompts import Prompter
    from masters_edge.teacher.masked_checkpoint import mask_checkpoint
    from masters_edge.teacher.masking import mask_

    with contextlib.ExitStack() as held:
        folder = Path(held.enter_context(tempfile.TemporaryDirectory()))
        source = options.checkpoint or str(tiny(folder / "tiny"))
        asked = questions(folder, options.questions)
        responses = Responses(max_new_tokens=options.tokens)
        speaker = Speaker(Prompter.load(source), source)
        model = load_model(source)
        plain = Engine(model, speaker.prompter, options.tokens, batch_size=16)
        greedy = [Request(question) for question in asked]
        drawn = [sampled(question, 4, "check") for question in asked]
        expected = plain.answer(greedy)
        rows = Rows()

        with VllmEngine(responses, speaker, folder, dtype=options.dtype, **started(options)) as engine:
            name, found, first = engine.name, engine.answer(greedy), engine.answer(drawn, responses)
            rows.append(("prompts, token by token", f"{len(asked)} of {len(asked)} equal"))  # else answer() raises
            rows.append(("greedy answers equal to transformers'", share(found, expected)))
            again = engine.answer(list(reversed(drawn)), responses)[::-1]
            rows.append(("sampled again with the same seeds, in another order: equal", share(again, first)))
            one = [engine.answer([request], responses)[0] for request in drawn[:4]]
            rows.append(("sampled again, one question at a time: equal", share(one, first[:4])))
            other = engine.answer([sampled(question, 4, "other") for question in asked], responses)
            rows.append(("sampled with other seeds: equal (chance)", share(other, first)))
            strangers, surprise = first_tokens(model, speaker, asked, zip(first, other), responses)
            rows.append(("first tokens outside of top-k and top-p", strangers))
            rows.append(("mean -log p of the first tokens", surprise))
            banned = set(speaker.placeholders)
            held_any = sum(bool(banned & set(ids)) for group in first + other for ids in group)
            rows.append(("responses with an image placeholder", str(held_any)))

        masked = dataclasses.replace(speaker, ratio=0.2, teacher=0, write=lambda out: mask_checkpoint(source, out, 0.2))
        mask_(model, 0.2)
        with VllmEngine(responses, masked, folder, dtype=options.dtype, **started(options)) as engine:
            found_masked = engine.answer(greedy)
        rows.append(("greedy answers of a teacher masked at 0.2", share(found_masked, plain.answer(greedy))))
        rows.append(("masked checkpoints left behind", str(len(list(folder.glob(".masked*"))))))

        if not options.no_server:
            url = held.enter_context(serving(source, options))
            with EndpointEngine(Endpoint(url=url, model="checked"), responses, speaker) as engine:
                rows.append(
                    ("vLLM's server: greedy answers equal to transformers'", share(engine.answer(greedy), expected))
                )
                rows.append(("vLLM's server: sampled as in process", share(engine.answer(drawn, responses), first)))
                rows.append(("vLLM's server: the engine's name", engine.name.replace(url, "URL")))
    who = Path(source).name if options.checkpoint else "a tiny random SmolVLM"
    lines = [f"# {name}, transformers {transformers.__version__}, {who}", "", "| what | found |", "|---|---|"]
    table = "\n".join([*lines, *(f"| {what} | {said} |" for what, said in rows)]) + "\n"
    if options.out:
        options.out.write_text(table)


class Rows(list[tuple[str, str]]):
    """What was found, said as it is found."""

    def append(self, row: tuple[str, str]) -> None:
        print(*row, sep=": ", flush=True)
        super().append(row)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", help="folder or hub id; none for a tiny random SmolVLM made here")
    parser.add_argument("--dtype", default="float32", help="number format in vLLM")
    parser.add_argument("--questions", type=int, default=24)
    parser.add_argument("--tokens", type=int, default=12, help="longest response")
    parser.add_argument("--max-model-len", type=int, default=512)
    parser.add_argument("--no-server", action="store_true", help="leave `vllm serve` out")
    parser.add_argument("--out", type=Path, help="file for the table")
    return parser.parse_args()


def started(options: argparse.Namespace) -> dict[str, Any]:
    return {"max_model_len": options.max_model_len, "enforce_eager": True}


def tiny(folder: Path) -> Path:
    """The tests' Idefics3 (as the first SmolVLM) with heads of 32, the smallest that vLLM has kernels for on a CPU."""
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText

    from tests import tiny

    tiny.idefics3(folder, seed=1, splitting=True)
    config = AutoConfig.from_pretrained(folder)
    for name, value in {"head_dim": 32, "num_attention_heads": 2, "num_key_value_heads": 1}.items():
        setattr(config.text_config, name, value)
    torch.manual_seed(1)
    model = AutoModelForImageTextToText.from_config(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.1 if "embed_tokens" in name else 0.2)
    model.save_pretrained(folder)
    return folder


def questions(folder: Path, count: int) -> list[Question]:
    """Pictures of coloured noise, some asked about twice."""
    found = []
    for number in range(count):
        picture, (width, height) = number // 2, SIZES[number // 2 % len(SIZES)]
        path = folder / f"{picture}.png"
        if not path.exists():
            pixels = np.random.default_rng(picture).integers(0, 255, (height // 8 + 1, width // 8 + 1, 3))
            image = Image.fromarray(pixels.repeat(8, 0).repeat(8, 1)[:height, :width].astype(np.uint8))
            image.save(path)
        found.append(Question(str(number), TEXTS[number % len(TEXTS)], path, str(picture)))
    return found


def share(found: list[list[list[int]]], expected: list[list[list[int]]]) -> str:
    """How many responses are equal."""
    pairs = [pair for ours, theirs in zip(found, expected, strict=True) for pair in zip(ours, theirs, strict=True)]
    return f"{sum(a == b for a, b in pairs)} of {len(pairs)}"


def first_tokens(model: Any, speaker: Any, asked: list[Question], found: Any, sampling: Responses) -> tuple[str, str]:
    """How many first tokens transformers' own warpers would not have let through, and how unlikely the others are by
    them: the mean of -log p over all draws, beside what draws from p have, the entropy of p, +- two standard errors."""
    import torch

    from masters_edge.engines.sampling import warpers

    surprises: list[float] = []
    entropies, variances = [], []
    for question, groups in zip(asked, found):
        ids, image = speaker.prompter(question)
        inputs = {"input_ids": torch.tensor([ids]), "attention_mask": torch.ones(1, len(ids), dtype=torch.long)}
        inputs |= speaker.family.text_inputs(model.config, inputs["input_ids"])
        with torch.inference_mode():
            scores = model(**inputs, **speaker.family.collate_images([image])).logits[:, -1].float()
            scores[:, speaker.placeholders] = -torch.inf
            scores = warpers(sampling, inputs["attention_mask"])(torch.LongTensor([ids]), scores)[0]
            information = -torch.log_softmax(scores.double(), -1)
        chances = torch.exp(-information)
        known = chances > 0
        entropy = float((chances * information)[known].sum())
        for response in [response for group in groups for response in group]:
            surprises.append(float(information[response[0]]))
            entropies.append(entropy)
            variances.append(float((chances * (information - entropy) ** 2)[known].sum()))
    inside = [value for value in surprises if value != float("inf")]
    error = 2 * sum(variances) ** 0.5 / len(variances)
    return (
        f"{len(surprises) - len(inside)} of {len(surprises)}",
        f"{np.mean(inside):.3f} nats, expected {np.mean(entropies):.3f} +- {error:.3f}",
    )


@contextlib.contextmanager
def serving(source: str, options: argparse.Namespace) -> Iterator[str]:
    """vLLM's server of the checkpoint, named `checked` (what `vllm serve` starts, whatever the package is called)."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", source, "--host", "127.0.0.1"]
    command += ["--port", str(port), "--served-model-name", "checked", "--dtype", options.dtype, "--enforce-eager"]
    command += ["--max-model-len", str(options.max_model_len)]
    environment = {**os.environ, "VLLM_LOGGING_LEVEL": "WARNING"}
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
    try:
        for _ in range(300):
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
                break
            if process.poll() is not None:
                sys.exit(f"`{' '.join(command)}` ended with {process.returncode}; run it by hand to see why")
            time.sleep(1)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        process.wait(timeout=60)


if __name__ == "__main__":
    main()
