"""report.html: one self-contained page. Whatever comes from data is escaped by jinja2; only our own SVG is not.

Without a script the page is whole and static; page.js adds filters, tooltips and another axis. Nothing is fetched, and
a Content-Security-Policy lets nothing run but our own style and script, known by their hashes.
"""

import base64
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from masters_edge.benchmarks.report import axes, figures, gather, ladder, notes, style, sustained, tradeoff, training
from masters_edge.benchmarks.report.columns import columns
from masters_edge.benchmarks.report.entry import Entry
from masters_edge.benchmarks.report.gather import Gathered
from masters_edge.common import files
from masters_edge.common.errors import UserError, reason

_HERE = Path(__file__).parent
_LONGEST_SETTING = 400  # characters
_MOST_SETTINGS, _MOST_BYTES = 2000, 1 << 20
_MOST_PANELS = 32  # devices that are drawn in a suite; the table has all
_NARROW = 336.0


def render(found: Gathered, runs: Sequence[Path], title: str) -> str:
    """The page as text."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    css, js = ((_HERE / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    entries = found.entries
    environment.globals.update(
        style=style,
        notes=notes,
        protocol=notes.protocol(entries),
        id_of=tradeoff.entry_id,
        most_panels=_MOST_PANELS,
        icon=lambda entry: Markup(figures.icon_svg(entry, entries)),
        short_device=lambda entry: _short(entry),
    )
    shown_axes = [axis for axis in axes.HORIZONTAL if any(axes.positive(axis, e.m) for e in entries)]
    suites = [_suite(name, rows, shown_axes or [axes.SIZE]) for name, rows in gather.by_suite(entries).items()]
    return environment.from_string((_HERE / "page.html.j2").read_text(encoding="utf-8")).render(
        title=title,
        css=Markup(css),
        js=Markup(js),
        css_hash=_hash(css),
        js_hash=_hash(js),
        data=Markup(_data(suites)),
        axes=shown_axes or [axes.SIZE],
        filters=_filters(suites),
        suites=suites,
        trainings=[_training(run) for run in runs],
        devices=[(label, notes.device_facts(rows)) for label, rows in gather.by_device(entries)],
        entries=entries,
        ended=max((e.m.ended for e in entries), default=None),
    )


def _suite(name: str, rows: Sequence[Entry], shown: Sequence[axes.Quantity]) -> dict[str, Any]:
    from markupsafe import Markup

    devices = gather.by_device(rows)
    width = 900.0 if len(devices) == 1 else 500.0
    preview = name == gather.PREVIEW
    heading = "Size against latency" if preview else "Accuracy against latency"
    return {
        "name": name,
        "heading": heading + (f": {name}" if not preview else ""),
        "preview": preview,
        "rows": rows,
        "columns": columns(rows),
        "legend": [Markup(figures.legend_svg(rows, wide)) for wide in (900.0, _NARROW)],
        "devices": [
            _device(label, own, rows, shown if number < _MOST_PANELS else [], width)
            for number, (label, own) in enumerate(devices)
        ],
    }


def _device(
    label: str, own: Sequence[Entry], rows: Sequence[Entry], shown: Sequence[axes.Quantity], width: float
) -> dict[str, Any]:
    """Everything about one device in one suite; pictures come wide and narrow."""
    from markupsafe import Markup

    looped = sustained.looped(own) if shown else []
    return {
        "label": label,
        "rows": own,
        "pictures": [
            (axis, [Markup(figures.tradeoff_svg(own, rows, axis, wide, label)) for wide in (width, _NARROW)])
            for axis in shown
        ],
        "summary": notes.summary(own),
        "busy": notes.doubts(own),
        "front": notes.front_names(own),
        "unlabelled": max(0, len(tradeoff.drawable(own, axes.ANSWER)) - tradeoff.MOST_LABELS) if shown else 0,
        "untimed": [e.name for e in own if axes.positive(axes.ANSWER, e.m) is None],
        "stages": [Markup(figures.stages_svg(own, rows, wide)) if shown else "" for wide in (1000.0, _NARROW)],
        "cases": notes.case_table(own),
        "looped": looped,
        "sustained": [Markup(figures.sustained_svg(own, rows, wide)) for wide in (900.0, _NARROW)] if looped else None,
    }


def _short(entry: Entry) -> str:
    device = entry.m.device
    return f"{device.model or device.name}, {device.kind}" if device.kind != "local" else f"host CPU, {device.name}"


def _training(run: Path) -> dict[str, Any]:
    from markupsafe import Markup

    curve, ladders = training.of_run(run), ladder.read(run / "mask.json")
    no_curve = training.missing(curve)
    drawn = curve if no_curve is None else None
    return {
        "run": run.name,
        "curve": curve,
        "no_curve": no_curve,
        "pictures": [Markup(figures.training_svg(drawn, narrow)) for narrow in (False, True)] if drawn else [],
        "ladders": ladders,
        "ladder_pictures": [Markup(figures.ladder_svg(ladders, n)) for n in (False, True)] if ladders else [],
        "settings": run_settings(run),
    }


def _filters(suites: Sequence[dict[str, Any]]) -> list[tuple[str, list[tuple[str, str]]]]:
    """What can be switched off, where there is a choice: (kind, (value, text) pairs)."""
    devices = dict.fromkeys(device["label"] for suite in suites for device in suite["devices"])
    rows = [entry for suite in suites for entry in suite["rows"]]
    runtimes = dict.fromkeys(e.m.runtime for e in rows)
    schemes = dict.fromkeys(style.scheme_of(e.m) for e in rows)
    kinds = [
        ("device", [(name, name) for name in devices]),
        ("runtime", [(name, style.runtime_title(name)) for name in runtimes]),
        ("scheme", [(name, name) for name in schemes]),
    ]
    return [(kind, choices) for kind, choices in kinds if len(choices) > 1]


def _data(suites: Sequence[dict[str, Any]]) -> str:
    """Every figure for the tooltips, as JSON that can't end the script element it stands in."""
    entries = [
        {
            "id": tradeoff.entry_id(entry),
            "number": entry.number,
            "name": entry.name,
            "device": device["label"],
            "runtime": entry.m.runtime,
            "scheme": style.scheme_of(entry.m),
            "figures": [[c.heading, c.text(entry.m)] for c in suite["columns"] if c.value(entry.m) is not None],
        }
        for suite in suites
        for device in suite["devices"]
        for entry in device["rows"]
    ]
    text = json.dumps({"entries": entries}, ensure_ascii=True)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def run_settings(run: Path) -> list[tuple[str, str]]:
    """The run's resolved recipe and run.json as (dotted key, value) rows; those that are there."""
    rows: list[tuple[str, str]] = []
    recipe, info = run / "recipe.yaml", run / "run.json"
    try:
        if recipe.exists():
            from masters_edge.recipe import values

            rows += _flat(values(recipe), "")
        if info.exists():
            rows += _flat(json.loads(files.read_text(info, _MOST_BYTES)), "run")
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"the settings of {run} can't be read ({reason(error)})") from None
    return rows[:_MOST_SETTINGS]


def _flat(value: Any, key: str) -> list[tuple[str, str]]:
    if isinstance(value, dict) and value:
        return [row for name, inner in value.items() for row in _flat(inner, f"{key}.{name}" if key else str(name))]
    if isinstance(value, list) and any(isinstance(inner, dict) for inner in value):
        return [row for number, inner in enumerate(value) for row in _flat(inner, f"{key}.{number}")]
    text = ", ".join(map(str, value)) if isinstance(value, list) else "–" if value is None else str(value)
    return [(key, text if len(text) <= _LONGEST_SETTING else text[:_LONGEST_SETTING] + " …")]
