"""`export`, `bench`, `report` and `ask` on a run folder, and `demo`, which makes one: find the parts, reuse what is
done, say where it went."""

import json
import math
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from masters_edge import data
from masters_edge.common.display import console, errors, progress, say
from masters_edge.common.errors import UserError
from masters_edge.common.files import temporary_folder
from masters_edge.data.records import open_image
from masters_edge.recipe import Recipe, checkpoint
from masters_edge.run import folder as runs
from masters_edge.run import origin
from masters_edge.run.folder import Run

if TYPE_CHECKING:
    from masters_edge.benchmarks.measure import Settings
    from masters_edge.benchmarks.progress import OnProgress
    from masters_edge.benchmarks.suites import Suite, SuiteChoice
    from masters_edge.quantization.by_part import QuantizationPlan
    from masters_edge.recipe.schema import Mixed, Source

_CALIBRATION = 64  # training questions that methods with data look at


def demo() -> Run:
    """Distil, export and measure the student of the recipe that comes as `demo`, in runs/demo.

    Raises:
        UserError: an extra is missing that a later step would ask for.
    """
    from importlib.util import find_spec

    from masters_edge.common.extras import EXTRAS
    from masters_edge.recipe import shipped

    recipe = shipped.find("demo").path
    missing = [name for extra in ("distill", "onnx", "bench") for name in EXTRAS[extra][1] if find_spec(name) is None]
    if missing:
        raise UserError(f"the demo needs {', '.join(missing)}; install with: pip install 'masters-edge[all]'")
    from masters_edge.benchmarks import Settings
    from masters_edge.benchmarks.suites import SuiteChoice
    from masters_edge.distill import distill

    run = distill(recipe)
    export(student=None, targets=None, schemes=None, out=None, run=run.folder)
    bench(bundles=None, run=run.folder, devices=["local"], suite=SuiteChoice(), settings=Settings())
    return run


def export(
    *,
    student: Path | None,
    targets: Sequence[str] | None,
    schemes: Sequence[str] | None,
    out: Path | None,
    run: Path | None,
    parts: Mapping[str, str] | None = None,
    tied: str | None = None,
    method: str | None = None,
    budget: str | None = None,
) -> list[Path]:
    """Bundles of one student, one per target and scheme; a bundle that is up to date is left as it is.

    `parts` (other schemes for some parts), `tied` and, for `auto`, `budget` hold for every bundle. One plan's integers
    are chosen once, for all targets.

    Returns:
        the bundles' folders: `<target>-<plan>`, and `-<method>` behind it where integers are not rounded to nearest.

    Raises:
        UserError: a target, scheme, part, method or budget that isn't known, `auto` with another method than GPTQ, or
            whatever `export_student` raises.
    """
    from masters_edge.benchmarks import scores
    from masters_edge.bundle import manifest as manifests
    from masters_edge.common import registry
    from masters_edge.export import export_student, target_names
    from masters_edge.export.up_to_date import up_to_date
    from masters_edge.quantization import by_part

    home = _run_of(run, student)
    recipe = home.recipe() if home else None
    targets = targets or (recipe.export.targets if recipe else ["onnx"])
    for target in targets:
        registry.check(target, "target", target_names())
    folder = student or (home.student if home else None)
    assert folder is not None
    chosen = schemes or (recipe.quantize.schemes if recipe else ["fp32", "int4"])
    budget = budget or (recipe.quantize.budget if recipe and not schemes else None)
    plans = [_plan(entry, parts or {}, tied, budget) for entry in chosen]
    if budget and not any(plan.auto for plan in plans):
        by_part.refuse_budget(plans[0].name)
    how = method or (recipe.quantize.method if recipe else "rtn")
    ways = [by_part.method(plan, method, how) for plan in plans]
    samples = _samples(home, recipe)
    calibration = _calibration(home, recipe) if "gptq" in ways else None
    measured = scores.of_run(home) if home and home.finished else []
    made = []
    bundles = out or (home.bundles if home else folder.parent / "bundles")
    several = len(targets) > 1 and any(way != "rtn" for way in ways)  # to nearest is chosen again in no time
    with temporary_folder(bundles / "integers") if several else nullcontext() as integers:
        for target in targets:
            for plan, way in zip(plans, ways):
                name = f"{target}-{plan.name}" + ("" if plan.auto or how == "rtn" else f"-{how}")
                place = bundles / name
                made.append(place)
                if up_to_date(place, folder, target, plan, way):
                    say(f"{place} is up to date with {folder}: reused")
                    continue
                started = time.monotonic()
                with progress(name.replace("-", " ", 1), 100) as bar:
                    manifest = export_student(
                        folder,
                        target=target,
                        scheme=plan,
                        method=way,
                        out=place,
                        samples=samples,
                        calibration=calibration,
                        integers_file=integers / f"{plan.name}.safetensors" if integers and way != "rtn" else None,
                        origin=origin.of(folder, home, measured),
                        on_progress=lambda stage, share: bar(completed=round(100 * share), note=stage),
                    )
                size = sum(file.bytes for file in manifests.read(place).files)
                equal = manifest.parity.shipped.equal_answers
                say(
                    f"{place}: {size / 1e6:.2f} MB, {time.monotonic() - started:.0f} s, "
                    f"{100 * equal:.0f}% of {manifest.parity.samples} answers equal to PyTorch's"
                )
                for line in manifest.quantization.notes if plan.auto else []:
                    say(f"  {line}")
                for tie in manifest.parity.exact.near_ties:
                    say(f"  at exact settings {tie}")
                if manifest.parity.died:
                    say(f"  {manifest.parity.died}")
    return made


