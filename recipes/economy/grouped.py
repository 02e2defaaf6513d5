"""One training step with the grouped forward, against separate padded sequences: FLOPs, time, loss and gradient.

    python recipes/economy/grouped.py --prompt 512 --response 32

Separate: each response in a row of its own behind its own copy of prompt and image, through transformers' own forward,
the loss over all logits at once. Grouped: what masters-edge trains with. Both compute the whole objective of METHOD 6
(JSD to the teacher, GRPO, KL to the reference) and the student's gradients.
"""

import json
from typing import Any

import shapes
import torch
from torch.utils.flop_counter import FlopCounterMode

from masters_edge.common.display import say
from masters_edge.families.base import family_of
from masters_edge.objective import chunked, sequences
from masters_edge.objective.divergence import jsd, kl
from masters_edge.objective.terms import Objective, Tokens
from masters_edge.recipe.schema import Phase, Reward

VOCABULARY = 4096


class Step:
    """A student, a teacher and a reference, and one step's questions with `group` responses each."""

    def __init__(
        self,
        count: int,
        prompt: int,
        response: int,
        group: int,
        attention: str = "sdpa",
        shape: tuple[int, int] = (256, 8),
    ) -> None:
        width, layers = shape
        self.student = shapes.smolvlm(width, layers, VOCABULARY, 1, attention)
        self.reference = shapes.smolvlm(width, layers, VOCABULARY, 1, attention).requires_grad_(False)
        self.teacher = shapes.smolvlm(width * 3 // 2, layers * 3 // 2, VOCABULARY, 2, attention).requires_grad_(False)
        self.family = family_of(self.student.config)
        self.prompts, self.images = shapes.questions(count, prompt, VOCABULARY)
        self.responses = shapes.responses(count * group, response, VOCABULARY)
        self.owner = [question for question in range(count) for _ in range(group)]
        self.advantages = torch.randn(len(self.responses), generator=torch.Generator().manual_seed(5))

    def separate(self) -> torch.Tensor:
        self.student.zero_grad()
        ids = torch.tensor([self.prompts[q] + response for q, response in zip(self.owner, self.responses)])
        pixels = torch.cat([self.images[q]["pixel_values"] for q in self.owner])
        kept = len(self.responses[0]) + 1
        logits = self._logits(self.student, ids, pixels, kept)
        with torch.no_grad():
            teacher = self._logits(self.teacher, ids, pixels, kept)
            reference = self._logits(self.reference, ids, pixels, kept)
        log_probs = torch.log_softmax(logits, -1).gather(-1, torch.tensor(self.responses)[..., None])[..., 0]
        ratio = (log_probs - log_probs.detach()).exp()
        grpo = -(ratio * self.advantages[:, None] - 0.1 * kl(logits, reference)).mean()
        loss = jsd(teacher, logits).mean() + grpo
        loss.backward()
        return loss.detach()

    def _logits(self, model: Any, ids: torch.Tensor, pixels: torch.Tensor, kept: int) -> torch.Tensor:
        out = model(input_ids=ids, pixel_values=pixels, logits_to_keep=kept, use_cache=False)
        return out.logits[:, :-1].float()

    def grouped(self) -> torch.Tensor:
        self.student.zero_grad()
        batch = sequences.pack(self.prompts, self.images, self.responses, self.owner, shapes.PAD_ID)
        lengths = torch.tensor([len(r) for r in self.responses])
        tokens = Tokens(
            ids=torch.tensor(self.responses).flatten(),
            weights=(1 / lengths / len(lengths)).repeat_interleave(lengths),
            advantages=self.advantages.repeat_interleave(lengths),
        )
        objective = Objective(
            Phase(), Reward(), tokens, self._frozen(self.teacher, batch), self._frozen(self.reference, batch)
        )
        hidden = sequences.response_hidden(self.student, self.family, batch)
        loss, _ = chunked.loss(hidden, chunked.Head.of(self.student), VOCABULARY, objective)
        loss.backward()
        return loss.detach()

    @torch.no_grad()
    def _frozen(self, model: Any, batch: Any) -> Any:
        hidden, head = sequences.response_hidden(model, self.family, batch), chunked.Head.of(model)
        return lambda part: chunked.chunk_logits(hidden[part], head, VOCABULARY)

    def gradient(self) -> torch.Tensor:
        return torch.cat([p.grad.flatten() for p in self.student.parameters() if p.grad is not None])


def flops(way: Any) -> int:
    """Multiplications and additions of matrix products and convolutions, attention's included (eager attention)."""
    with FlopCounterMode(display=False) as counter:
        way()
    return counter.get_total_flops()


def main() -> None:
    given = shapes.step_sizes(__doc__)
    torch.set_num_threads(given.threads)
    sizes = (given.questions, given.prompt, given.response, given.group)
    counted = Step(*sizes, attention="eager")
    counts = {"separate": flops(counted.separate), "grouped": flops(counted.grouped)}
    step = Step(*sizes, attention="sdpa")
    losses, gradients = {}, {}
    for name, way in (("separate", step.separate), ("grouped", step.grouped)):
        losses[name], gradients[name] = float(way()), step.gradient()
    seconds = shapes.side_by_side({"separate": step.separate, "grouped": step.grouped}, given.repeats)
    apart = (gradients["separate"] - gradients["grouped"]).norm() / gradients["separate"].norm()
    figures = {
        "sizes": dict(zip(("questions", "prompt", "response", "group"), sizes)) | {"threads": given.threads},
        "flops": counts,
        "seconds": seconds,
        "flops_ratio": counts["separate"] / counts["grouped"],
        "time_ratio": seconds["separate"] / seconds["grouped"],
        "loss": losses,
        "gradient_relative_difference": float(apart),
    }
    for name in ("separate", "grouped"):
        say(f"{name:9} {counts[name] / 1e9:8.1f} GFLOP {seconds[name]:7.3f} s  loss {losses[name]:.6f}")
    say(
        f"ratio     {figures['flops_ratio']:8.2f}       {figures['time_ratio']:7.2f}    gradient differs by {apart:.1e}"
    )
    if given.out:
        given.out.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
