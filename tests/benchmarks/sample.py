"""A made-up results.json and metrics.jsonl, as the demo would write them."""

import json
import math
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from masters_edge.benchmarks.results import (
    Accuracy,
    Agreement,
    Case,
    Conditions,
    Device,
    Energy,
    Latency,
    Measurement,
    Moment,
    Results,
    Stage,
    SuiteInfo,
    Sustained,
    Training,
)
from masters_edge.scoring.metrics import wilson_interval

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


BOARD = Device(
    kind="ssh",
    address="ssh://pi@kitchen.local",
    name="kitchen",
    model="Raspberry Pi 5 Model B Rev 1.0",
    cpu="aarch64 (implementer 0x41, part 0xd0b)",
    cores=4,
    logical_cores=4,
    ram_mib=8_062,
    os="Debian GNU/Linux 13 (trixie), Linux 6.12.20",
    architecture="aarch64",
    python="3.13.1",
)
# (target, runtime, milliseconds of an answer on the host, right answers lost)
TARGETS = (("onnx", "onnxruntime", 1.9, 0), ("openvino", "openvino", 2.4, 9), ("executorch", "executorch", 3.1, 4),
           ("gguf", "llamacpp", 1.6, 14))  # fmt: skip
# (scheme, share of the time, share of the size, right answers lost)
SCHEMES = (("fp32", 1.0, 1.0, 0), ("int8", 0.8, 0.42, 25), ("int4", 0.95, 0.36, 92))


def case(width: int, prompt: str, total_ms: float) -> Case:
    """One of four cases: a longer prompt takes longer."""
    tokens = (64 if width < 300 else 256) + (20 if prompt == "short" else 180)
    if width > 300 and prompt == "long" and total_ms > 20:
        return Case(
            name=f"{width}x{width} {prompt}", image_width=width, image_height=width, prompt="long", new_tokens=16,
            skipped="the prompt of 436 tokens is longer than the context of 256",
        )  # fmt: skip
    first = total_ms * 0.7 * tokens / 84
    latency = Latency(
        preprocess_ms=stage(first * 0.1, 20), vision_ms=stage(first * 0.4, 20), prefill_ms=stage(first * 0.5, 20),
        ttft_ms=stage(first, 20), decode_tokens_per_s=stage(3000 / total_ms * (1 - tokens / 2000), 20),
        total_ms=stage(first + 16 * total_ms / 3, 20),
    )  # fmt: skip
    return Case(
        name=f"{width}x{width} {prompt}", image_width=width, image_height=width, prompt=prompt, new_tokens=16,
        prompt_tokens=tokens, image_tokens=tokens - (20 if prompt == "short" else 180), latency=latency,
    )  # fmt: skip


def fleet() -> Results:
    """Twelve bundles on two devices, and the PyTorch references on the host: what one command measures of the demo."""
    rows = list(results().measurements[:3])
    for device, slower, shift in ((DEVICE, 1.0, 0), (BOARD, 6.5, 3)):
        for target, runtime, total_ms, lost in TARGETS:
            for scheme, share, size, harm in SCHEMES:
                total = total_ms * share * slower
                right, equal = 8105 - lost - harm - shift, 9600 - 3 * harm - lost
                low, high = wilson_interval(equal, 9673)
                pi = device is BOARD
                rows.append(
                    measurement(
                        f"{target}-{scheme}", right=right, total_ms=total, size_bytes=round(1_082_000 * size),
                        scheme=scheme, target=target, runtime=runtime, device=device, threads=4 if pi else 2,
                        path=f"runs/demo/bundles/{target}-{scheme}", peak_rss_mib=60 + 4 * len(runtime) + 20 * size,
                        agreement=Agreement(asked=9673, equal=equal, per_cent=100 * equal / 9673, low=100 * low,
                                            high=100 * high),
                        cases=tuple(case(w, p, total) for w in (224, 512) for p in ("short", "long")),
                        conditions=Conditions(load_before=0.1, celsius_before=48, celsius_after=61, governor="ondemand")
                        if pi else Conditions(load_before=0.3),
                        energy=None if pi else
                        Energy(source="RAPL package", joules_per_answer=0.02 * total, watts=20, idle_watts=8),
                        sustained=loop(total) if pi and target == "onnx" else None,
                        unmeasured=("The board has no power meter that can be read.",) if pi else (),
                    )
                )  # fmt: skip
    return Results(measurements=tuple(rows))


def loop(total_ms: float) -> Sustained:
    """Ten minutes, in which a board grows hot and slower."""
    moments = tuple(
        Moment(at_s=30.0 * i, answers=900, total_ms=total_ms * (1 + 0.25 / (1 + math.exp(8 - i))),
               celsius=48 + 37 * (1 - math.exp(-i / 5)), mhz=2400 if i < 8 else 1900)
        for i in range(1, 21)
    )  # fmt: skip
    return Sustained(seconds=600, moments=moments, speed_left=moments[0].total_ms / moments[-1].total_ms)


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
