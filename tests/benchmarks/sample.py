"""A made-up results.json and metrics.jsonl, as the demo would write them."""

import json
import math
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from masters_edge.benchmarks.metrics import wilson_interval
from masters_edge.benchmarks.results import Accuracy, Device, Latency, Measurement, Results, Stage, SuiteInfo, Training

DEVICE = Device(
    name="bench-box",
    model=None,
    cpu="Intel(R) Xeon(R) Platinum 8481C",
    cores=2,
    logical_cores=4,
    ram_mib=24_000,
    os="Debian GNU/Linux 12 (bookworm), Linux 6.1.0",
    architecture="x86_64",
    python="3.11.7",
)
NOW = datetime(2026, 11, 25, 12, 0, tzinfo=timezone.utc)


def stage(median: float, n: int = 200) -> Stage:
    return Stage(median=median, p90=median * 1.3, spread=median * 0.2, n=n)


def measurement(name: str = "student int4", **changes: Any) -> Measurement:
    """`right` of 9,673 and `total_ms` set the point; other fields can be replaced by name."""
    right, asked = changes.pop("right", 8000), changes.pop("asked", 9673)
    total_ms = changes.pop("total_ms", 12.0)
    low, high = wilson_interval(right, asked)
    fields: dict[str, Any] = {
        "name": name,
        "role": "exported",
        "kind": "bundle",
        "path": "runs/demo/bundles/onnx-int4",
        "sha256": "ab" * 32,
        "target": "onnx",
        "runtime": "onnxruntime",
        "scheme": "int4",
        "parameters": 312_000,
        "size_bytes": 640_000,
        "device": DEVICE,
        "threads": 2,
        "versions": {"onnxruntime": "1.32.0", "numpy": "2.4.6"},
        "suite": SuiteInfo(name="easy-vqa", metric="exact_match", sha256="cd" * 32),
        "accuracy": Accuracy(asked=asked, right=right, per_cent=100 * right / asked, low=100 * low, high=100 * high),
        "batched": False,
        "latency": Latency(
            preprocess_ms=stage(total_ms * 0.1),
            vision_ms=stage(total_ms * 0.3),
            prefill_ms=stage(total_ms * 0.3),
            ttft_ms=stage(total_ms * 0.7),
            decode_tokens_per_s=stage(2000 / total_ms, 180),
            total_ms=stage(total_ms),
            cold_start_ms=stage(600.0, 3),
        ),
        "latency_questions": 200,
        "peak_rss_mib": 120.5,
        "training": Training(),
        "started": NOW,
        "ended": NOW,
    }
    return Measurement(**{**fields, **changes})


def results() -> Results:
    """The demo's five rows: two PyTorch students, their teacher, and two exported bundles."""
    torch = {"kind": "checkpoint", "target": "checkpoint", "runtime": "pytorch", "scheme": "float32", "batched": True}
    peer = {**torch, "versions": {"torch": "2.13.0", "transformers": "5.24.0"}, "peak_rss_mib": 540.0}
    trained = Training(steps=1500, seconds=214.0)
    return Results(
        measurements=(
            measurement("teacher", role="teacher", right=9460, total_ms=58, size_bytes=11_900_000, parameters=2_960_000,
                        training=Training(steps=6000, seconds=1830), **peer),
            measurement("student before", role="student before", right=5030, total_ms=27, size_bytes=1_300_000, **peer),
            measurement("student after", role="student after", right=8105, total_ms=26.5, size_bytes=1_300_000,
                        training=trained, **peer),
            measurement("student fp32", right=8105, total_ms=7.1, size_bytes=1_420_000, scheme="float32"),
            measurement("student int4", right=8060, total_ms=6.2, size_bytes=640_000, scheme="int4"),
        )
    )  # fmt: skip


def write_metrics(path: Path) -> None:
    """1,500 steps in five mask stages, evaluated every 100."""
    with path.open("w", encoding="utf-8") as file:
        for step in range(0, 1501, 10):
            progress = min(4, max(0, step - 1) // 300)
            row = {
                "step": step,
                "phase": 0,
                "objective": "joint",
                "stage": progress,
                "mask_ratio": round(0.20 - 0.05 * progress, 2),
            }
            row |= {"loss": math.exp(-step / 500), "jsd": 0.3 * math.exp(-step / 600)}
            if step % 100 == 0:
                row |= {
                    "eval_accuracy": 52 + 32 * (1 - math.exp(-step / 420)) + 1.2 * math.sin(step),
                    "seconds": step / 7,
                }
            file.write(json.dumps(row) + "\n")


def write_run(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    write_metrics(folder / "metrics.jsonl")
    (folder / "recipe.yaml").write_text("student: ./student\nmask:\n  r_max: 0.2\n  step: 0.05\nseed: 0\n", "utf-8")
    return folder
