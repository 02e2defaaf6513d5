"""What a masked teacher costs: extra memory, time to set up, and time to switch ratios.

    python recipes/economy/mask_switch.py                            # 100 M weights, float32 and bfloat16
    python recipes/economy/mask_switch.py --size 2e9 --dtype bfloat16 --out mask_switch.json

Side by side with switching, a plain copy of the same weights is timed (`w.copy_(other)`), which is what keeping two
teachers in memory would cost at 1.0 bytes of extra memory per byte. A switch goes through the paper's ratios: 0.20,
0.15, 0.10, 0.05, 0. Switches and copies take turns, so that whatever else the machine does hits both; medians are
given. Weights are normal random numbers, in square matrices as large as a decoder's.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from masters_edge.teacher.masking import MaskedTeacher

RATIOS = (0.20, 0.15, 0.10, 0.05, 0.0)
SIDE = 4096
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def seconds(work: Callable[[], Any], device: torch.device) -> float:
    """Wall time of one call, the device's queue emptied before and after."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    started = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def measure(weights: int, dtype: torch.dtype, rounds: int, device: torch.device) -> dict[str, Any]:
    """Figures of a model of about `weights` weights in layers of 4096 x 4096."""
    torch.manual_seed(0)
    layers = max(1, round(weights / SIDE**2))
    model = nn.Sequential(*(nn.Linear(SIDE, SIDE, bias=False, dtype=dtype, device=device) for _ in range(layers)))
    with torch.no_grad():
        for layer in model:
            layer.weight.normal_()  # type: ignore[operator]
    own = [p.detach() for p in model.parameters()]
    other = [p.clone() for p in own]
    setups = [seconds(lambda: MaskedTeacher(model, max(RATIOS)), device) for _ in range(3)]
    teacher = MaskedTeacher(model, max(RATIOS))
    first = [seconds(lambda r=ratio: teacher.set_ratio(r), device) for ratio in RATIOS]  # type: ignore[misc]
    copies: list[float] = []
    switches: dict[float, list[float]] = {ratio: [] for ratio in RATIOS}
    for _ in range(rounds):
        for ratio in RATIOS:
            switches[ratio].append(seconds(lambda r=ratio: teacher.set_ratio(r), device))  # type: ignore[misc]
            if ratio == 0:  # whole again: the copy changes nothing
                assert all(torch.equal(a, b) for a, b in zip(own, other))
                copies += [seconds(lambda: [a.copy_(b) for a, b in zip(own, other)], device) for _ in range(5)]
    copy = statistics.median(copies)
    size = sum(p.numel() * p.element_size() for p in own)
    return {
        "dtype": str(dtype).removeprefix("torch."),
        "device": torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"CPU, {torch.get_num_threads()} threads",
        "weights": sum(p.numel() for p in own),
        "extra_bytes_per_byte": round(teacher.extra_bytes / size, 4),
        "setup_s": round(statistics.median(setups), 4),
        "copy_s": round(copy, 5),
        "first_switch_s": round(statistics.median(first), 4),
        "switch_s": {f"{ratio:.2f}": round(statistics.median(times), 4) for ratio, times in switches.items()},
        "switch_over_copy": round(statistics.median(t for times in switches.values() for t in times) / copy, 2),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--size", type=float, default=1e8, help="weights (count); default: 1e8")
    parser.add_argument(
        "--dtype", choices=DTYPES, action="append", help="repeat for several; default: float32, bfloat16"
    )
    parser.add_argument("--rounds", type=int, default=5, help="times through all ratios; default: 5")
    parser.add_argument("--device", default="cpu", help="cpu, or cuda; default: cpu")
    parser.add_argument("--threads", type=int, help="CPU threads; default: torch's own choice")
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    options = parser.parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    rows = []
    for name in options.dtype or ["float32", "bfloat16"]:
        rows.append(measure(int(options.size), DTYPES[name], options.rounds, device))
    print(f"{rows[0]['weights']:,} weights, {rows[0]['device']}, medians")
    print("| dtype | extra bytes per byte | set up, s | switch, s (slowest ratio) | copy, s | switch / copy |")
    print("|---|---|---|---|---|---|")
    for row in rows:
        slowest = max(row["switch_s"].values())
        middle = statistics.median(row["switch_s"].values())
        print(
            f"| {row['dtype']} | {row['extra_bytes_per_byte']:.3f} | {row['setup_s']:.2f} "
            f"| {middle:.3f} ({slowest:.3f}) | {row['copy_s']:.4f} | {row['switch_over_copy']:.1f} |"
        )
    if options.out:
        options.out.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
