"""What mypy and editors see of masters_edge: the two rooms at the top of the repository too, and every name in them."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.wide
def test_mypy_sees_export_and_benchmarks(tmp_path: Path) -> None:
    """By the configuration of `make lint`, but without other libraries, whose reading takes a minute."""
    code = tmp_path / "looks.py"
    code.write_text(
        "from masters_edge.benchmarks.results import slot\n"
        "from masters_edge.export.pipeline import target_names\n"
        "reveal_type(slot)\n"
        "reveal_type(target_names())\n"
        "import masters_edge.export.nowhere\n"
        "import masters_edge.benchmarks.nowhere\n"
        "from masters_edge.export import nothing\n"
    )
    options = ["--config-file", ROOT / "pyproject.toml", "--cache-dir", tmp_path / "cache"]
    options += ["--no-site-packages", "--follow-imports", "silent", "--no-error-summary", "--hide-error-context"]
    done = subprocess.run([sys.executable, "-m", "mypy", *options, code], cwd=ROOT, capture_output=True, text=True)
    said = [line.partition("looks.py:")[2] for line in done.stdout.splitlines() if "looks.py:" in line]
    expected = [
        '3: note: Revealed type is "def (measurement: masters_edge.benchmarks.results.Measurement) -> tuple[str, ...]"',
        '4: note: Revealed type is "list[str]"',
        "5: error: Cannot find implementation or library stub for module named",
        "6: error: Cannot find implementation or library stub for module named",
        '7: error: Module "masters_edge.export" has no attribute "nothing"',
    ]
    for line in expected:
        assert any(one.replace("builtins.", "").startswith(line) for one in said), done.stdout + done.stderr


@pytest.mark.parametrize("room", ["export", "benchmarks"])
def test_what_reads_sources_alone_finds_the_room(room: str) -> None:
    """Pyright and Pylance look into typings/ by themselves."""
    assert (ROOT / "typings" / "masters_edge" / room).resolve() == (ROOT / room).resolve()
