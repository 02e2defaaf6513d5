"""The demo's table: labels only, naive distillation and Masters over several seeds, on the official test questions.

    python recipes/demo/compare.py runs/compare --seeds 3 --jobs 2

Every arm is recipes/demo.yaml with a few values changed. Steps are equal in all arms, and so are the sequences of a
step (questions x responses, repeats counted). Accuracy is on all of easy-VQA's official test questions; nothing was
tuned on them. What is done is kept: the same command goes on where it stopped. Writes table.md and table.json.
"""

import argparse
import json
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from masters_edge.benchmarks import Subject, bench, suites
from masters_edge.display import say
from masters_edge.recipe import load
from masters_edge.schedule import group_size

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "recipes" / "demo.yaml"


@dataclass(frozen=True)
class Arm:
    """A row of the table."""

    name: str
    overrides: tuple[str, ...]
    exported: bool = False  # its int4 files are measured too, as a row of their own

    @property
    def slug(self) -> str:
        return "-".join("".join(c if c.isalnum() else " " for c in self.name.lower()).split())


def arms() -> list[Arm]:
    recipe = load(RECIPE)
    steps, group = recipe.train.phases[0].steps, group_size(recipe)
    distil = (f"train.phases=[{{objective: distill, steps: {steps}}}]", "mask.r_max=0")
    questions = group * recipe.train.questions_per_step
    single = ("responses.student=0", "responses.teacher=1", f"train.questions_per_step={questions}")
    labels = (f"train.phases=[{{objective: labels, steps: {steps}}}]",)
    return [
        Arm("600 labels: labels only", (*labels, "data.labels=600")),
        Arm("600 labels: Masters", ("data.labels=600",), exported=True),
        Arm("naive distillation, the same 8 responses a question", distil),
        Arm("every label: labels only", (*labels, "data.labels=all")),
        Arm("every label: Masters", ("data.labels=all",)),
        Arm("naive distillation, 1 teacher response, 8 times the questions", (*distil, *single)),
    ]


def call(*arguments: str) -> None:
    """masters-edge, quietly; its words if it fails."""
    command = [sys.executable, "-m", "masters_edge", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stderr}")


def run(arm: Arm, seed: int, out: Path, threads: int) -> list[dict]:
    """Train and measure one arm with one seed; returns its figures, and those of its int4 files where wanted."""
    folder = (out / f"{arm.slug}-{seed}").resolve()
    values = [*arm.overrides, f"seed={seed}", f"run_dir={folder}", f"train.threads={threads}"]
    call("distill", str(RECIPE), *values)
    subjects = [Subject(name=arm.name, role="student after", path=folder / "student", kind="checkpoint")]
    if arm.exported:
        call("export", "--run", str(folder), "--target", "onnx", "--quant", "int4")
        bundle = folder / "bundles" / "onnx-int4"
        subjects.append(Subject(name=f"{arm.name}, exported int4", role="exported", path=bundle))
    suite = suites.load("easy-vqa")
    results = bench(subjects, suite, out=folder / "test.json", latency_questions=20, threads=threads)
    accuracy = {m.name: m.accuracy.per_cent for m in results.measurements}
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    curve = [line["eval_accuracy"] for line in lines if "eval_accuracy" in line]
    ended = json.loads((folder / "finished.json").read_text())
    shared = {
        "seed": seed,
        "steps": ended["steps"],
        "seconds": ended["seconds_of_last_call"],
    }
    training = {"held_out": curve[-1], "best_held_out": max(curve)}  # of the checkpoint, not of its exported files
    for subject in subjects:
        say(f"{subject.name}, seed {seed}: test {accuracy[subject.name]:.1f}, held-out {curve[-1]:.1f}")
    return [
        {"arm": s.name, "test": accuracy[s.name], **shared, **(training if s.kind == "checkpoint" else {})}
        for s in subjects
    ]


def table(found: list[dict]) -> str:
    """Markdown; a row per arm."""
    lines = [
        "| arm | steps | seconds | held-out at the end (best) | test, mean | test, each seed |",
        "|---|---|---|---|---|---|",
    ]
    for arm in dict.fromkeys(row["arm"] for row in found):
        rows = sorted((row for row in found if row["arm"] == arm), key=lambda row: row["seed"])
        mean = {key: statistics.mean(row[key] for row in rows) for key in ("seconds", "test")}
        held_out = "–"
        if all("held_out" in row for row in rows):
            end, best = (statistics.mean(row[key] for row in rows) for key in ("held_out", "best_held_out"))
            held_out = f"{end:.1f} ({best:.1f})"
        each = ", ".join(f"{row['test']:.1f}" for row in rows)
        lines.append(
            f"| {arm} | {rows[0]['steps']} | {mean['seconds']:.0f} | {held_out} | {mean['test']:.1f} | {each} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=1, help="runs at the same time, one thread each if more than one")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    threads = 1 if options.jobs > 1 else 2
    found: list[dict] = []
    with ThreadPoolExecutor(options.jobs) as pool:
        jobs = [pool.submit(run, arm, seed, options.out, threads) for arm in arms() for seed in range(options.seeds)]
        for job in jobs:
            found += job.result()
            (options.out / "table.json").write_text(json.dumps(found, indent=2))
            (options.out / "table.md").write_text(table(found))
    print(table(found))


if __name__ == "__main__":
    main()
