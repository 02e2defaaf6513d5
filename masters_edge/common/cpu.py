"""The processor of this machine: its name, and how many of its cores this process may use. Standard library alone,
but psutil for the number of physical cores."""

import math
import os
import platform
import subprocess
import sys
from pathlib import Path

_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def name(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """As the operating system names it, e.g. "Intel(R) Xeon(R) Platinum 8481C" or "Apple M3"."""
    if sys.platform == "darwin":
        return _sysctl("machdep.cpu.brand_string") or platform.processor() or platform.machine()
    if sys.platform == "win32":
        return _windows() or platform.processor() or platform.machine()
    fields: dict[str, str] = {}
    for line in _text(cpuinfo).splitlines():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), value.strip())
    for key in ("model name", "Hardware", "cpu model", "cpu"):
        if fields.get(key):
            return fields[key]
    if fields.get("CPU part"):  # most ARM boards give numbers only (ARM's MIDR register)
        return f"{platform.machine()} (implementer {fields.get('CPU implementer', '?')}, part {fields['CPU part']})"
    return platform.processor() or platform.machine()


def usable_cores(quota: Path = _QUOTA) -> int:
    """Physical cores that this process may use: the affinity mask and a container's CPU quota are heeded."""
    import psutil

    cores = psutil.cpu_count(logical=False) or os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        cores = min(cores, len(os.sched_getaffinity(0)))
    share, _, period = _text(quota).partition(" ")
    if share.isdigit() and period.strip().isdigit():
        cores = min(cores, math.ceil(int(share) / int(period)))
    return max(1, cores)


def logical_cores() -> int:
    """Logical cores that this process may use: the affinity mask is heeded."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def free_cores() -> float:
    """Logical cores that this process may use, less what other processes take now; looks on for 0.3 seconds."""
    import psutil

    return logical_cores() - psutil.cpu_percent(interval=0.3) / 100 * (os.cpu_count() or 1)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _sysctl(key: str) -> str:
    try:
        return subprocess.run(["sysctl", "-n", key], capture_output=True, text=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def _windows() -> str:
    try:
        import winreg

        with winreg.OpenKey(  # type: ignore[attr-defined]
            winreg.HKEY_LOCAL_MACHINE,  # type: ignore[attr-defined]
            r"HARDWARE\DESCRIPTION\System\CentralProcessor\0",
        ) as key:
            return str(winreg.QueryValueEx(key, "ProcessorNameString")[0]).strip()  # type: ignore[attr-defined]
    except (ImportError, OSError):
        return ""
