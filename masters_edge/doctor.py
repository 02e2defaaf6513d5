"""What this machine can do: hardware, installed extras, devices, and what to install for the rest."""

import contextlib
import importlib.metadata
import importlib.util
import platform
import shutil
import sys
from collections.abc import Iterator

import psutil
from rich.table import Table
from rich.text import Text

from masters_edge.common import cpu
from masters_edge.common.errors import UserError
from masters_edge.common.extras import EXTRAS
from masters_edge.runtime import backends
from masters_edge.runtime.contained import Contained

RUNTIMES = {name: name for name in ("onnxruntime", "openvino", "xllamacpp", "executorch", "coremltools")}


def table() -> Table:
    """`findings` for the screen."""
    rows = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for what, found in findings():
        rows.add_row(what, Text(found))  # Text: names of extras stand in brackets, which markup would swallow
    return rows


def findings() -> Iterator[tuple[str, str]]:
    """What was looked at, and what was found or what to do."""
    yield ("system", f"{platform.system()} {platform.release()}, {platform.machine()}")
    yield ("Python", f"{platform.python_version()} ({sys.executable})")
    memory, disk = psutil.virtual_memory(), shutil.disk_usage(".")
    yield ("CPU", f"{cpu.logical_cores()} cores")
    yield ("memory", f"{memory.available / 2**30:.1f} of {memory.total / 2**30:.1f} GiB free")
    yield ("disk here", f"{disk.free / 2**30:.0f} GiB free")
    yield ("GPU", _gpu())
    for extra, (purpose, modules) in EXTRAS.items():
        missing = [name for name in modules if importlib.util.find_spec(name) is None]
        state = "installed" if not missing else f"missing {', '.join(missing)}: pip install 'masters-edge[{extra}]'"
        yield (f"extra {extra}", f"{state} ({purpose})")
    yield from _runtimes()
    yield ("device local", "this machine")
    ssh = "boards, as ssh://user@board" if shutil.which("ssh") else "install OpenSSH's client `ssh`, to measure boards"
    yield ("device ssh", ssh)
    yield ("device browser", _browser())
    adb = "Android phones by cable, as adb or adb:SERIAL" if shutil.which("adb") else "install adb, for Android phones"
    yield ("device adb", adb)


def _runtimes() -> Iterator[tuple[str, str]]:
    """Each runtime, tried out for a moment in a process of its own, all at once: what one dies of isn't our end."""
    found = {name: importlib.util.find_spec(module) is not None for name, module in RUNTIMES.items()}
    with contextlib.ExitStack() as stack:
        tried = {
            name: stack.enter_context(Contained(backend, backend, 1))
            for backend in backends.names()
            for name in [backends.package(backend)]
            if found[name]
        }
        for name in RUNTIMES:
            if name not in tried:
                yield (f"runtime {name}", f"pip install {name}")
                continue
            try:
                tried[name].try_out()
                yield (f"runtime {name}", importlib.metadata.version(name))
            except UserError as error:
                yield (f"runtime {name}", f"{error}; reinstall it, or leave it out and use another runtime")


def _browser() -> str:
    """Whether the page that measures in a browser can be served."""
    from masters_edge.benchmarks.page import assets

    if any(importlib.util.find_spec(name) is None for name in EXTRAS["browser"][1]):
        return "install the extra first: pip install 'masters-edge[browser]'"
    if not assets.ready():
        return assets.missing()
    library, runtime = (assets.versions()[name] for name in ("@huggingface/transformers", "onnxruntime-web"))
    return f"phones, tablets and laptops, with transformers.js {library} on onnxruntime-web {runtime}"


def _gpu() -> str:
    if importlib.util.find_spec("torch") is None:
        return "unknown without torch: pip install 'masters-edge[distill]'"
    from masters_edge.common.quiet import hush

    hush()
    import torch

    if torch.cuda.is_available():
        found = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
        return ", ".join(f"{gpu.name} ({gpu.total_memory / 2**30:.0f} GiB)" for gpu in found)
    if torch.backends.mps.is_available():
        return "Apple GPU (not used yet: training runs on the CPU)"
    return "none: training runs on the CPU"
