import base64
import hashlib
import io
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from rich.console import Console

from masters_edge.benchmarks import results as results_file
from masters_edge.benchmarks.report import axes, figures, gather, labels, page, report, scene, style, table, tradeoff
from masters_edge.benchmarks.report.entry import Entry
from masters_edge.benchmarks.results import Latency, Measurement, Results
from masters_edge.common.errors import UserError
from tests.benchmarks import sample

pytest.importorskip("matplotlib")

NASTY = "<script>alert(1)</script> $x^$ & \"'[bold]"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The demo's report."""
    folder = tmp_path_factory.mktemp("made")
    results_file.write(folder / "results.json", sample.results())
    files = report(folder / "results.json", sample.write_run(folder / "run"), folder / "report")
    return files.png, files.html.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The report of twelve bundles on two devices, without a run."""
    folder = tmp_path_factory.mktemp("fleet")
    results_file.write(folder / "results.json", sample.fleet())
    files = report(folder / "results.json", None, folder / "report")
    return files.png, files.html.read_text(encoding="utf-8")


def entries(rows: list[Measurement]) -> list[Entry]:
    return [Entry(number, m.name, m, Path()) for number, m in enumerate(rows, start=1)]


class Page(HTMLParser):
    """Tags that were opened, ids, attributes that make a browser fetch something, and whether all tags close."""

    VOID = ("meta", "link", "br", "img", "hr", "path", "use", "rect", "circle", "input")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.fetched: list[str] = []
        self.open: list[str] = []
        self.styled = False
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.styled |= any(name == "style" or name.startswith("on") for name, _ in attributes)
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


@pytest.mark.parametrize("which", ["made", "fleet"])
def test_png_is_a_slide(which: str, request: pytest.FixtureRequest) -> None:
    with Image.open(request.getfixturevalue(which)[0]) as image:
        assert image.size == (2000, 1125)


@pytest.mark.parametrize("which", ["made", "fleet"])
def test_page_is_whole_and_asks_for_nothing(which: str, request: pytest.FixtureRequest) -> None:
    text = request.getfixturevalue(which)[1]
    found = Page(text)
    assert {"svg", "table", "form", "select"} <= set(found.tags) and not {"link", "iframe", "img"} & set(found.tags)
    assert all(target.startswith("#") for target in found.fetched)
    assert set(found.fetched) <= {f"#{name}" for name in found.ids}
    assert len(found.ids) == len(set(found.ids))
    assert "@import" not in text and not re.search(r"url\((?!#)", text)
    assert "prefers-color-scheme: dark" in text and 'name="viewport"' in text


def test_only_our_own_style_and_script_may_run(fleet: tuple[Path, str]) -> None:
    """The policy names exactly the style and the script that are there; no attribute needs a looser one."""
    text = fleet[1]
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)
    assert policy is not None and "default-src 'none'" in policy[1] and "unsafe" not in policy[1]
    for tag, source in (("style", "style-src"), ("script", "script-src")):
        (inner,) = re.findall(rf"<{tag}>(.*?)</{tag}>", text, flags=re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(inner.encode()).digest()).decode()
        assert f"{source} 'sha256-{digest}'" in policy[1]
    assert not Page(text).styled


def test_script_is_short_and_sets_text_only() -> None:
    script = (Path(page.__file__).parent / "page.js").read_text(encoding="utf-8")
    assert len(script.splitlines()) < 300
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|fetch\(|setAttribute\(.style", script
    )


def test_page_holds_the_figures(made: tuple[Path, str]) -> None:
    text = made[1]
    after = sample.results().measurements[2]
    for shown in ("83.8", "83.0 – 84.5", "8,105 of 9,673", "1,500", "3.6 min", "1.30 MB", "540", "26.5", "34.5"):
        assert shown in text, shown
    assert sample.DEVICE.cpu in text and after.sha256[:16] in text and "mask.r_max" in text
    assert "exact_match" in text and "transformers 5.24.0" in text and f"host CPU {sample.DEVICE.cpu}" in text


def test_page_holds_what_devices_said(fleet: tuple[Path, str]) -> None:
    text = fleet[1]
    for shown in ("ssh://pi@kitchen.local", "ondemand", "48 °C", "61 °C", "RAPL package",
                  "no power meter that can be read", "512 x 512 picture, long prompt (436 tokens)",
                  "skipped: the prompt of 436 tokens is longer", "of its speed", "Raspberry Pi 5 Model B Rev 1.0",
                  "No run folder belongs to these results"):  # fmt: skip
        assert shown in text, shown


def test_marks_can_be_reached_and_named_without_a_mouse(fleet: tuple[Path, str]) -> None:
    """27 marks on the first axis, wide and narrow; each has a label, and its figures stand in the data and a table."""
    text = fleet[1]
    marks = re.findall(r'<g class="mark"[^>]*>', text)
    assert len(marks) == 2 * (27 + 27 + 27 + 27 + 12)  # energy is known of 12
    assert all('tabindex="0"' in mark and re.search(r'aria-label="\d+, [^"]+"', mark) for mark in marks)
    data = json.loads(re.findall(r'id="data">(.*?)</script>', text)[0])
    known = {entry["id"] for entry in data["entries"]}
    assert len(known) == 27 and {re.findall(r'data-id="([^"]*)"', mark)[0] for mark in marks} == known
    rows = re.findall(r'<tr data-id="([^"]*)"', text)
    assert known == set(rows)


def test_no_light_colour_is_left_in_the_svg(made: tuple[Path, str]) -> None:
    """Ink and paper must be variables, or a dark page shows black on black."""
    for svg in re.findall(r"<svg.*?</svg>", made[1], flags=re.DOTALL):
        assert not re.search(r"#ffffff|#000000|" + style.INK, svg)
        assert "var(--ink)" in svg or re.search(r"[sf]-(ink|paper)", svg)


def test_whatever_comes_from_data_is_escaped(tmp_path: Path) -> None:
    evil = sample.measurement(
        NASTY, path=NASTY, runtime=NASTY, scheme=NASTY, versions={NASTY: NASTY}, unmeasured=(NASTY,)
    )
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
    files = report(tmp_path / "results.json", run, tmp_path)
    text = files.html.read_text()
    assert text.count("<script") == 2 and "<b>" not in text and "&lt;script&gt;" in text and "\\u003cscript" in text
    Page(text)
    assert "<script" not in files.md.read_text() and "[bold]" not in files.md.read_text()


def test_training_without_accuracy_is_said_where_it_would_stand(tmp_path: Path) -> None:
    results_file.write(tmp_path / "results.json", Results(measurements=sample.results().measurements[-2:]))
    (tmp_path / "run").mkdir()
    text = report(tmp_path / "results.json", tmp_path / "run", tmp_path / "a").html.read_text()
    assert "The run has no training metrics (run), so there is no training plot" in text
    (tmp_path / "run" / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n')
    text = report(tmp_path / "results.json", tmp_path / "run", tmp_path / "b").html.read_text()
    assert "The training metrics hold no held-out accuracy" in text


def test_missing_latency_is_said_too(tmp_path: Path) -> None:
    silent = sample.measurement("silent", latency=Latency())
    two = Results(measurements=(sample.measurement(), silent))
    results_file.write(tmp_path / "results.json", two)
    text = report(tmp_path / "results.json", None, tmp_path).html.read_text()
    assert "no latency was measured: silent." in text and ">no latency was measured<" in text
    results_file.write(tmp_path / "results.json", Results(measurements=(silent,)))
    assert ">no latency was measured<" in report(tmp_path / "results.json", None, tmp_path).html.read_text()


def test_previews_show_size_where_accuracy_would_stand(tmp_path: Path) -> None:
    rows = [m.model_copy(update={"accuracy": None, "suite": None}) for m in sample.results().measurements[-2:]]
    results_file.write(tmp_path / "results.json", Results(measurements=tuple(rows)))
    files = report(tmp_path / "results.json", None, tmp_path)
    text = files.html.read_text()
    assert "Accuracy wasn't measured here (a preview)" in text and "file size, MB (log)" in text
    assert "No questions were asked for accuracy" in files.md.read_text()
    Page(text)


def test_each_suite_has_a_picture_of_its_own(tmp_path: Path) -> None:
    other = sample.measurement("student int4", asked=100, right=50)
    other = other.model_copy(update={"suite": other.suite.model_copy(update={"name": "chartqa", "sha256": "ef" * 32})})
    results_file.write(tmp_path / "results.json", Results(measurements=(sample.measurement(), other)))
    text = report(tmp_path / "results.json", None, tmp_path).html.read_text()
    assert "Accuracy against latency: chartqa: 100 questions" in text
    assert "Accuracy against latency: easy-vqa: 9,673 questions" in text
    Page(text)


def test_bad_inputs_are_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    with pytest.raises(UserError, match="no results file"):
        report(path, None, tmp_path)
    results_file.write(path, Results())
    with pytest.raises(UserError, match="no measurement yet"):
        report(path, None, tmp_path)
    results_file.write(path, Results(measurements=sample.results().measurements[:1]))
    with pytest.raises(UserError, match="no run folder"):
        report(path, tmp_path / "none", tmp_path)
    run = sample.write_run(tmp_path / "run")
    (run / "recipe.yaml").write_text("a: [")
    with pytest.raises(UserError, match="recipe.yaml, line 1: not valid YAML") as caught:
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
    front = [(axes.ANSWER.read(e.m), e.m.accuracy.right) for e in tradeoff.pareto(entries(rows)) if e.m.accuracy]
    assert set(front) == set(points) - beaten and front == sorted(front)


def crowd(count: int) -> list[Measurement]:
    return [
        sample.measurement(f"student scheme-{i}", right=8000 + 37 * (i % 3), total_ms=6.0 * 1.13**i, size_bytes=10**6)
        for i in range(count)
    ]


@pytest.mark.parametrize(
    "rows",
    [list(sample.results().measurements), crowd(8), list(sample.fleet().measurements[:15])],
    ids=["demo", "crowded", "fleet"],
)
@pytest.mark.parametrize("width", [336.0, 900.0])
def test_labels_meet_neither_one_another_nor_the_border(rows: list[Measurement], width: float) -> None:
    found = entries(rows)
    box = (40.0, 10.0, width - 12, width * 0.6)
    seen = tradeoff.view(found, axes.ANSWER, found)
    assert seen is not None
    into = scene.Scene(width, width * 0.8)
    tradeoff.draw(into, box, found, seen, tradeoff.Look(12.0, 15.0))
    groups = [item for item in into.items if isinstance(item, scene.Group) and item.attributes.get("class") == "mark"]
    assert len(groups) == len(rows)
    boxes = []
    for group in groups:
        texts = [item for item in group.items if isinstance(item, scene.Text)]
        assert texts, "a mark without a label"
        wide = max(scene.text_width(text.text, text.size) for text in texts)
        boxes.append((texts[0].at[0], texts[0].at[1] - 0.8 * texts[0].size, texts[0].at[0] + wide, texts[-1].at[1]))
    for index, one in enumerate(boxes):
        assert one[0] >= box[0] - 4 and one[2] <= width and one[1] >= 0 and one[3] <= box[3] + 1
        assert not any(labels.overlap(one, other) > 1 for other in boxes[index + 1 :])


def test_far_references_stand_at_the_edge_with_their_figures() -> None:
    found = entries(list(sample.fleet().measurements[:15]))
    seen = tradeoff.view(found, axes.ANSWER, found)
    assert seen is not None and seen.up.low > 80 and seen.up.high < 90 and seen.across.high < 5
    svg = figures.tradeoff_svg(found, found, axes.ANSWER, 900.0, "x")
    assert ">97.8%, 58.0 ms<" in svg and ">52.0%, 27.0 ms<" in svg and ">26.5 ms<" in svg


def test_marks_of_all_shapes_have_the_same_area() -> None:
    for shape, points in scene.SHAPES.items():
        turned = [*points[1:], points[0]]
        area = abs(sum(x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in zip(points, turned))) / 2
        assert area == pytest.approx(3.14159265, rel=1e-6), shape


def test_a_host_cpu_never_passes_for_something_else() -> None:
    assert gather.label(sample.DEVICE) == f"host CPU {sample.DEVICE.cpu}"
    named = sample.DEVICE.model_copy(update={"model": "Pixel 9"})
    assert gather.label(named).startswith("host CPU")
    loopback = sample.DEVICE.model_copy(update={"kind": "ssh", "address": "ssh://me@127.0.0.1"})
    assert gather.label(loopback) == f"host CPU {sample.DEVICE.cpu}, over ssh"
    assert gather.label(sample.BOARD) == "Raspberry Pi 5 Model B Rev 1.0, CPU, over ssh"


def test_svg_text_stays_text_in_a_font_that_is_there(made: tuple[Path, str]) -> None:
    text = made[1]
    assert "DejaVu" not in text and "<metadata>" not in text and "xlink" not in text
    assert ">4 student fp32<" in text and "held-out accuracy, %" in text


def test_terminal_table_fits_80_columns_and_takes_names_literally() -> None:
    rows = sample.results().with_measurement(sample.measurement("[red]int4[/red]"))
    text = printed(rows)
    assert "[red]int4" in text and "(83.0–84.5)" in text and "(30.5 min)" in text and "640 kB" in text


def printed(rows: Results) -> str:
    console = Console(width=80, file=io.StringIO(), record=True)
    console.print(table(rows))
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= 80 and "…" not in text
    return text


def test_terminal_table_shows_agreement_devices_and_previews() -> None:
    text = printed(sample.fleet())
    assert "99.2%" in text and "over ssh" in text and "host CPU" in text
    m = sample.measurement("shape", training=sample.Training())
    text = printed(Results(measurements=(m.model_copy(update={"accuracy": None, "suite": None}),)))
    assert "TTFT" in text and "accuracy" not in text and "8.40" in text


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


@pytest.mark.slow
def test_a_browser_runs_the_script_under_the_policy(fleet: tuple[Path, str]) -> None:
    """Chromium, from file://: the controls are shown and the script has counted what it shows."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium is installed")
    page_file = fleet[0].with_suffix(".html").resolve()
    flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=3000", "--dump-dom"]
    shown = subprocess.run(
        [browser, *flags, page_file.as_uri()], capture_output=True, text=True, timeout=120, check=True
    )
    assert "27 of 27 measurements shown" in shown.stdout and '<form id="controls">' in shown.stdout


def test_a_busy_machine_is_said_where_its_figures_stand(tmp_path: Path) -> None:
    rows = [
        sample.measurement(name, conditions=sample.Conditions(load_before=0.1, other_cores=taken))
        for name, taken in (("calm", 0.1), ("disturbed", 1.7))
    ]
    for chosen, said in ((rows[:1], False), (rows, True)):
        results_file.write(tmp_path / "results.json", Results(measurements=tuple(chosen)))
        files = report(tmp_path / "results.json", None, tmp_path)
        for text in (files.html.read_text(), files.md.read_text()):
            assert ("kept this device busy (up to 1.7 of 2 cores)" in text) == said
