"""A run of tests ends and names what was lost, whatever dies or hangs in it: pytest in pytest, as in `make test`."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import has_amx

ROOT = Path(__file__).parents[1]
AMX = "processor\t: 0\nmodel name\t: a Xeon\nflags\t\t: fpu avx512_bf16 amx_bf16 avx512_fp16 amx_tile amx_int8\n"
FILES = {
    "test_dies.py": """
import os, signal, pytest
def test_before(): pass
def test_dies(): os.kill(os.getpid(), signal.SIGFPE)
def test_between(): pass
def test_dies_too(): os._exit(0)
def test_after(): pass
""",
    "test_hangs.py": """
import ctypes
def test_hangs(): ctypes.PyDLL(None).sleep(600)  # with the GIL: no thread of Python can end it
def test_after(): pass
""",
    "test_passes.py": """
import os
def test_one(): assert os.environ["ONEDNN_MAX_CPU_ISA"] == "AVX512_CORE_BF16"
def test_two(): pass
""",
}


@pytest.mark.skipif(sys.platform == "win32", reason="signals, and /proc/cpuinfo")
def test_ends_and_names_what_died(tmp_path: Path) -> None:
    tests = tmp_path / "tests"
    tests.mkdir()
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / "cpuinfo").write_text(AMX)
    conftest = (ROOT / "tests/conftest.py").read_text()
    assert conftest.count('/proc/cpuinfo"') == 1
    (tests / "conftest.py").write_text(conftest.replace('/proc/cpuinfo"', f'{tmp_path}/cpuinfo"'))
    for name, text in FILES.items():
        (tests / name).write_text(text)
    options = re.search(r"^PYTEST = .* -m pytest (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert options
    command = [sys.executable, "-m", "pytest", *shlex.split(options[1]), "-o", "faulthandler_timeout=6"]
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "ONEDNN_"))}
    # Two workers on every machine, and xdist alone: each of six processes would take seconds for the other plugins.
    variables |= {"PYTEST_XDIST_AUTO_NUM_WORKERS": "2", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    variables["PYTEST_PLUGINS"] = "xdist.plugin"
    done = subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=120)
    lines = done.stdout.splitlines()
    assert done.returncode == 1, done.stdout + done.stderr
    for test in ("test_dies.py::test_dies", "test_dies.py::test_dies_too", "test_hangs.py::test_hangs"):
        told = [line for line in lines if re.fullmatch(rf"worker '\w+' crashed while running 'tests/{test}'", line)]
        assert len(told) == 1, done.stdout
    assert lines[-1].startswith("3 failed, 6 passed in "), done.stdout
    assert "Timeout (0:00:06)!" in done.stderr and "in test_hangs" in done.stderr
    assert "AMX isn't tested, by ONEDNN_MAX_CPU_ISA=AVX512_CORE_BF16" in done.stdout


def test_a_processor_with_amx_is_known_by_its_flags() -> None:
    assert has_amx(AMX)
    assert not has_amx(AMX.replace("amx", "avx"))
    assert not has_amx("model name\t: one without amx_bf16 amx_tile\nflags\t\t: fpu sse avx2\n")
    assert not has_amx("")
