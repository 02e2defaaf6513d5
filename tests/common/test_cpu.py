"""Which cores a process may use: affinity and a container's quota are heeded."""

import os
import sys
from pathlib import Path

import psutil
import pytest

from masters_edge.common import cpu


@pytest.mark.parametrize(
    ("quota", "cores"), [("150000 100000\n", 2), ("50000 100000\n", 1), ("max 100000\n", None), ("", None)]
)
def test_a_quota_bounds_the_cores(tmp_path: Path, quota: str, cores: int | None) -> None:
    (tmp_path / "cpu.max").write_text(quota)
    free = cpu.usable_cores(tmp_path / "none")
    assert 1 <= free <= (psutil.cpu_count(logical=False) or os.cpu_count() or 1)
    assert cpu.usable_cores(tmp_path / "cpu.max") == (free if cores is None else min(free, cores))


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity here")
def test_affinity_bounds_the_cores(tmp_path: Path) -> None:
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        assert cpu.usable_cores(tmp_path / "none") == 1
    finally:
        os.sched_setaffinity(0, before)


@pytest.mark.skipif(sys.platform in ("darwin", "win32"), reason="reads /proc")
def test_the_name_is_the_system_s(tmp_path: Path) -> None:
    path = tmp_path / "cpuinfo"
    path.write_text("processor : 0\nmodel name : Some CPU 9000\n\nprocessor : 1\nmodel name : Other\n")
    assert cpu.name(path) == "Some CPU 9000"
    path.write_text("processor : 0\nCPU implementer : 0x41\nCPU part : 0xd0b\n")
    assert "implementer 0x41, part 0xd0b" in cpu.name(path)
    assert cpu.name(tmp_path / "none")
