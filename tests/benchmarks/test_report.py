import io
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from rich.console import Console

from masters_edge.benchmarks import results as results_file
from masters_edge.benchmarks.report import figures, labels, page, report, style, table, tradeoff
from masters_edge.benchmarks.results import Latency, Measurement, Results
from masters_edge.errors import UserError
from tests.benchmarks import sample

pytest.importorskip("matplotlib")

NASTY = "<script>alert(1)</script> $x^$ & \"'[bold]"


@pytest.fixture
def made(tmp_path: Path) -> tuple[Path, str]:
    results_file.write(tmp_path / "results.json", sample.results())
    files = report(tmp_path / "results.json", sample.write_run(tmp_path / "run"), tmp_path / "report")
    return files.png, files.html.read_text(encoding="utf-8")


class Page(HTMLParser):
    """Tags that were opened, ids, attributes that make a browser fetch something, and whether all tags close."""

    VOID = ("meta", "link", "br", "img", "hr", "path", "use", "rect")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.fetched: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.ids += [value or "" for name, value in attributes if name == "id"]
        self.fetched += [value or "" for name, value in attributes if name in ("src", "href", "srcset", "data")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attributes)
        self.handle_endtag(tag)


def test_png_is_a_slide(made: tuple[Path, str]) -> None:
    with Image.open(made[0]) as image:
        assert image.width >= 1900 and image.width / image.height == pytest.approx(16 / 9, rel=0.01)


def test_page_is_whole_and_asks_for_nothing(made: tuple[Path, str]) -> None:
    text = made[1]
    found = Page(text)
    assert {"svg", "table"} <= set(found.tags) and not {"script", "link", "iframe", "img"} & set(found.tags)
    assert all(target.startswith("#") for target in found.fetched)
    assert set(found.fetched) <= {f"#{name}" for name in found.ids}
    assert len(found.ids) == len(set(found.ids))
    assert "@import" not in text and not re.search(r"url\((?!#)", text)
    assert "prefers-color-scheme: dark" in text and 'name="viewport"' in text


def test_page_holds_the_figures(made: tuple[Path, str]) -> None:
    text = made[1]
    after = sample.results().measurements[2]
    for shown in ("83.8", "83.0 – 84.5", "8,105 of 9,673", "1,500", "3.6 min", "1.30 MB", "540", "26.5", "34.5"):
        assert shown in text, shown
    assert sample.DEVICE.cpu in text and after.sha256[:16] in text and "mask.r_max" in text
    assert "exact_match" in text and "transformers&nbsp;5.24.0" in text


def test_no_light_colour_is_left_in_the_svg(made: tuple[Path, str]) -> None:
    """Ink and paper must be variables, or a dark page shows black on black."""
    for svg in re.findall(r"<svg.*?</svg>", made[1], flags=re.DOTALL):
        assert not re.search(r"#ffffff|#000000|" + style.INK, svg) and "var(--ink)" in svg


def test_whatever_comes_from_data_is_escaped(tmp_path: Path) -> None:
    evil = sample.measurement(NASTY, path=NASTY, runtime=NASTY, scheme=NASTY, versions={NASTY: NASTY})
    evil = evil.model_copy(
        update={
            "device": sample.DEVICE.model_copy(update={"name": NASTY, "cpu": NASTY, "model": NASTY}),
            "suite": evil.suite.model_copy(update={"name": NASTY}),
        }
    )
    results_file.write(tmp_path / "results.json", Results(measurements=(evil,)))
    run = tmp_path / "run"
    run.mkdir()
    (run / "recipe.yaml").write_text(f"student: '{NASTY.replace(chr(39), '')}'\n")
    (run / "metrics.jsonl").write_text('{"step": 1, "phase": "<b>$", "eval_accuracy": 3}\n{"step": 2, "phase": "$_"}\n')
    text = report(tmp_path / "results.json", run, tmp_path).html.read_text()
    assert "<script" not in text and "<b>" not in text and "&lt;script&gt;" in text
    Page(text)


def test_missing_training_is_said_where_it_would_stand(tmp_path: Path) -> None:
    results_file.write(tmp_path / "results.json", sample.results())
    text = report(tmp_path / "results.json", None, tmp_path / "a").html.read_text()
    assert "No training metrics were given, so there is no training plot" in text
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n')
    text = report(tmp_path / "results.json", tmp_path / "run", tmp_path / "b").html.read_text()
    assert "The training metrics hold no held-out accuracy" in text


def test_missing_latency_is_said_too(tmp_path: Path) -> None:
    silent = sample.measurement("silent", latency=Latency())
    results_file.write(tmp_path / "results.json", sample.results().with_measurement(silent))
    assert "no latency was measured: silent." in report(tmp_path / "results.json", None, tmp_path).html.read_text()
    results_file.write(tmp_path / "results.json", Results(measurements=(silent,)))
    assert "No latency was measured" in report(tmp_path / "results.json", None, tmp_path).html.read_text()


