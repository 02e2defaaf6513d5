"""Where a student comes from: what it started as, its teachers, how it was trained, and how good it was then.

In: a student folder and, where there is one, its run. Out: an `Origin`, which travels in a bundle's manifest and is
told by its model card. A student without a run has a name and a licence, and nothing is made up for the rest.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from masters_edge.bundle.origin import NOT_STATED, Checkpoint, Origin, Score
from masters_edge.common.display import ratio_text
from masters_edge.common.errors import UserError
from masters_edge.common.files import read_json
from masters_edge.common.plain import line as shown
from masters_edge.recipe import Recipe, checkpoint, schedule
from masters_edge.recipe.stages import Masks
from masters_edge.run.folder import Run
from masters_edge.run.metrics import MetricsLog

GONE = "not known: its folder is gone"
_LICENCE_FILES = ("LICENSE", "LICENSE.txt", "LICENSE.md", "LICENCE", "LICENCE.txt", "LICENCE.md", "COPYING")
_MORE = ("license_name", "license_link")
_MOST_BYTES = 1 << 20  # of a model card or a licence that are read
_LONGEST_LICENCE = 300  # characters


def of(student: Path, run: Run | None, measured: Sequence[Score] = ()) -> Origin:
    """The origin of a student folder; `run` and what was `measured` of its models count only where the folder is that
    run's finished student."""
    if run is not None and run.finished and student.resolve() == run.student.resolve():
        return of_run(run, measured)
    name = student.resolve().name
    return Origin(name=name, student=Checkpoint(name=name, licence=licence(student)))


def of_run(run: Run, measured: Sequence[Score] = ()) -> Origin:
    """What a finished run's own files say, and what was measured of its models."""
    recipe, written = run.recipe(), run.recipe_file()
    distils = any(phase.objective != "labels" for phase in recipe.train.phases)
    return Origin(
        name=run.folder.resolve().name,
        student=_checkpoint(recipe.student, written),
        teachers=[_checkpoint(name, written) for name in recipe.teachers] if distils else [],
        recipe=written.name,
        seed=recipe.seed,
        steps=run.ended("steps")["steps"],
        training=_training(run, recipe, distils),
        scores=[*_held_out(run), *measured],
    )


def licence(folder: Path) -> str:
    """The `license` of a checkpoint folder's README.md, else the first line of its licence file, else "not stated"."""
    readme = folder / "README.md"
    if readme.is_file() and (stated := _front_matter(readme)):
        return stated
    for name in _LICENCE_FILES:
        path = folder / name
        if path.is_file():
            lines = (shown(line).strip(" #*\t") for line in _start_of(path).splitlines())
            title = next((line for line in lines if line), "")
            return f"see its file {name}" + (f" ({title[:80]})" if title else "")
    return NOT_STATED


def _checkpoint(name: str, recipe: Path) -> Checkpoint:
    """A `student` or `teachers` entry of a recipe file."""
    try:
        found = checkpoint(name, recipe)
    except UserError:
        return Checkpoint(name=Path(name).name, licence=GONE)
    if found == name and not Path(found).is_dir():
        return Checkpoint(name=name, licence=_licence_on_the_hub(name), hub=True)
    return Checkpoint(name=Path(found).name, licence=licence(Path(found)))


def _licence_on_the_hub(name: str) -> str:
    """Of the hub's card, or of the copy fetched before."""
    from huggingface_hub import hf_hub_download

    from masters_edge.families.loading import hub_reachable

    try:
        readme = hf_hub_download(name, "README.md", local_files_only=not hub_reachable())
    except (OSError, ValueError):  # huggingface_hub's own are of these: no card, no access, no hub
        return NOT_STATED
    return _front_matter(Path(readme)) or NOT_STATED


