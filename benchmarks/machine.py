"""Which machine this is, in the machine's own words, and how much memory this process has taken at most.

Nothing here takes a name from outside: a figure's device is what the measuring process itself reads from the machine
it runs on, so a host CPU's figure can't carry a phone's name.
"""

import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil

from masters_edge.common.cpu import name as cpu_name
from masters_edge.common.cpu import usable_cores
from masters_edge.common.versions import installed as versions

__all__ = ["cpu_name", "describe", "peak_rss_mib", "usable_cores", "versions"]


def describe() -> dict[str, Any]:
    """The fields of `results.Device`, read from this machine."""
    return {
        "name": platform.node() or "unnamed",
        "model": computer_model(),
        "cpu": cpu_name(),
        "cores": psutil.cpu_count(logical=False) or os.cpu_count() or 1,
        "logical_cores": os.cpu_count() or 1,
        "ram_mib": round(psutil.virtual_memory().total / 2**20),
        "os": operating_system(),
        "architecture": platform.machine(),
        "python": platform.python_version(),
    }


def computer_model() -> str | None:
    """What computer or board this is ("Raspberry Pi 5 Model B Rev 1.0", "Mac15,3"), or None where it doesn't say."""
    if sys.platform == "darwin":
        return _command("sysctl", "-n", "hw.model") or None
    for source in ("/proc/device-tree/model", "/sys/devices/virtual/dmi/id/product_name"):
        if text := _text(Path(source)).strip(" \0\n"):
            return text
    return None


def operating_system() -> str:
    """Name and version, e.g. "Ubuntu 24.04.1 LTS, Linux 6.8.0"; "macOS 15.1"; "Windows 11"."""
    if sys.platform == "darwin":
        return f"macOS {platform.mac_ver()[0]}"
    if sys.platform == "linux":
        try:
            return f"{platform.freedesktop_os_release()['PRETTY_NAME']}, Linux {platform.release()}"
        except (OSError, KeyError):
            return f"Linux {platform.release()}"
    return f"{platform.system()} {platform.release()}"


def peak_rss_mib() -> float:
    """The most resident memory this process has had so far, in MiB.

    On Linux from VmHWM: `ru_maxrss` would be wrong there, since a child starts with its parent's value and a parent
    with torch loaded is larger than most students.
    """
    for line in _text(Path("/proc/self/status")).splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    if sys.platform == "win32":
        return psutil.Process().memory_info().peak_wset / 2**20
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 1024)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _command(*words: str) -> str:
    try:
        return subprocess.run(words, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