def _plan(entry: "str | Mixed", parts: Mapping[str, str], tied: str | None, budget: str | None) -> "QuantizationPlan":
    """What to quantize how, from a name or a recipe's entry, and what the command line says over it."""
    from masters_edge.quantization import by_part

    name = entry if isinstance(entry, str) else entry.scheme
    spent = budget if name == by_part.AUTO else None
    if isinstance(entry, str):
        return by_part.plan(entry, parts, tied, spent)
    return by_part.plan(entry.scheme, {**entry.parts, **parts}, tied or entry.tied, spent)


def bench(
    *,
    bundles: Sequence[Path] | None,
    run: Path | None,
    devices: Sequence[str],
    suite: "SuiteChoice",
    settings: "Settings",
) -> Path:
    """Measure bundles, or all of a run's bundles beside its teacher and students, on one device after the other; prints
    a table, draws the report.

    `suite` says what is asked, `settings` how it is measured; what they leave open, the run's recipe says.

    Returns:
        results.json.

    Raises:
        UserError: nothing can be measured, or, at the end, some subjects or devices couldn't be.
    """
    from masters_edge.benchmarks import Subject, progress_bar
    from masters_edge.benchmarks import bench as measure
    from masters_edge.benchmarks.measure import Unfinished
    from masters_edge.benchmarks.report.terminal import table
    from masters_edge.benchmarks.results import Results

    home = _run_of(run, bundles[0] if bundles else None)
    recipe = home.recipe() if home else None
    subjects = (
        [Subject(name=b.resolve().name, role="exported", path=b, kind="bundle") for b in bundles]
        if bundles
        else _subjects(home, recipe)
    )
    out = (home.folder if home else Path("runs")) / "bench" / "results.json"
    asked = _suite(home, recipe, suite)
    settled = _settled(settings, recipe)
    results: Results | None = None
    failures: list[UserError] = []
    with progress_bar(console) as on_progress:
        for device in devices:
            try:
                results = measure(
                    subjects,
                    asked,
                    settled,
                    device=device,
                    out=out,
                    on_progress=_of_device(on_progress, device, len(devices) > 1),
                    on_reused=lambda subject, _: say(
                        f"{subject.name}: measured before, reused (--fresh measures again)"
                    ),
                    on_note=say,
                )
            except Unfinished as some:
                results = some.results
                failures.append(some)
            except UserError as error:  # this device can't be reached, or was lost: the others may not be
                failures.append(error)
    if results is not None and results.measurements:
        console.print(table(results))
        report(results=out, run=home.folder if home else None, out=None)
    if len(failures) == 1:
        raise failures[0]
    if failures:
        raise UserError("; ".join(str(failure) for failure in failures))
    return out


def _settled(settings: "Settings", recipe: Recipe | None) -> "Settings":
    """The same, with what a recipe says where nothing was asked for."""
    if recipe is None:
        return settings
    return replace(
        settings,
        questions=settings.questions or recipe.bench.questions,
        latency_questions=recipe.bench.latency_questions,
        threads=settings.threads or recipe.bench.threads,
    )


def _of_device(on_progress: "OnProgress", device: str, several: bool) -> "OnProgress":
    """The same, with the device's name behind each subject where there are several."""
    if not several:
        return on_progress
    return lambda step: on_progress(
        step if step.subject == device else replace(step, subject=f"{step.subject} {device}")
    )


