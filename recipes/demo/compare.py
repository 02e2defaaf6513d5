"""The demo's table: teacher, untouched student, labels only, naive distillation and Masters, over several seeds.

    python recipes/demo/compare.py runs/compare --seeds 3

Every arm is recipes/demo.yaml with a few values changed, with equal steps and equal sequences a step, in two settings:
labels for 600 questions, and every question labelled. Accuracy is on all of easy-VQA's official test questions.
What is done is kept: the same command goes on where it stopped. Writes table.md and table.json into the folder.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

RECIPE = Path(__file__).parents[1] / "demo.yaml"
ROOT = Path(__file__).parents[2]


def arms(steps: int) -> dict[str, list[str]]:
    """Overrides of each arm. A step is 16 questions x 8 responses = 128 sequences in all of them."""
    one_response = ["responses.student=0", "responses.teacher=1", "train.questions_per_step=128"]
    return {
        "labels only": [f"train.phases=[{{objective: labels, steps: {steps}}}]"],
        "naive distillation": [f"train.phases=[{{objective: distill, steps: {steps}}}]", "mask.r_max=0", *one_response],
        "Masters": [f"train.phases.0.steps={steps}"],
    }


def call(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "masters_edge", *arguments], check=True, cwd=ROOT)


def measure(run: Path, out: Path, questions: str) -> dict:
    """Accuracy in per cent of a run's student, or of a checkpoint folder, on the official questions of `questions`."""
    if not out.exists():
        from masters_edge.benchmarks import Subject, bench, suites

        suite = suites.load("easy-vqa")
        subject = Subject(name=run.name, role="student after", path=run, kind="checkpoint")
        results = bench([subject], suite, out=out, latency_questions=20)
        assert results.measurements
    return json.loads(out.read_text())["measurements"][0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--labels", nargs="+", default=["600", "all"])
    parser.add_argument("overrides", nargs="*")
    options = parser.parse_args()
    from masters_edge.recipe import load

    steps = options.steps or sum(phase.steps for phase in load(RECIPE).train.phases)
    found: dict[str, dict] = {}
    for labels in options.labels:
        for arm, overrides in arms(steps).items():
            for seed in range(options.seeds):
                name = f"{labels}-{arm.replace(' ', '-').lower()}-{seed}"
                folder = (options.out / name).resolve()
                values = [*overrides, *options.overrides, f"seed={seed}", f"data.labels={labels}", f"run_dir={folder}"]
                call("distill", str(RECIPE), *values)
                ended = json.loads((folder / "finished.json").read_text())
                lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
                curve = [line["eval_accuracy"] for line in lines if "eval_accuracy" in line]
                test = measure(folder / "student", folder / "test.json", "test")["accuracy"]["per_cent"]
                empty = {"held_out": [], "best_held_out": [], "test": [], "seconds": [], "steps": ended["steps"]}
                row = found.setdefault(f"{labels} labels, {arm}", empty)
                row["held_out"].append(curve[-1])
                row["best_held_out"].append(max(curve))
                row["test"].append(test)
                row["seconds"].append(ended["seconds_of_last_call"])
                (options.out / "table.json").write_text(json.dumps(found, indent=2))
                print(name, f"held-out {curve[-1]:.1f} (best {max(curve):.1f})", f"test {test:.1f}", flush=True)
    lines = [
        "| setting | steps | seconds | held-out, mean (best step) | test, mean | test, each seed |",
        "|---|---|---|---|---|---|",
    ]
    for name, row in found.items():
        each = ", ".join(f"{value:.1f}" for value in row["test"])
        lines.append(
            f"| {name} | {row['steps']} | {statistics.mean(row['seconds']):.0f} | "
            f"{statistics.mean(row['held_out']):.1f} ({statistics.mean(row['best_held_out']):.1f}) | "
            f"{statistics.mean(row['test']):.1f} | {each} |"
        )
    (options.out / "table.md").write_text("\n".join(lines) + "\n")
    print((options.out / "table.md").read_text())


if __name__ == "__main__":
    main()
