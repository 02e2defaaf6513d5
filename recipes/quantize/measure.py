"""What rounding costs the demo's student: round-to-nearest, HQQ, GPTQ and quantization-aware training, several seeds.

    python recipes/quantize/measure.py runs/quantize --seeds 5

Each seed trains recipes/demo.yaml once, plainly. From its checkpoint where quantization-aware training starts a branch
goes on for each number format, with the same responses and the same steps left. All students answer all of easy-VQA's
official test questions in PyTorch, with weights that are what the integers mean, so as every runtime answers. int4
hardly hurts this student, so two formats that no target has, int3 and int2, show what the methods do where rounding
does hurt. What is done is kept: the same command goes on where it stopped. Writes table.md and
table.json.
"""

import argparse
import json
import math
import shutil
import statistics
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from masters_edge import data
from masters_edge.benchmarks import suites
from masters_edge.common.display import say
from masters_edge.data.images import open_image
from masters_edge.distill import distill
from masters_edge.export import quantize
from masters_edge.export import student as students
from masters_edge.families.prompts import Prompter
from masters_edge.quantization import by_part, schemes
from masters_edge.recipe import load
from masters_edge.recipe.load import dump

RECIPE = Path(__file__).parents[1] / "demo.yaml"
SHARE = 0.2  # of the steps, trained with rounded weights
FORMATS = ("int4", "int3", "int2")
METHODS = ("rtn", "hqq", "gptq")
CALIBRATION_QUESTIONS = 32  # training questions that GPTQ looks at
T_95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 8: 2.365, 10: 2.262}  # Student's t by number of seeds

schemes.SCHEMES |= {
    scheme.name: scheme
    for scheme in (
        schemes.Scheme("int3", bits=3, group_size=32),
        schemes.Scheme("int2", bits=2, group_size=32),
    )
}


def train(seed: int, out: Path) -> Path:
    """The plain run of a seed; its last checkpoint but one is where the branches start."""
    folder = out / f"plain-{seed}"
    steps = load(RECIPE).train.phases[0].steps
    distill(RECIPE, [*_shared(seed, folder), f"train.save_every={round(SHARE * steps)}"])
    return folder


def branch(seed: int, plain: Path, scheme: str, out: Path) -> Path:
    """The same run with its last steps trained as `scheme` rounds."""
    folder = out / f"qat-{scheme}-{seed}"
    recipe = load(RECIPE)
    steps = recipe.train.phases[0].steps
    overrides = [
        *_shared(seed, folder),
        f"train.save_every={round(SHARE * steps)}",
        f"quantize.qat={{scheme: {scheme}, share: {SHARE}}}",
    ]
    if not (folder / "run.json").exists():
        shutil.rmtree(folder, ignore_errors=True)
        part = folder.with_suffix(".part")
        shutil.rmtree(part, ignore_errors=True)
        last = shutil.ignore_patterns("student", "finished.json", f"checkpoint-{steps}", ".lock", "test-*")
        shutil.copytree(plain, part, ignore=last)
        (part / "recipe.yaml").write_text(dump(load(RECIPE, overrides)), encoding="utf-8")
        part.rename(folder)
    distill(RECIPE, overrides)
    return folder


def _shared(seed: int, folder: Path) -> list[str]:
    return [f"seed={seed}", f"run_dir={folder}", f"train.threads={torch.get_num_threads()}", "train.trackers=[none]"]


def answers(run: Path, scheme: str, method: str) -> np.ndarray:
    """int64 [questions, 2]: whether the run's student, so quantized, is right, and its answer's first token."""
    kept = run / f"test-{scheme}-{method}.npy"
    if not kept.exists():
        student = students.load(run / "student")
        if scheme != "fp32":
            quantize.quantize(
                student, by_part.plan(scheme), method, calibration_samples() if method == "gptq" else None
            )
        found = ask(student.model)
        with kept.with_suffix(".part").open("wb") as file:
            np.save(file, found)
        kept.with_suffix(".part").rename(kept)
        say(f"{run.name}, {scheme} {method}: {100 * found[:, 0].mean():.2f}%")
    return np.load(kept)


@cache
def calibration_samples() -> list:
    questions = data.read("easy-vqa", split="train", base=RECIPE.parent)
    return [(open_image(q), q.text) for q in data.sample(questions, CALIBRATION_QUESTIONS, seed=0)]