def _front_matter(readme: Path) -> str | None:
    """`license` of the YAML block a model card begins with; None where there is none, or none that can be read."""
    import yaml

    text = _start_of(readme)
    block = re.match(r"\s*---[ \t]*\r?\n(.*?)\r?\n---", text, re.DOTALL)
    try:
        found: Any = yaml.safe_load(block.group(1)) if block else None
    except (yaml.YAMLError, ValueError, TypeError, RecursionError):
        return None
    if not isinstance(found, dict) or not found.get("license"):
        return None
    stated = found["license"]
    listed = [one for one in (stated if isinstance(stated, list) else [stated]) if isinstance(one, str)]
    words = shown(", ".join(listed[:10]), _LONGEST_LICENCE)
    more = [shown(one, _LONGEST_LICENCE) for key in _MORE if isinstance(one := found.get(key), str) and one]
    return (f"{words} ({', '.join(more)})" if more else words) or None


def _start_of(path: Path) -> str:
    """A text's beginning: whoever wrote a checkpoint wrote its texts, too."""
    try:
        with path.open("rb") as file:
            return file.read(_MOST_BYTES).decode("utf-8", "replace")
    except OSError:
        return ""


def _training(run: Run, recipe: Recipe, distils: bool) -> dict[str, str]:
    """How the student was trained, a line for each topic."""
    source, options, train = recipe.data.train, recipe.responses, recipe.train
    split = f" ({source.split})" if source.split else ""
    labels = "all labels" if recipe.data.labels == "all" else f"labels of {recipe.data.labels:,} questions"
    where = Path(source.source).name if source.source.startswith((".", "/", "~")) else source.source
    said = {
        "data": f"{where}{split}, {labels}, {recipe.data.held_out:,} questions held out",
        "phases": ", then ".join(f"{phase.objective} for {phase.steps:,} steps" for phase in train.phases)
        + f", {train.questions_per_step} questions a step",
    }
    if distils:
        said["mask"] = "; ".join(
            f"{Path(name).name}: {_falling(masks)}" for name, masks in zip(recipe.teachers, _masks(run, recipe))
        )
        said["responses"] = (
            f"{options.student} of the student and {options.teacher} of the masked teacher for each question, "
            f"temperature {options.temperature:g}, top-p {options.top_p:g}, top-k {options.top_k}, "
            f"at most {options.max_new_tokens} tokens"
        )
    if any(phase.objective in ("joint", "reward") for phase in train.phases):
        counted = {"R_acc": recipe.reward.accuracy, "R_distill": recipe.reward.distillation}
        rewards = " + ".join(name for name, counts in counted.items() if counts)
        said["reward"] = f"{rewards}, {recipe.reward.policy} policy term, weight {recipe.reward.weight:g}"
    lora = f", LoRA of rank {train.lora.rank}" if train.lora else ""
    said["optimizer"] = f"AdamW, learning rate {train.learning_rate:g}, {train.schedule}, {train.precision}{lora}"
    if recipe.quantize.qat:
        qat = recipe.quantize.qat
        said["quantization-aware"] = (
            f"weights rounded to {qat.scheme} in the last {100 * qat.share:g}% of the last phase"
        )
    return said


def _masks(run: Run, recipe: Recipe) -> list[Masks]:
    if recipe.mask.r_max != "auto":
        return schedule.masks(recipe)
    return [Masks(entry["r_max"], entry["step"]) for entry in read_json(run.folder / "mask.json")["teachers"]]


def _falling(masks: Masks) -> str:
    if not masks.r_max:
        return "not masked"
    return "its smallest weights masked at " + " -> ".join(map(ratio_text, masks.ratios))


def _held_out(run: Run) -> list[Score]:
    """The last accuracy on held-out questions that training noted."""
    accuracies = [line.get("eval_accuracy") for line in MetricsLog(run.metrics).lines()]
    found = [accuracy for accuracy in accuracies if accuracy is not None]
    return [Score(of="student", questions="held out of the training questions", per_cent=found[-1])] if found else []
