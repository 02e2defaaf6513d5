"""How much masking the demo's teacher bears: its own accuracy and divergence at rising ratios, on training questions.

    python recipes/demo/mask_ladder.py      # two minutes on two cores

The recipe's `mask.r_max` was chosen from this curve; `mask.r_max: auto` climbs the same ladder on held-out questions.
"""

from pathlib import Path

from masters_edge.data import easy_vqa, sample
from masters_edge.families import load_model, load_processor
from masters_edge.families.base import family_of
from masters_edge.families.prompts import Prompter
from masters_edge.recipe.schema import Mask
from masters_edge.teacher.ladder import Rung, climb

QUESTIONS = 1500


def main() -> None:
    source = str(Path(__file__).parent / "teacher")
    model, processor = load_model(source), load_processor(source)
    family = family_of(model.config)
    print("| mask ratio | teacher's accuracy on training questions, % | JSD to itself |\n|---|---|---|")

    def show(rung: Rung) -> None:
        print(f"| {rung.ratio:.2f} | {rung.accuracy:.1f} | {rung.jsd_to_itself:.4f} |", flush=True)

    ladder = climb(
        model,
        Prompter(processor, family, model.config),
        sample(easy_vqa.read("train"), QUESTIONS, seed=5),
        metric="exact_match",
        mask=Mask(),
        max_new_tokens=6,
        batch_size=256,
        on_rung=show,
    )
    print(f"\nlargest ratio that keeps {100 * Mask().keep:g}% of it: {ladder.borne(Mask().keep):.2f}")


if __name__ == "__main__":
    main()