def test_each_suite_has_a_picture_of_its_own(tmp_path: Path) -> None:
    other = sample.measurement("student int4", asked=100, right=50)
    other = other.model_copy(update={"suite": other.suite.model_copy(update={"name": "chartqa", "sha256": "ef" * 32})})
    results_file.write(tmp_path / "results.json", sample.results().with_measurement(other))
    text = report(tmp_path / "results.json", None, tmp_path).html.read_text()
    assert text.count('class="wide"') == 2 and "Accuracy against latency: chartqa" in text
    Page(text)


def test_bad_inputs_are_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    with pytest.raises(UserError, match="no results file"):
        report(path, None, tmp_path)
    results_file.write(path, Results())
    with pytest.raises(UserError, match="no measurement yet"):
        report(path, None, tmp_path)
    results_file.write(path, sample.results())
    with pytest.raises(UserError, match="no run folder"):
        report(path, tmp_path / "none", tmp_path)
    run = sample.write_run(tmp_path / "run")
    (run / "recipe.yaml").write_text("a: [")
    with pytest.raises(UserError, match="recipe.yaml is no YAML") as caught:
        report(path, run, tmp_path)
    assert "\n" not in str(caught.value)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="can't be written"):
        report(path, None, tmp_path / "file" / "report")
    assert not list(tmp_path.glob("report.*"))


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 9)), min_size=1, max_size=12))
def test_pareto_front_is_what_no_other_beats(points: list[tuple[int, int]]) -> None:
    rows = [sample.measurement(f"m{i}", total_ms=float(x), right=y, asked=10) for i, (x, y) in enumerate(points)]
    beaten = {(x, y) for x, y in points if any((a <= x and b >= y) and (a < x or b > y) for a, b in points)}
    front = [(tradeoff.latency_ms(m), m.accuracy.right) for m in tradeoff.pareto(rows)]
    assert set(front) == set(points) - beaten and front == sorted(front)


def crowd(count: int) -> list[Measurement]:
    return [
        sample.measurement(f"student scheme-{i}", right=8000 + 37 * (i % 3), total_ms=6.0 * 1.13**i, size_bytes=10**6)
        for i in range(count)
    ]


@pytest.mark.parametrize("rows", [list(sample.results().measurements), crowd(8)], ids=["demo", "crowded"])
def test_labels_meet_neither_one_another_nor_the_border(rows: list[Measurement]) -> None:
    with style.plotting(13):
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.text import Annotation, Text

        figure = Figure(figsize=(7, 6), dpi=150)
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        tradeoff.draw(axes, rows, 13)
        figure.draw_without_rendering()
        renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
        notes = [child for child in axes.get_children() if isinstance(child, Annotation)]
        # Text's own extent: an annotation's would hold the line to its mark too.
        boxes = [(e.x0, e.y0, e.x1, e.y1) for e in (Text.get_window_extent(note, renderer) for note in notes)]
        border = axes.get_window_extent(renderer)
    assert len(boxes) == len(rows)
    for index, box in enumerate(boxes):
        assert box[0] >= border.x0 - 1 and box[2] <= figure.bbox.x1 and box[3] <= figure.bbox.y1
        # 3 pixels of each box are line spacing
        assert all(labels._overlap(box, other) < 3 * (box[2] - box[0]) for other in boxes[index + 1 :])


def test_svg_text_stays_text_in_a_font_that_is_there() -> None:
    svg = figures.tradeoff_svg(list(sample.results().measurements), narrow=True, name="0")
    assert ">student int4<" in svg and "DejaVu" not in svg and "system-ui" in svg
    assert "<metadata>" not in svg and "xlink" not in svg and svg.startswith("<svg viewBox=")


def test_terminal_table_fits_80_columns_and_takes_names_literally() -> None:
    rows = sample.results().with_measurement(sample.measurement("[red]int4[/red]"))
    console = Console(width=80, file=io.StringIO(), record=True)
    console.print(table(rows))
    text = console.export_text()
    assert "[red]int4" in text and "(83.0–84.5)" in text and "(30.5 min)" in text and "640 kB" in text
    assert max(map(len, text.splitlines())) <= 80 and "…" not in text


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0, "0"),
        (0.0001, "<0.001"),
        (0.1234, "0.123"),
        (1.234, "1.23"),
        (9.996, "10.0"),
        (99.96, "100"),
        (1234, "1,234"),
    ],
)
def test_numbers_keep_three_digits(value: float, shown: str) -> None:
    assert style.number(value) == shown


def test_sizes_and_times_for_people() -> None:
    assert [style.size(v) for v in (999, 640_000, 4_200_000, 1.31e9)] == ["999 B", "640 kB", "4.20 MB", "1.31 GB"]
    assert [style.seconds(v) for v in (None, 41, 744, 11160)] == ["–", "41 s", "12.4 min", "3.1 h"]


def test_settings_are_flat_and_short(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("mask: {r_max: 0.2}\nphases: [{steps: 5}]\nteachers: [a, b]\nlimit: null\n")
    (tmp_path / "run.json").write_text('{"seed": 3, "long": "' + "x" * 1000 + '"}')
    rows = dict(page.run_settings(tmp_path))
    assert rows["mask.r_max"] == "0.2" and rows["phases.0.steps"] == "5" and rows["teachers"] == "a, b"
    assert rows["limit"] == "–" and rows["run.seed"] == "3" and len(rows["run.long"]) < 500
