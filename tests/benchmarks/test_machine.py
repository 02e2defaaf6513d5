import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from masters_edge.benchmarks import machine, phases, results

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def test_this_machine_fits_the_schema() -> None:
    device = results.Device(**machine.describe())
    assert device.cpu and device.ram_mib == round(psutil.virtual_memory().total / 2**20)
    assert 1 <= machine.usable_cores() <= device.logical_cores


@linux
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("processor\t: 0\nmodel name\t: Intel(R) Xeon(R)\nprocessor\t: 1\nmodel name\t: other\n", "Intel(R) Xeon(R)"),
        ("processor\t: 0\nCPU implementer\t: 0x41\nCPU part\t: 0xd0b\n", "implementer 0x41, part 0xd0b"),
        ("Hardware\t: BCM2835\n", "BCM2835"),
    ],
)
def test_cpu_name_is_what_the_machine_says(tmp_path: Path, text: str, expected: str) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(text)
    assert expected in machine.cpu_name(cpuinfo)


def test_peak_memory_grows_with_what_was_taken_and_never_shrinks() -> None:
    """In a process of its own: one that has held more before would not grow."""
    code = (
        "from masters_edge.benchmarks.machine import peak_rss_mib as peak\n"
        "before = peak()\n"
        "ballast = b'x' * (80 << 20)\n"
        "during = peak()\n"
        "del ballast\n"
        "print(before, during, peak())"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout
    before, during, after = map(float, out.split())
    assert during >= before + 70 and after >= during - 2  # the kernel counts in batches


@linux
def test_peak_memory_is_not_the_parents() -> None:
    """`ru_maxrss` would be: a child starts with its parent's. Breaks where peak_rss_mib reads it on Linux."""
    ballast = b"x" * (400 << 20)
    code = "from masters_edge.benchmarks import machine; print(machine.peak_rss_mib())"
    child = float(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout)
    assert len(ballast) and child < 200


def test_versions_skip_what_is_not_installed() -> None:
    assert set(machine.versions("numpy", "no-such-package-here")) == {"numpy"}


def test_worker_knows_the_stages_of_the_schema() -> None:
    assert phases.STAGES == results.STAGES


def test_the_measuring_process_starts_lean() -> None:
    code = (
        "import sys, masters_edge.benchmarks.worker, masters_edge.benchmarks.phases\n"
        "print([m for m in ('torch', 'transformers', 'pydantic', 'rich', 'matplotlib') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout
    assert out.strip() == "[]"


def test_benchmarks_stay_torch_free_and_apart_from_training() -> None:
    code = (
        "import sys, pkgutil, importlib, masters_edge.benchmarks as b\n"
        "for m in pkgutil.walk_packages(b.__path__, b.__name__ + '.'): importlib.import_module(m.name)\n"
        "bad = ('torch', 'transformers', 'masters_edge.training', 'masters_edge.export', 'matplotlib')\n"
        "print([m for m in bad if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout
    assert out.strip() == "[]"
