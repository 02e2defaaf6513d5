"""One distillation step, forward and backward, against TRL's DistillationTrainer: same pair, same tokens, same loss.

    python recipes/economy/trl_step.py --prompt 512 --response 32

TRL's own trainer computes its own loss (`compute_loss`, its chunked divergence included) on the questions' responses as
its generation would hand them over: a row for each response, with a copy of prompt and image. masters-edge computes
the same JSD from grouped rows, with the teacher live and with its 64 most likely tokens stored.
"""

import json
import tempfile
import warnings
from pathlib import Path

import shapes
import torch
from cached import Live

from masters_edge.common.display import say
from masters_edge.families import load_processor

ROOT = Path(__file__).parents[2]
warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")  # TRL's settings use an old name


def trl(step: Live) -> tuple[object, dict[str, torch.Tensor]]:
    """TRL's trainer around the step's pair, and the step's responses as its inputs."""
    from datasets import Dataset
    from trl import DistillationConfig, DistillationTrainer

    settings = DistillationConfig(
        output_dir=tempfile.mkdtemp(), beta=0.5, temperature=1.0, report_to=[], use_cpu=True, bf16=False
    )
    trainer = DistillationTrainer(
        model=step.student,
        teacher_model=step.teacher,
        args=settings,
        train_dataset=Dataset.from_list([{"prompt": [{"role": "user", "content": "?"}]}] * 8),
        processing_class=load_processor(str(ROOT / "recipes/demo/student")),  # asked for, but nothing is tokenized
    )
    ids = torch.tensor([step.prompts[question] for question in step.owner])
    completions = torch.tensor(step.responses)
    inputs = {
        "prompt_ids": ids,
        "prompt_mask": torch.ones_like(ids),
        "completion_ids": completions,
        "completion_mask": torch.ones_like(completions),
        "pixel_values": torch.cat([step.images[question]["pixel_values"] for question in step.owner]),
    }
    return trainer, inputs


def main() -> None:
    given = shapes.step_sizes(__doc__)
    torch.set_num_threads(given.threads)
    step = Live(given.questions, given.prompt, given.response, given.group)
    step.remember(64)
    trainer, inputs = trl(step)
    losses: dict[str, float] = {}

    def theirs() -> None:
        step.student.zero_grad()
        loss = trainer.compute_loss(step.student, inputs)  # type: ignore[attr-defined]
        loss.backward()
        losses["TRL"] = float(loss.detach())

    def ours() -> None:
        losses["masters-edge"] = float(step.live())

    def stored() -> None:
        losses["stored teacher"] = float(step.stored())

    theirs()
    gradient = step.gradient()
    ours()
    apart = float((step.gradient() - gradient).norm() / gradient.norm())
    seconds = shapes.side_by_side({"TRL": theirs, "masters-edge": ours, "stored teacher": stored}, given.repeats)
    figures = {
        "sizes": vars(given) | {"out": None},
        "seconds": seconds,
        "ratio_live": seconds["TRL"] / seconds["masters-edge"],
        "ratio_stored": seconds["TRL"] / seconds["stored teacher"],
        "loss": losses,
        "gradient_relative_difference": apart,
    }
    for name, value in seconds.items():
        say(f"{name:15} {value:7.3f} s   {seconds['TRL'] / value:5.2f}x   loss {losses[name]:.6f}")
    say(f"gradients differ by {apart:.1e}")
    if given.out:
        given.out.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
