"""`mask.r_max: auto`: how much masking each teacher bears, measured before training.

In: the chain of teachers and held-out questions. Each teacher answers them at one masking ratio after another until it
is clearly broken. Out: each teacher's r_max and step, and mask.json in the run folder, which a resumed run reads
instead of measuring again.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from masters_edge.common import processes
from masters_edge.common.display import progress, say
from masters_edge.common.errors import UserError
from masters_edge.common.files import read_json, write_json
from masters_edge.data.records import Question
from masters_edge.engines import Request
from masters_edge.engines.transformers import Engine
from masters_edge.families.prompts import Prompter
from masters_edge.objective import sequences
from masters_edge.objective.chunked import Head, chunk_logits, chunks
from masters_edge.objective.divergence import jsd
from masters_edge.recipe import Recipe
from masters_edge.recipe.schema import Mask
from masters_edge.recipe.stages import RUNGS, Masks, five_stages
from masters_edge.scoring import metrics
from masters_edge.teacher.chain import TeacherChain
from masters_edge.teacher.masking import Norms, mask_

SCHEMA_VERSION = 1
FILE = "mask.json"
BROKEN = 0.5  # share of its unmasked accuracy below which no larger ratio is tried
_SMALLER = 8  # a forward pass over whole rows has this part of the rows of generation with a cache
BY_LABELS, BY_ANSWERS = "right answers, %", "unmasked answers kept, %"


@dataclass(frozen=True, slots=True)
class Rung:
    """What a teacher does at one ratio: accuracy in per cent, and the JSD to itself unmasked (natural log)."""

    ratio: float
    accuracy: float
    jsd_to_itself: float


@dataclass(frozen=True, slots=True)
class Ladder:
    """A teacher's rungs, ratio 0 first, and what their accuracy is: `BY_LABELS` or `BY_ANSWERS`."""

    rungs: tuple[Rung, ...]
    accuracy_is: str

    def borne(self, keep: float) -> float:
        """The largest ratio at which at least `keep` of the unmasked accuracy is left."""
        return max(rung.ratio for rung in self.rungs if rung.accuracy >= keep * self.rungs[0].accuracy)


def measure(run: Path, recipe: Recipe, chain: TeacherChain, questions: Sequence[Question]) -> list[Masks]:
    """Each teacher's masks, from the run's mask.json as far as they stand there, else measured and written to it.

    Raises:
        UserError: no question to measure on, or a mask.json that can't be read or is of other teachers.
    """
    known = _read(run / FILE, chain.sources)
    if len(known) < len(chain) and not questions:
        raise UserError("mask.r_max is `auto`, but no question is held out; raise data.held_out, or give a number")
    options = recipe.responses
    for teacher in range(len(known), len(chain)):
        model = chain.load(teacher)
        with progress(f"mask ladder of {chain.name(teacher)}", len(RUNGS)) as bar:
            ladder = climb(
                model,
                chain.prompter(teacher),
                questions,
                metric=recipe.reward.metric,
                mask=recipe.mask,
                norms=chain.norms(teacher),
                max_new_tokens=options.max_new_tokens,
                batch_size=options.batch_size,
                on_rung=lambda rung, bar=bar: bar(1, note=f"{rung.ratio:.2f}: {rung.accuracy:.1f}"),  # type: ignore[misc]
            )
            bar(completed=len(RUNGS))
        del model
        masks = five_stages(ladder.borne(recipe.mask.keep))
        known.append(
            {
                "source": chain.sources[teacher],
                "r_max": masks.r_max,
                "step": masks.step,
                "rule": f"largest ratio that keeps {100 * recipe.mask.keep:g}% of the unmasked figure, in five stages",
                "accuracy_is": ladder.accuracy_is,
                "questions": len(questions),
                "measured": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                "ladder": [asdict(rung) for rung in ladder.rungs],
            }
        )
        say(
            f"{chain.name(teacher)}: r_max {masks.r_max:.2f} ({ladder.accuracy_is.partition(',')[0]}: "
            f"{ladder.rungs[0].accuracy:.1f}% unmasked, "
            f"{next(r.accuracy for r in ladder.rungs if r.ratio == masks.r_max):.1f}% at {masks.r_max:.2f})"
        )
        if processes.state().is_main_process:
            write_json(run / FILE, {"schema_version": SCHEMA_VERSION, "teachers": known})
        processes.state().wait_for_everyone()
    return [Masks(entry["r_max"], entry["step"]) for entry in known]


