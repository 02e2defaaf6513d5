"""`optimum-cli export edge` is `masters-edge export`: the same bundle, the same sentences, the same exit status."""

import subprocess
import sys
from pathlib import Path

import pytest

from masters_edge.bundle import manifest as manifests
from tests.export import bundles

optimum_cli = pytest.importorskip("optimum.commands.optimum_cli")
ROOT = Path(__file__).parents[2]


def edge(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "optimum.commands.optimum_cli", "export", "edge", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


def test_it_runs_masters_edge_export(monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[list[str]] = []

    def pretend(command: list[str], **_) -> subprocess.CompletedProcess:
        heard.append(command)
        return subprocess.CompletedProcess(command, 7)

    monkeypatch.setattr(subprocess, "run", pretend)
    given = "export edge --model me --target onnx --target gguf --quant int4 out"
    monkeypatch.setattr(sys, "argv", ["optimum-cli", *given.split()])
    with pytest.raises(SystemExit) as end:
        optimum_cli.main()
    wanted = "-m masters_edge export --student me --out out --target onnx --target gguf --quant int4"
    assert end.value.code == 7 and heard == [[sys.executable, *wanted.split()]]


@pytest.mark.slow
def test_it_writes_what_masters_edge_writes(tmp_path: Path) -> None:
    student = bundles.student("smolvlm")
    done = edge("--target", "onnx", "--quant", "int4", "--model", str(student), "out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (made,) = (tmp_path / "out").iterdir()
    ours, theirs = manifests.check(bundles.exported("smolvlm", "int4")), manifests.check(made)
    assert (theirs.target, theirs.scheme, theirs.student) == (ours.target, ours.scheme, ours.student)
    assert {file.path: file.sha256 for file in theirs.files if file.path != "README.md"} == {
        file.path: file.sha256 for file in ours.files if file.path != "README.md"
    }


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--target", "onxx", "--model", "STUDENT"), "did you mean 'onnx'?"),
        (("--target", "onnx", "--quant", "int5", "--model", "STUDENT"), "did you mean"),
        (("--target", "onnx", "--model", "nowhere"), "there is no student folder nowhere"),
    ],
)
def test_a_mistake_is_one_sentence_and_status_2(tmp_path: Path, arguments: tuple[str, ...], words: str) -> None:
    student = str(bundles.student("smolvlm"))
    done = edge(*(student if word == "STUDENT" else word for word in arguments), "out", cwd=tmp_path)
    assert done.returncode == 2 and words in done.stderr and "Traceback" not in done.stderr
    assert len([line for line in done.stderr.splitlines() if line.startswith("masters-edge: ")]) == 1
    assert not list(tmp_path.glob("out/*"))


def test_its_options_are_those_of_masters_edge() -> None:
    import typer.main

    from masters_edge.cli import app

    shown = " ".join(edge("--help").stdout.split())
    options = typer.main.get_command(app).commands["export"].params  # type: ignore[attr-defined]
    wanted = {option.opts[0] for option in options} - {"--student", "--out", "--run", "--help"}
    assert wanted >= {"--target", "--quant"} and all(f"[{name}" in shown for name in wanted)


def test_a_wheel_carries_the_registration(tmp_path: Path) -> None:
    pytest.importorskip("setuptools", minversion="77")
    command = [sys.executable, "setup.py", "-q", "build", "--build-base", str(tmp_path), "--build-lib", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    inside = tmp_path / "optimum" / "commands" / "register"
    assert [path.name for path in inside.iterdir()] == ["masters_edge_export.py"]  # a namespace has no __init__.py
    assert (tmp_path / "masters_edge" / "export" / "card.py").is_file()