@cache
def batches() -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor, list[tuple[int, list[int]]]]]:
    """The test questions, sorted by picture: pixels of each picture once, the row's picture, prompts with their labels
    behind them, and where in the row which label starts."""
    prompter = Prompter.load(str(RECIPE.parent / "demo" / "student"))
    questions = sorted(suites.load("easy-vqa").questions, key=lambda q: q.image_id)
    made = []
    for start in range(0, len(questions), 512):
        places: dict[str, int] = {}
        pixels: list[torch.Tensor] = []
        rows, labels, which = [], [], []
        for question in questions[start : start + 512]:
            ids, image = prompter(question)
            if question.image_id not in places:
                places[question.image_id] = len(pixels)
                pixels.append(image["pixel_values"])
            label = list(prompter.response_ids(question, question.answer or ""))
            which.append(places[question.image_id])
            rows.append([*ids, *label[:-1]])
            labels.append((len(ids) - 1, label))
        longest = max(map(len, rows))
        padded = [row + [prompter.tokenizer.pad_token_id] * (longest - len(row)) for row in rows]
        made.append((torch.cat(pixels), torch.tensor(which), torch.tensor(padded), labels))
    return made


@torch.no_grad()
def ask(model: Any) -> np.ndarray:
    """See `answers`. A greedy answer is the label where each of the label's tokens, given those before, comes first."""
    found = []
    for pixels, which, ids, labels in batches():
        features = torch.cat(list(model.model.get_image_features(pixel_values=pixels, return_dict=True).pooler_output))
        features = features.reshape(len(pixels), -1, features.shape[-1])[which]
        places = (ids == model.config.image_token_id)[..., None]
        embeds = model.get_input_embeddings()(ids).masked_scatter(places, features)
        hidden = model.model.text_model(inputs_embeds=embeds, use_cache=False).last_hidden_state
        for row, (start, label) in enumerate(labels):
            first = model.lm_head(hidden[row, start : start + len(label)]).argmax(-1).tolist()
            found.append((first == label, first[0]))
    return np.array(found, dtype=np.int64)


def measure(seed: int, out: Path) -> list[dict]:
    """A row for each format and method: accuracy in float32 and rounded, and the share of answers that change."""
    plain = train(seed, out)
    exact = answers(plain, "fp32", "rtn")
    rows = [_row(seed, f, m, exact, exact, answers(plain, f, m)) for f in FORMATS for m in METHODS]
    for scheme in FORMATS:
        run = branch(seed, plain, scheme, out)
        rows.append(_row(seed, scheme, "qat", exact, answers(run, "fp32", "rtn"), answers(run, scheme, "rtn")))
    return rows


def _row(seed: int, scheme: str, method: str, plain: np.ndarray, own: np.ndarray, rounded: np.ndarray) -> dict:
    per_cent = lambda share: round(100 * float(share), 4)  # noqa: E731
    return {
        "seed": seed,
        "format": scheme,
        "method": method,
        "plain_float32": per_cent(plain[:, 0].mean()),
        "own_float32": per_cent(own[:, 0].mean()),
        "rounded": per_cent(rounded[:, 0].mean()),
        "answers_changed": per_cent((own[:, 1] != rounded[:, 1]).mean()),
    }


def interval(values: list[float]) -> str:
    """Mean and half of its 95% interval over the seeds."""
    mean = statistics.mean(values)
    if len(values) not in T_95:
        return f"{mean:+.2f}"
    return f"{mean:+.2f} ± {T_95[len(values)] * statistics.stdev(values) / math.sqrt(len(values)):.2f}"


def table(rows: list[dict]) -> str:
    """Markdown; a row per format and method, seeds paired."""
    lines = [
        "| format | method | float32 | rounded | against own float32 | against plain float32 | answers changed, % |",
        "|---|---|---|---|---|---|---|",
    ]
    for scheme in FORMATS:
        for method in (*METHODS, "qat"):
            found = [row for row in rows if (row["format"], row["method"]) == (scheme, method)]
            if not found:
                continue
            mean: Callable[[str], float] = lambda key: statistics.mean(row[key] for row in found)  # noqa: B023, E731
            own = interval([row["rounded"] - row["own_float32"] for row in found])
            plain = interval([row["rounded"] - row["plain_float32"] for row in found])
            lines.append(
                f"| {scheme} | {method} | {mean('own_float32'):.2f} | {mean('rounded'):.2f} | {own} | {plain} "
                f"| {mean('answers_changed'):.2f} |"
            )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    rows: list[dict] = []
    for seed in range(options.seeds):
        rows += measure(seed, options.out.resolve())
        (options.out / "table.json").write_text(json.dumps(rows, indent=2))
        (options.out / "table.md").write_text(table(rows))
    print(table(rows))


if __name__ == "__main__":
    main()
