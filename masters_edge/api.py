"""What the command line does, for notebooks and programs: distil, export, measure. `masters_edge` offers these by name.

Each function says what it does while it works, as its command does, and leaves the same files in the current folder.
A mistake that its caller can mend is a `UserError` (`masters_edge.common.errors`).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from masters_edge.common.errors import UserError
from masters_edge.common.files import write_text
from masters_edge.common.quiet import hush
from masters_edge.recipe import Recipe, dump
from masters_edge.run.folder import Run

if TYPE_CHECKING:
    from masters_edge.benchmarks.results import Results


def distill_recipe(recipe: Recipe | Path | str, overrides: Sequence[str] = ()) -> Run:
    """Train the student of a recipe; the same call goes on after an interruption, as `masters-edge distill` does.

    Args:
        recipe: a recipe file; or a `Recipe` with a `run_dir`, which is first written as a file of that name into the
            current folder, where its paths start.
        overrides: values to change, as on the command line.

    Returns:
        the finished run: `run.folder`, `run.student` (as transformers saves it), `run.recipe()`.

    Example:
        >>> import masters_edge
        >>> run = masters_edge.distill_recipe("my.yaml", ["train.learning_rate=0.002"])
        >>> print(run.student)
        runs/my/student
    """
    hush()
    from masters_edge.distill import distill

    return distill(_written(recipe) if isinstance(recipe, Recipe) else Path(recipe), overrides)


def export_bundles(
    student: Run | Path | str,
    *,
    targets: Sequence[str] | None = None,
    schemes: Sequence[str] | None = None,
    method: str | None = None,
    budget: str | None = None,
    out: Path | str | None = None,
) -> list[Path]:
    """Write a student in devices' file formats, each checked against PyTorch; what is up to date is left as it is.

    Args:
        student: a run, its folder, or the folder of any student that transformers saved.
        targets: device formats; default: the recipe's, else onnx.
        schemes: quantization schemes or presets; default: the recipe's, else fp32 and int4.
        method: how integers are chosen; default: the recipe's, else to the nearest.
        budget: what the scheme `auto` may spend on all weights, such as 92MB; default: the recipe's, else a little more
            than it takes with no layer bought.
        out: folder for the bundles; default: beside the student.

    Returns:
        the bundles' folders.

    Example:
        >>> import masters_edge
        >>> for bundle in masters_edge.export_bundles("runs/my", targets=["onnx"], schemes=["int4"]):
        ...     print(bundle)
        runs/my/bundles/onnx-int4
    """
    hush()
    from masters_edge import workflow

    run = _run(student)
    return workflow.export(
        student=None if run else Path(str(student)),
        run=run,
        targets=targets,
        schemes=schemes,
        method=method,
        budget=budget,
        out=None if out is None else Path(out),
    )


def measure_bundles(
    bundles: Run | Path | str | Sequence[Path | str],
    *,
    devices: Sequence[str] = ("local",),
    backend: str = "auto",
    suite: str | None = None,
    metric: str | None = None,
    questions: int | None = None,
    threads: int | None = None,
    cases: bool = True,
    fresh: bool = False,
) -> "Results":
    """Measure accuracy, latency, memory and size of bundles, and draw the report; what was measured before is reused.

    Args:
        bundles: bundles' folders; or a run, whose bundles are measured beside its teacher and the untouched student.
        devices: local, ssh://user@board, browser, adb.
        backend: runtime of the bundles, by name; auto takes the fastest.
        suite: what to ask; default: the recipe's test questions.
        metric: how answers are scored; default: the suite's.
        questions: how many to ask; default: the recipe's.
        threads: of the runtime; default: the device's cores.
        cases: time two picture sizes and two prompt lengths as well.
        fresh: measure again what was measured before.

    Returns:
        everything that was measured for this run, earlier measurements included, as results.json has it.

    Example:
        >>> import masters_edge
        >>> results = masters_edge.measure_bundles("runs/my/bundles/onnx-int4", questions=20, cases=False)
        >>> for one in results.measurements:
        ...     print(one.name, one.accuracy.asked, one.latency.ttft_ms.median > 0)
        onnx-int4 20 True
    """
    hush()
    from masters_edge import workflow
    from masters_edge.benchmarks import Settings, results
    from masters_edge.benchmarks.suites import SuiteChoice

    run = None
    if isinstance(bundles, Run | Path | str):
        run = _run(bundles)
        bundles = [] if run else [Path(str(bundles))]
    elif not bundles:
        raise UserError("no bundle was given to measure; name one, or give a run to measure all of its bundles")
    path = workflow.bench(
        bundles=[Path(bundle) for bundle in bundles],
        run=run,
        devices=devices,
        suite=SuiteChoice(source=suite, metric=metric),
        settings=Settings(backend=backend, questions=questions, threads=threads, cases=cases, fresh=fresh),
    )
    return results.read(path)


def _run(given: Run | Path | str) -> Path | None:
    """The folder of a run; None where it is something else."""
    if isinstance(given, Run):
        return given.folder
    return Path(given) if (Path(given) / "run.json").exists() else None


def _written(recipe: Recipe) -> Path:
    """The recipe as a file in the current folder, so that the command line can go on with the same run."""
    if recipe.run_dir is None:
        raise UserError("a recipe made in Python needs a run_dir, such as runs/my: its file is called as that folder")
    path, text = Path(f"{Path(recipe.run_dir).name}.yaml"), dump(recipe)
    if path.exists() and path.read_text(encoding="utf-8") != text:
        raise UserError(f"{path} is another recipe; take another run_dir, or give the file itself")
    write_text(path, text)
    return path