def _read(path: Path, sources: Sequence[str]) -> list[dict[str, Any]]:
    remedy = "the run's schedule follows from it, so restore it, or start again in another run_dir"
    try:
        found = read_json(path)
        known = found["teachers"]
        fits = found["schema_version"] == SCHEMA_VERSION and all(
            isinstance(e["source"], str) and 0 <= e["r_max"] < 1 and five_stages(e["r_max"]).step == e["step"]
            for e in known
        )
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} can't be read ({type(error).__name__}: {error}); {remedy}") from None
    names = [Path(source).name for source in sources]  # a project may be moved
    if not fits or [Path(entry["source"]).name for entry in known] != names[: len(known)]:
        raise UserError(f"{path} is of another version or other teachers; {remedy}")
    return list(known)


@torch.inference_mode()
def climb(
    model: Any,
    prompter: Prompter,
    questions: Sequence[Question],
    *,
    metric: str,
    mask: Mask,
    norms: Norms | None = None,
    max_new_tokens: int,
    batch_size: int,
    ratios: Sequence[float] = RUNGS,
    on_rung: Callable[[Rung], None] | None = None,
) -> Ladder:
    """Mask `model` further and further, for good, and measure it at each of `ratios` (rising, 0 first).

    Accuracy is that of its greedy answers by `metric` (or the questions' own) on the questions' labels; questions for a
    judge are left out. Where no question is left, or the unmasked teacher gets none right, it is the share of its own
    unmasked answers that stay the same. The JSD is the
    mean over the tokens of its unmasked greedy responses, between what it says of each masked and unmasked. Climbing
    ends where less than half of the unmasked accuracy is left. Several processes share the questions.

    Nothing is held besides the model but its unmasked output head and hidden states `[response tokens, hidden]`.
    """
    mine = list(processes.share(questions))
    engine = Engine(model, prompter, max_new_tokens, batch_size)
    own = [responses[0] for responses in engine.answer([Request(question) for question in mine])]
    own_texts = engine.texts(own)
    rows = max(1, batch_size // _SMALLER)
    groups = [slice(start, start + rows) for start in range(0, len(mine), rows)]
    whole = [_hidden(model, prompter, mine[part], own[part]).cpu() for part in groups]
    vocabulary, head = len(prompter.tokenizer), Head.of(model)
    head = Head(head.weight.clone(), None if head.bias is None else head.bias.clone())

    def right(texts: Sequence[str]) -> float:
        by_rule = [(q.metric or metric, t, q.accepted) for t, q in zip(texts, mine) if q.accepted]
        scores = [metrics.best_score(*asked) for asked in by_rule if asked[0] != metrics.JUDGE]
        return _mean(sum(scores), len(scores))

    by_labels = right(own_texts) > 0
    rungs: list[Rung] = []
    for ratio in ratios:
        texts, divergence, tokens = own_texts, 0.0, 0
        if ratio > 0:
            mask_(model, ratio, mask.include, mask.exclude, norms)
            texts = engine.greedy(mine)
            for part, before in zip(groups, whole):
                after = _hidden(model, prompter, mine[part], own[part])
                tokens += len(after)
                divergence += _summed_jsd(after, Head.of(model), before, head, vocabulary)
        kept = _mean(sum(a == b for a, b in zip(texts, own_texts)), len(mine))
        accuracy = right(texts) if by_labels else kept
        rungs.append(Rung(ratio, round(100 * accuracy, 4), round(_mean(divergence, tokens), 6)))
        if on_rung:
            on_rung(rungs[-1])
        if rungs[-1].accuracy < BROKEN * rungs[0].accuracy:
            break
    return Ladder(tuple(rungs), BY_LABELS if by_labels else BY_ANSWERS)


def _mean(total: float, count: int) -> float:
    """Of all processes together, 0 of nothing."""
    mean_total, mean_count = processes.mean([float(total), float(count)])
    return mean_total / mean_count if mean_count else 0.0


def _hidden(
    model: Any, prompter: Prompter, questions: Sequence[Question], responses: Sequence[list[int]]
) -> torch.Tensor:
    """Hidden states `[tokens, hidden]` that predict each response token."""
    prompts, images = zip(*(prompter(question) for question in questions))
    batch = sequences.pack(prompts, images, responses, range(len(questions)), prompter.tokenizer.pad_token_id)
    return sequences.response_hidden(model, prompter.family, batch)


def _summed_jsd(
    masked: torch.Tensor, masked_head: Head, whole: torch.Tensor, whole_head: Head, vocabulary: int
) -> float:
    total = 0.0
    for part in chunks(len(masked), vocabulary):
        p = chunk_logits(masked[part], masked_head, vocabulary)
        q = chunk_logits(whole[part].to(p.device), whole_head, vocabulary)
        total += float(jsd(p, q).double().sum())
    return total
