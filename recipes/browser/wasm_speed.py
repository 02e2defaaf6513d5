"""A browser's WASM beside onnxruntime in Python: the same bundles on the same machine, taking turns, as ratios.

    python recipes/browser/wasm_speed.py --folder runs/browser --out runs/browser/figures.json

Measures the demo's students (`make demo` first) and one of SmolVLM-256M's shape with random weights, for both ONNX
targets, which is made in `--folder`, by `bench`: with `--device browser` in headless Chromium, and with `--device local
--backend onnxruntime`; with one thread and with all. The questions are made up, one picture of 256 x 256 pixels each,
and every answer has 16 tokens. In a round each bundle, device and number of threads comes once; which device goes first
alternates. A cell is the median over the rounds of each round's median; a ratio is taken within each round. Prints the
tables of docs/results/browser.md, in about 7 minutes once the large bundles are there. Needs chromium and
chromium-driver.
"""

import argparse
import json
import platform
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from masters_edge.common.quiet import hush

hush()
ROOT = Path(__file__).resolve().parents[2]
if __name__ == "__main__":  # neither `recipes/` nor `tests/` is installed
    sys.path[:0] = [str(ROOT), str(ROOT / "recipes" / "export")]

DEMO = {"demo, int4": "onnx-int4", "demo, fp32": "onnx-fp32"}
SHAPES = {"SmolVLM-256M's shape, int4": "onnx", "the same, onnx_portable": "onnx_portable"}
STAGES = ("vision_ms", "prefill_ms", "ttft_ms", "decode_tokens_per_s", "total_ms", "cold_start_ms")
LONG_S = 120.0  # for Chromium to leave


def shaped(folder: Path, target: str) -> Path:
    """A bundle of SmolVLM-256M's shape, made where it isn't there yet."""
    bundle, student = folder / f"shape-int4-{target}", folder / "student"
    if not (bundle / "manifest.json").exists():
        import numpy as np
        from PIL import Image
        from shape import build

        from masters_edge.export import export_student

        if not (student / "config.json").exists():
            build(student)
        picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (512, 512, 3), np.uint8))
        export_student(student, target=target, scheme="int4", out=bundle, samples=[(picture, "what is in this image?")])
    return bundle


class Chromium:
    """A browser that opens the link as soon as `bench` says it: `note` is its `on_note`."""

    def __init__(self) -> None:
        self.over = threading.Event()
        self.thread: threading.Thread | None = None

    def note(self, text: str) -> None:
        link = next((word for word in text.split() if "/#t=" in word), None)
        if link is not None:
            self.thread = threading.Thread(target=self._open, args=(link,))
            self.thread.start()

    def close(self) -> None:
        self.over.set()
        if self.thread is not None:
            self.thread.join(LONG_S)

    def _open(self, link: str) -> None:
        from tests.page.driver import chromium

        # Else it counts the page's memory when it collects garbage the next time, up to 20 s later.
        with chromium("--enable-blink-features=ForceEagerMeasureMemory") as browser:
            browser.driver.get(link)
            self.over.wait()


def measured(bundles: dict[str, Path], device: str, threads: int, answers: int) -> dict[str, Any]:
    """By bundle, what `bench` measures in a results file of its own."""
    from masters_edge.benchmarks import Settings, Subject, bench

    browser = Chromium() if device == "browser" else None
    with tempfile.TemporaryDirectory(prefix="masters-edge-") as place:
        try:
            results = bench(
                [Subject(name, "exported", path) for name, path in bundles.items()],
                None,
                Settings(
                    backend="wasm" if browser else "onnxruntime",
                    latency_questions=answers,
                    cases=False,
                    threads=threads,
                    port=0,
                ),
                device=device,
                out=Path(place) / "results.json",
                on_note=browser.note if browser else None,
            )
        finally:
            if browser:
                browser.close()
    for one in results.measurements:
        if one.conditions.hidden_s:
            print(f"{one.name}: the page was hidden for {one.conditions.hidden_s} s", flush=True)
    return {one.name: one for one in results.measurements}


