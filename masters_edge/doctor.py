"""What this machine can do: hardware, installed extras, devices, and what to install for the rest."""

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import sys

import psutil
from rich.table import Table

# extra -> (what it is for, modules it brings)
EXTRAS = {
    "distill": ("train a student", ("torch", "transformers", "accelerate", "datasets", "pyarrow", "safetensors")),
    "onnx": ("export to ONNX, quantize", ("onnx", "onnxscript", "torchao")),
    "bench": ("measure and draw", ("easy_vqa", "matplotlib")),
}
RUNTIMES = {"onnxruntime": "onnxruntime"}


def table() -> Table:
    """Two columns: what, and what was found or what to do."""
    rows = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    rows.add_row("system", f"{platform.system()} {platform.release()}, {platform.machine()}")
    rows.add_row("Python", f"{platform.python_version()} ({sys.executable})")
    memory, disk = psutil.virtual_memory(), shutil.disk_usage(".")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    rows.add_row("CPU", f"{cores} cores")
    rows.add_row("memory", f"{memory.available / 2**30:.1f} of {memory.total / 2**30:.1f} GiB free")
    rows.add_row("disk here", f"{disk.free / 2**30:.0f} GiB free")
    rows.add_row("GPU", _gpu())
    for extra, (purpose, modules) in EXTRAS.items():
        missing = [name for name in modules if importlib.util.find_spec(name) is None]
        state = "installed" if not missing else f"missing {', '.join(missing)}: pip install 'masters-edge[{extra}]'"
        rows.add_row(f"extra {extra}", f"{state} ({purpose})")
    for name, module in RUNTIMES.items():
        found = importlib.util.find_spec(module) is not None
        rows.add_row(f"runtime {name}", importlib.metadata.version(name) if found else f"pip install {name}")
    rows.add_row("device local", "this machine")
    return rows


def _gpu() -> str:
    if importlib.util.find_spec("torch") is None:
        return "unknown without torch: pip install 'masters-edge[distill]'"
    from masters_edge.quiet import hush

    hush()
    import torch

    if torch.cuda.is_available():
        found = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
        return ", ".join(f"{gpu.name} ({gpu.total_memory / 2**30:.0f} GiB)" for gpu in found)
    if torch.backends.mps.is_available():
        return "Apple GPU (not used yet: training runs on the CPU)"
    return "none: training runs on the CPU"
