"""How much masking the demo's teacher bears: its own accuracy at a ladder of ratios, on training questions.

    python recipes/demo/mask_ladder.py      # a minute on two cores

The recipe's `mask.r_max` was chosen from this curve.
"""

from pathlib import Path

from masters_edge.benchmarks import metrics
from masters_edge.data import easy_vqa, sample
from masters_edge.families import load_model, load_processor
from masters_edge.families.base import family_of
from masters_edge.families.prompts import Prompter
from masters_edge.masking import MaskedTeacher
from masters_edge.responses.engine import Engine

RATIOS = (0.0, 0.05, 0.10, 0.15, 0.20, 0.30, 0.40)
QUESTIONS = 1500


def main() -> None:
    source = str(Path(__file__).parent / "teacher")
    model, processor = load_model(source), load_processor(source)
    family = family_of(model.config)
    engine = Engine(model, family, Prompter(processor, family), max_new_tokens=6, batch_size=256)
    questions = sample(easy_vqa.read("train"), QUESTIONS, seed=5)
    teacher = MaskedTeacher(model, max(RATIOS))
    print("| mask ratio | teacher's accuracy on training questions, % |\n|---|---|")
    for ratio in RATIOS:
        teacher.set_ratio(ratio)
        right = sum(
            metrics.score("exact_match", a, q.answer or "") for a, q in zip(engine.greedy(questions), questions)
        )
        print(f"| {ratio:.2f} | {100 * right / QUESTIONS:.1f} |", flush=True)


if __name__ == "__main__":
    main()