def rounds(bundles: dict[str, Path], count: int, counts: Sequence[int], answers: int) -> list[dict[str, Any]]:
    """A row for each round, bundle and number of threads: both devices' medians."""
    rows = []
    for number in range(count):
        for threads in counts:
            found = {}
            for device in ("browser", "local") if number % 2 == 0 else ("local", "browser"):
                started = time.monotonic()
                found[device] = measured(bundles, device, threads, answers)
                took = time.monotonic() - started
                print(f"round {number + 1} of {count}, {threads} threads, {device}: {took:.0f} s", flush=True)
            for name in bundles:
                sides = {device: found[device][name] for device in found}
                row: dict[str, Any] = {"bundle": name, "threads": threads, "round": number}
                row["bytes"] = sides["local"].size_bytes
                row["versions"] = sides["browser"].versions | sides["local"].versions
                row["brands"] = sides["browser"].device.browser.brands
                row["user_agent"] = sides["browser"].device.browser.user_agent
                for device, one in sides.items():
                    stages = {stage: getattr(one.latency, stage) for stage in STAGES}
                    row[device] = {stage: found.median for stage, found in stages.items() if found is not None}
                rows.append(row)
    return rows


def tables(rows: list[dict[str, Any]]) -> str:
    """Both tables, as Markdown: times, and how many times as long WASM takes."""
    named = {
        "ttft_ms": "first token, ms",
        "total_ms": "whole answer, ms",
        "decode_tokens_per_s": "decode, tokens/s",
        "cold_start_ms": "cold start, ms",
    }
    groups: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["bundle"], row["threads"]), []).append(row)
    lines = [
        f"| student | threads | runtime | {' | '.join(named.values())} |",
        f"|---|---|---|{'---|' * len(named)}",
    ]
    for (name, threads), group in groups.items():
        for device, runtime in (("browser", "WASM"), ("local", "Python")):
            cells = (_figure(statistics.median(row[device][stage] for row in group)) for stage in named)
            lines.append(f"| {name} | {threads} | {runtime} | {' | '.join(cells)} |")
    stages = ("vision_ms", "prefill_ms", "ttft_ms", "total_ms", "decode_tokens_per_s")
    lines += [
        "",
        "| WASM's time over Python's | threads | rounds | vision | prefill | first token | whole answer | per token |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for (name, threads), group in groups.items():
        cells = (_ratio([_over(row, stage) for row in group]) for stage in stages)
        lines.append(f"| {name} | {threads} | {len(group)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _over(row: dict[str, Any], stage: str) -> float:
    """How many times as long it takes in the browser."""
    browser, local = row["browser"][stage], row["local"][stage]
    return float(local / browser if stage == "decode_tokens_per_s" else browser / local)


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _ratio(values: list[float]) -> str:
    low, high = min(values), max(values)
    spread = f" ({low:.2f} to {high:.2f})" if len(values) > 1 else ""
    return f"{statistics.median(values):.2f}{spread}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--demo", type=Path, default=ROOT / "runs" / "demo" / "bundles", help="the demo's bundles")
    parser.add_argument("--folder", type=Path, default=ROOT / "runs" / "browser", help="what is made, and kept")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=4, help="of the demo's students")
    parser.add_argument("--answers", type=int, default=30, help="in each round, after a warm-up")
    parser.add_argument("--shape-rounds", type=int, default=2)
    parser.add_argument("--shape-answers", type=int, default=1)
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    args = parser.parse_args()
    started = time.monotonic()
    shapes = {name: shaped(args.folder, target) for name, target in SHAPES.items()} if args.shape_rounds else {}
    rows = rounds({name: args.demo / folder for name, folder in DEMO.items()}, args.rounds, args.threads, args.answers)
    if shapes:
        from masters_edge.benchmarks.peers import bundle, in_browser

        bundle.COLD_STARTS = in_browser.COLD_STARTS = 1  # each takes a minute
        rows += rounds(shapes, args.shape_rounds, args.threads, args.shape_answers)
    if args.out is not None:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    known = rows[0]["versions"] | {"Python": platform.python_version()}
    print(f"\n{tables(rows)}\n\n{', '.join(f'{name} {version}' for name, version in sorted(known.items()))}")
    print(f"{', '.join(rows[0]['brands']) or rows[0]['user_agent']}; {time.monotonic() - started:.0f} s in all")


if __name__ == "__main__":
    main()