def report(*, results: Path | Sequence[Path] | None, run: Path | None, out: Path | None) -> None:
    """Draw the report of results files or folders that hold one, by default of the newest finished run's."""
    from masters_edge.benchmarks.report import report as draw

    places = _measured([results] if isinstance(results, Path) else results, run)
    home = _run_of(run, None) if run else None
    files = draw(places, home.folder if home else None, out or _report_folder(places[0]))
    say(f"picture: {files.png}")
    say(f"report:  {files.html}")
    say(f"tables:  {files.md}, {files.csv}")


def budget(*, limits: str, results: Sequence[Path] | None, run: Path | None) -> bool:
    """Print the best bundle inside a budget, or what comes closest, for each device.

    Returns:
        whether one fits.
    """
    from masters_edge.benchmarks.report import budget as budgets
    from masters_edge.benchmarks.report import gather

    parsed = budgets.parse(limits)
    verdicts = budgets.choose(gather.gather(_measured(results, run)), parsed)
    for line in budgets.lines(verdicts, parsed):
        say(line)
    return any(verdict.fits for verdict in verdicts)


def compare(*, old: Path, new: Path, out: Path | None) -> None:
    """Print what got better and worse between two results files or run folders, and write compare.md."""
    from masters_edge.benchmarks.report import compare as comparing
    from masters_edge.benchmarks.report import gather
    from masters_edge.common.files import write_text

    before, after = gather.gather([old]), gather.gather([new])
    found = comparing.compare(before, after)
    console.print(comparing.table(found))
    for line in comparing.summary(found):
        say(line)
    path = (out or _report_folder(new)) / "compare.md"
    write_text(path, comparing.render(found, [str(file) for file in before.files], [str(file) for file in after.files]))
    say(f"comparison: {path}")


def _measured(results: Sequence[Path] | None, run: Path | None) -> list[Path]:
    """The results files named, else the run's, else the newest finished run's."""
    if results:
        return list(results)
    home = _run_of(run, None)
    assert home is not None
    path = home.folder / "bench" / "results.json"
    if not path.exists():
        raise UserError(f"{home.folder} has not been measured yet; run: masters-edge bench --run {home.folder}")
    return [path]


def _report_folder(results: Path) -> Path:
    """Where a report goes: the run's report/, or one beside the results."""
    from masters_edge.benchmarks.report.gather import results_of

    file = results_of(results)
    return (file.parent.parent if file.parent.name == "bench" else file.parent) / "report"


def ask(bundle: Path, image: Path, question: str, threads: int | None, backend: str = "auto") -> None:
    """Print the answer as it comes, then what it took, on which runtime, and why on that one."""
    from masters_edge.runtime import Student

    with errors.status("loading"):
        student = Student.load(bundle, backend=backend, threads=threads)
    answer = student.answer(image, question, on_text=lambda text: console.out(text, end="", highlight=False))
    console.out("")
    rate = f", {answer.decode_tokens_per_s:.0f} tokens/s" if answer.decode_tokens_per_s else ""
    took = f"first token {answer.ttft_ms:.1f} ms, whole answer {answer.total_ms:.1f} ms{rate}"
    console.print(f"{took}, on {student.backend.name}", style="dim")
    choice = student.backend.choice
    if choice is not None and choice.measured_now:
        console.print(f"measured just now: {choice.reason}", style="dim", markup=False)


def _run_of(run: Path | None, inside: Path | None) -> Run | None:
    """The run named, or the one `inside` lies in, or (where nothing is named) the newest finished one."""
    if run is not None:
        named = Run(run)
        named.info()
        if not named.finished:
            raise UserError(f"{run} is not finished; go on with: masters-edge distill <its recipe>")
        return named
    if inside is None:
        return runs.newest_finished()
    for folder in inside.resolve().parents:
        if (folder / "run.json").exists():
            return Run(folder)
    return None


def _samples(run: Run | None, recipe: Recipe | None) -> list:
    """Pictures and questions to prove parity on: the run's held-out questions, else its training questions."""
    if run is None or recipe is None:
        say("no run belongs to this student: parity is checked on easy-VQA pictures")
        chosen = data.sample(data.read("easy-vqa", split="train", base=Path()), 32, 0)
    else:
        from masters_edge.data.questions import read_questions

        questions = read_questions(recipe, run.recipe_file())
        pool = questions.held_out or questions.train
        chosen = data.sample(pool, min(recipe.export.parity_samples, len(pool)), recipe.seed)
    return [(open_image(question), question.text) for question in chosen]


