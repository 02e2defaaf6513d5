"""masters-edge from a wheel, without the checkout: what a person does with it, on the checkpoints that come with it."""

import json
import os
import re
import shutil
import subprocess
import time
import zipfile
from pathlib import Path

import pytest

from masters_edge.benchmarks.page import assets
from masters_edge.data import easy_vqa
from tests.package import source
from tests.package.source import Installed
from tests.page.driver import chromium, needs_browser

pytestmark = pytest.mark.slow

BUNDLE = Path("bundles/onnx-int4")
NOWHERE = "http://127.0.0.1:9"  # discard; nobody listens


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return source.clone(tmp_path_factory.mktemp("clone") / "masters-edge")


@pytest.fixture(scope="module")
def installed(clone: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """From a clone that is gone, with what npm has; from here, where the checkout has it."""
    folder = tmp_path_factory.mktemp("installed")
    copy = shutil.copytree(clone, folder / "clone", symlinks=True)
    if assets.ready():
        shutil.copytree(assets.FOLDER, copy / "benchmarks/page/assets")
    wheel, _ = source.build_wheel(copy, folder, os.environ)
    shutil.rmtree(copy)
    return source.install(wheel, folder / "venv")


@pytest.fixture(scope="module")
def folder(installed: Installed, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the commands run: one bundle, exported there."""
    folder = tmp_path_factory.mktemp("work")
    student = installed.python("import masters_edge.recipes as r; print(r.__path__[0])", folder) + "/demo/student"
    said = installed.run("export", "--student", student, "--quant", "int4", "--out", "bundles", cwd=folder)
    assert "answers equal to PyTorch's" in said and (folder / BUNDLE / "manifest.json").exists()
    return folder


def test_it_is_the_wheels_and_of_this_commit(installed: Installed, clone: Path, tmp_path: Path) -> None:
    code = "import masters_edge as m, masters_edge.{0} as r; print(r.__file__); print(m.__version__)"
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=clone, check=True, capture_output=True, text=True).stdout
    for room in ("export", "benchmarks", "recipes", "cli"):
        place, version = installed.python(code.format(room), tmp_path).splitlines()
        assert Path(place).is_relative_to(installed.bin.parent)
        public, _, commit = version.partition("+g")
        assert public.startswith("0.") and head.startswith(commit)


def test_ask(installed: Installed, folder: Path) -> None:
    question = easy_vqa.read("test")[0]
    assert "first token" in installed.run("ask", BUNDLE, str(question.image), question.text, cwd=folder)


def test_bench_and_report(installed: Installed, folder: Path) -> None:
    said = installed.run("bench", BUNDLE, "--questions", "20", "--no-cases", cwd=folder)
    assert "onnx-int4" in said and "report.html" in said
    installed.run("report", "runs/bench/results.json", "--out", "drawn", cwd=folder)
    assert {path.name for path in (folder / "drawn").iterdir()} >= {"report.html", "report.png", "report.md"}
    assert "<style>" in (folder / "drawn/report.html").read_text()


@needs_browser
def test_bench_in_a_browser(installed: Installed, folder: Path) -> None:
    options = ["--device", "browser:test", "--port", "0", "--questions", "6", "--no-cases", "--backend", "wasm"]
    command = installed.command("bench", BUNDLE, *options)
    with (
        subprocess.Popen(
            command, cwd=folder, env=source.CLEAN, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as bench,
        chromium() as browser,
    ):
        assert bench.stdout is not None
        lines = []
        for line in bench.stdout:
            lines.append(line)
            if link := re.search(r"https?://\S+#t=\S+", line):
                break
        else:
            pytest.fail("".join(lines))
        browser.driver.get(link[0])
        said, _ = bench.communicate(timeout=600)
        assert bench.returncode == 0, said
    measured = json.loads((folder / "runs/bench/results.json").read_text())["measurements"]
    [one] = [one for one in measured if one["device"]["kind"] == "browser"]
    assert (one["name"], one["accuracy"]["asked"]) == ("onnx-int4", 6)


def test_the_demo_starts_in_an_empty_folder(installed: Installed, tmp_path: Path) -> None:
    """Until the teacher has answered its first questions; and the same recipe is had as a file of one's own."""
    (tmp_path / "my.yaml").write_text(installed.run("recipes", "demo", cwd=tmp_path))
    assert "my.yaml is valid" in installed.run("validate", "my.yaml", cwd=tmp_path)
    place = tmp_path / "empty"
    place.mkdir()
    until = time.monotonic() + 900
    with (tmp_path / "said").open("w+") as said:
        demo = subprocess.Popen(installed.command("demo"), cwd=place, env=source.CLEAN, stdout=said, stderr=said)
        try:
            while not list(place.glob("runs/demo/phase-0-joint/labels/*.parquet")):
                assert demo.poll() is None and time.monotonic() < until, (tmp_path / "said").read_text()
                time.sleep(0.5)
        finally:
            demo.kill()
            demo.wait()


def test_an_sdist_builds_a_wheel_that_says_what_npm_would_have_brought(
    clone: Path, installed: Installed, folder: Path, tmp_path: Path
) -> None:
    sdist = source.build_sdist(clone, tmp_path)
    unreachable = {"npm_config_registry": NOWHERE, "npm_config_cache": str(tmp_path / "cache")}
    wheel, said = source.build_wheel(sdist, tmp_path, unreachable)
    assert wheel.name.split("-")[1] == sdist.name.removesuffix(".tar.gz").partition("-")[2]
    assert re.search(r"Warning: npm .*Only `bench --device browser` needs it: .*" + re.escape(assets.COMMAND), said)
    with zipfile.ZipFile(wheel) as built:
        files = {name for name in built.namelist() if ".dist-info/" not in name}
    site = Path(installed.python("import masters_edge; print(masters_edge.__path__[0])", tmp_path)).parent
    whole = {path.relative_to(site).as_posix() for path in (site / "masters_edge").rglob("*") if path.suffix != ".pyc"}
    fetched = "masters_edge/benchmarks/page/assets/"
    assert {name for name in files if name.startswith("masters_edge/")} == {
        name for name in whole if not name.startswith(fetched) and (site / name).is_file()
    }
    without = source.install(wheel, tmp_path / "venv")
    assert "the page has no transformers.js yet" in without.run("doctor", cwd=tmp_path)
    said = without.run("bench", BUNDLE, "--device", "browser", cwd=folder, status=2)
    assert assets.COMMAND in said and "Traceback" not in said
