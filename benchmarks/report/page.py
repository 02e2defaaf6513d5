"""report.html: one self-contained page. Whatever comes from data is escaped by jinja2; only our own SVG is not."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from masters_edge.benchmarks.report import figures, ladder, style, tradeoff, training
from masters_edge.benchmarks.report.training import Curve
from masters_edge.benchmarks.results import STAGES, Device, Measurement, Results
from masters_edge.errors import UserError

_TEMPLATE = Path(__file__).parent / "page.html.j2"
_LONGEST_SETTING = 400  # characters


def render(results: Results, curve: Curve | None, run: Path | None, title: str) -> str:
    """The page as text."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.globals.update(style=style, titles=style.STAGE_TITLES, stages=[*STAGES, "cold_start_ms"])
    no_curve = training.missing(curve)
    pictures: dict[str, Any] = {}
    if curve is not None and no_curve is None:
        pictures["training"] = [Markup(figures.training_svg(curve, narrow)) for narrow in (False, True)]
    ladders = ladder.read(run / "mask.json") if run is not None else ()
    if ladders:
        pictures["ladder"] = [Markup(figures.ladder_svg(ladders, narrow)) for narrow in (False, True)]
    suites = []
    for number, (name, rows) in enumerate(by_suite(results.measurements).items()):
        drawn = [Markup(figures.tradeoff_svg(rows, narrow, str(number))) for narrow in (False, True)]
        untimed = [m.name for m in rows if tradeoff.latency_ms(m) is None]
        front = [m.name for m in tradeoff.pareto(rows)]
        suites.append({"name": name, "rows": rows, "pictures": drawn, "untimed": untimed, "front": front})
    return environment.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(
        title=title,
        suites=suites,
        pictures=pictures,
        no_curve=no_curve,
        curve=curve,
        ladders=ladders,
        devices=_devices(results.measurements),
        settings=run_settings(run) if run is not None else [],
        run=run,
        ended=max((m.ended for m in results.measurements), default=None),
    )


def by_suite(measurements: Sequence[Measurement]) -> dict[str, list[Measurement]]:
    """Measurements that may stand in one picture: those of one suite with the same questions asked."""
    groups: dict[tuple[str, str], list[Measurement]] = {}
    for m in measurements:
        groups.setdefault((m.suite.name, m.suite.sha256), []).append(m)
    names = [name for name, _ in groups]
    return {
        name if names.count(name) == 1 else f"{name} ({rows[0].accuracy.asked:,} questions, {digest[:8]})": rows
        for (name, digest), rows in groups.items()
    }


def _devices(measurements: Sequence[Measurement]) -> list[tuple[Device, list[Measurement]]]:
    found: dict[Device, list[Measurement]] = {}
    for m in measurements:
        found.setdefault(m.device, []).append(m)
    return list(found.items())


def run_settings(run: Path) -> list[tuple[str, str]]:
    """The run's resolved recipe and run.json as (dotted key, value) rows; those that are there."""
    rows: list[tuple[str, str]] = []
    recipe, info = run / "recipe.yaml", run / "run.json"
    try:
        if recipe.is_file():
            import yaml

            rows += _flat(yaml.safe_load(recipe.read_text(encoding="utf-8")), "")
        if info.is_file():
            rows += _flat(json.loads(info.read_text(encoding="utf-8")), "run")
    except (OSError, ValueError) as error:
        raise UserError(f"the settings of {run} can't be read ({error})") from None
    except Exception as error:
        if type(error).__module__.split(".")[0] != "yaml":
            raise
        raise UserError(f"{recipe} is no YAML ({' '.join(str(error).split())})") from None
    return rows


def _flat(value: Any, key: str) -> list[tuple[str, str]]:
    if isinstance(value, dict) and value:
        return [row for name, inner in value.items() for row in _flat(inner, f"{key}.{name}" if key else str(name))]
    if isinstance(value, list) and any(isinstance(inner, dict) for inner in value):
        return [row for number, inner in enumerate(value) for row in _flat(inner, f"{key}.{number}")]
    text = ", ".join(map(str, value)) if isinstance(value, list) else "–" if value is None else str(value)
    return [(key, text if len(text) <= _LONGEST_SETTING else text[:_LONGEST_SETTING] + " …")]