def _calibration(run: Run | None, recipe: Recipe | None) -> list | None:
    """Training questions with what was answered to them: a stored response, else the label, else None for the
    student's own answer; None where no run belongs to the student."""
    if run is None or recipe is None:
        return None
    from masters_edge.data.questions import read_questions
    from masters_edge.responses import store

    pool = read_questions(recipe, run.recipe_file()).train
    chosen = data.sample(pool, min(_CALIBRATION, len(pool)), recipe.seed)
    ids, said = {question.id for question in chosen}, dict[str, str]()
    for folder in sorted(run.folder.glob("phase-*/responses")):
        for batch in store.scan(folder, ["question_id", "text"]):
            said |= {row["question_id"]: row["text"] for row in batch.to_pylist() if row["question_id"] in ids}
            if len(said) == len(ids):  # of a store that may hold millions
                break
    return [(open_image(question), question.text, said.get(question.id) or question.answer) for question in chosen]


def _subjects(run: Run | None, recipe: Recipe | None) -> list:
    """The run's teacher, its student before and after, and every bundle."""
    from masters_edge.benchmarks import Subject

    assert run is not None and recipe is not None
    where = run.recipe_file()
    finished = run.ended("steps", "training_seconds")
    trained = {"steps": finished["steps"], "seconds": finished["training_seconds"]}
    found = [
        Subject(name="teacher", role="teacher", path=checkpoint(recipe.teachers[-1], where), kind="checkpoint"),
        Subject(
            name="student before", role="student before", path=checkpoint(recipe.student, where), kind="checkpoint"
        ),
        Subject(name="student after", role="student after", path=run.student, kind="checkpoint", extra=trained),
    ]
    exported = sorted(path.parent for path in run.bundles.glob("*/manifest.json"))
    if not exported:
        raise UserError(f"{run.folder} has no bundle to measure; make one with: masters-edge export")
    extra = trained | {"parameters": _parameters(run.student)}
    return found + [
        Subject(name=path.name, role="exported", path=path, kind="bundle", extra=extra) for path in exported
    ]


def _parameters(checkpoint_folder: Path) -> int:
    """Weights of a checkpoint, read off the headers of its safetensors files; tied ones are saved once."""
    total = 0
    for path in checkpoint_folder.glob("*.safetensors"):
        with path.open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        total += sum(math.prod(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__")
    return total


def _added_test(run: Run) -> "Source | None":
    """data.test as the recipe's file has it now, for a run that began without: no student depends on it."""
    from masters_edge.recipe import load

    path = run.recipe_file()
    found = load(path).data.test if path.is_file() else None
    if found is not None:
        say(f"the run began without data.test; the one that {path} has now is asked")
    return found


def _suite(run: Run | None, recipe: Recipe | None, choice: "SuiteChoice") -> "Suite":
    """What is asked: the source named, or the recipe's test questions; easy-VQA's official ones without a recipe."""
    from masters_edge.benchmarks import suites
    from masters_edge.scoring import metrics

    metric = choice.metric
    if choice.source is not None:
        opened = suites.open_suite(
            choice.source, metric=metric, split=choice.split, name=choice.name, base=Path(), **choice.columns
        )
        say(f"{opened.name}: {len(opened.questions)} questions, scored by {opened.metric}")
        return opened
    if choice.split or choice.name or choice.columns:
        raise UserError("--split, --name and the columns belong to --suite; name one, or leave them out")
    if metric is not None:
        metrics.get(metric)
    test = recipe.data.test if recipe else None
    if run is not None and recipe is not None and test is None:
        test = _added_test(run)
        if test is None:
            raise UserError(
                f"the run's recipe has no data.test, so there is nothing to ask; add it to {run.recipe_file()}, or "
                "name a --suite"
            )
    if test is None or (test.source == "easy-vqa" and test.split == "test"):
        own = suites.load("easy-vqa")
        return replace(own, metric=metric or own.metric)
    assert run is not None and recipe is not None
    if metric is not None:  # asked for on the command line: it scores every question
        test = test.model_copy(update={"metric_column": None})
    left_out = data.LeftOut()
    questions = data.read_source(test, run.recipe_file().parent, left_out)
    for note in left_out.notes:
        say(f"data.test: {note}")
    return suites.from_questions(questions, metric or recipe.bench.metric, name=test.source)
