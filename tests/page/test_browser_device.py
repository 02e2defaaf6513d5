"""What a browser's own words make of a device, and what a bundle needs to be measured there."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from masters_edge.benchmarks.devices import Wanted, browser, peer_of
from masters_edge.benchmarks.page import assets, messages
from masters_edge.benchmarks.page.desk import Desk
from masters_edge.benchmarks.peers import in_browser
from masters_edge.common.errors import UserError
from tests.page.fake_page import FACTS, bundle

IPHONE = (
    "Mozilla/5.0 (iPhone; CPU iPhone OS 18_2 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.2 "
    "Mobile/15E148 Safari/604.1"
)
SILENT = dict(
    brands=[], platform=None, platform_version=None, architecture=None, model=None, mobile=None, memory_gib=None
)
PIXEL = dict(
    brands=[{"brand": "Not?A_Brand", "version": "99"}, {"brand": "Chromium", "version": "150"},
            {"brand": "Google Chrome", "version": "150"}],
    platform="Android", platform_version="16.0.0", model="Pixel 9", architecture="", mobile=True,
    webgpu={"vendor": "arm", "architecture": "valhall", "device": "", "description": "arm"},
)  # fmt: skip
FIREFOX = "Mozilla/5.0 (Android 15; Mobile; rv:140.0) Gecko/140.0 Firefox/140.0"
MAC = "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.5 Safari/605"


def facts(**changes: Any) -> messages.Facts:
    return messages.Facts.model_validate_json(json.dumps(FACTS | changes))


@pytest.mark.parametrize(
    "changes, name, os, cpu",
    [
        ({}, "Chromium on Linux", "Linux 6.1", "x86"),
        (PIXEL, "Pixel 9", "Android 16", "not told by the browser"),
        (SILENT | {"user_agent": IPHONE}, "iPhone", "iOS 18.2", "not told by the browser"),
        (SILENT | {"user_agent": FIREFOX}, "Firefox on Android", "Android", "not told by the browser"),
        (SILENT | {"user_agent": MAC}, "Safari on macOS", "macOS", "not told by the browser"),
        ({"platform": "Windows", "platform_version": "15.0.0"}, "Chromium on Windows", "Windows 11", "x86"),
        ({"platform": "Windows", "platform_version": "10.0.0"}, "Chromium on Windows", "Windows 10", "x86"),
        (SILENT | {"user_agent": ""}, "a browser", "not told by the browser",
         "not told by the browser"),
    ],
    ids=["chromium", "pixel", "iphone", "firefox", "mac", "windows 11", "windows 10", "nothing"],
)  # fmt: skip
def test_a_device_is_called_what_it_says(changes: dict[str, Any], name: str, os: str, cpu: str) -> None:
    device = browser.describe(facts(**changes), "browser", "browser")
    assert (device.name, device.os, device.cpu) == (name, os, cpu)
    assert (device.ram_mib, device.python) == (None, None)
    assert browser.describe(facts(**changes), "browser", "browser:kitchen", "kitchen").name == "kitchen"


def test_the_graphics_processor_is_told_once() -> None:
    found = browser.describe(facts(**PIXEL), "browser", "browser").browser
    assert found is not None and found.webgpu == "arm valhall"
    assert browser.describe(facts(webgpu={}), "browser", "browser").browser.webgpu == "not named"  # type: ignore


@pytest.mark.parametrize("cores, threads", [(None, 1), (1, 1), (2, 2), (3, 2), (4, 2), (6, 3), (8, 4), (24, 4)])
def test_threads_are_those_that_onnxruntime_web_takes(cores: int | None, threads: int) -> None:
    assert place(cores=cores).usable_threads == threads and place(cores=cores).most_threads is None


def test_a_page_that_is_not_isolated_has_one_thread_and_says_so() -> None:
    found = place(isolated=False, secure_context=False)
    assert (found.usable_threads, found.most_threads) == (1, 1)
    assert found.notes == ("Chromium on Linux: one thread alone, since it needs HTTPS or localhost",)


def test_versions_are_npms_and_of_the_backends_that_are_there() -> None:
    served = assets.versions()
    packages = in_browser.packages(str(bundle()), "auto")
    assert place().versions(*packages).keys() == set(packages)
    assert place().versions("wasm", "webgpu", "numpy") == {"wasm": served["onnxruntime-web"]}
    assert place(webgpu={}).versions(*in_browser.runtimes("", "auto")).keys() == {"wasm", "webgpu"}


@pytest.mark.parametrize("address, name", [("browser", None), ("browser:my phone", "my phone")])
def test_an_address_may_name_the_device(address: str, name: str | None) -> None:
    assert browser.name_of(address) == name
    assert peer_of(address, "bundle") is in_browser and peer_of(address, "checkpoint") is None


def test_an_empty_name_is_refused() -> None:
    with pytest.raises(UserError, match="no name behind the colon"):
        browser.name_of("browser: ")


def test_a_family_that_the_browser_does_not_know_is_refused(tmp_path: Path) -> None:
    copy = altered(tmp_path, "config.json", masters_edge_model_type="llava_onevision")
    with pytest.raises(UserError, match="does not know llava_onevision; it knows smolvlm, .*--device local"):
        in_browser.packages(str(copy), "auto")
    in_browser.check(str(altered(tmp_path, "config.json", model_type="llava", masters_edge_model_type="internvl")))


def test_other_targets_and_backends_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is a bundle for gguf; a browser runs onnx and onnx_portable"):
        in_browser.packages(str(altered(tmp_path, "manifest.json", target="gguf")), "auto")
    with pytest.raises(UserError, match="no backend 'openvino'; use one of: auto, wasm, webgpu"):
        in_browser.packages(str(bundle()), "openvino")


def place(**changes: Any) -> browser.Browser:
    said = facts(**changes)
    return browser.Browser(Desk(), browser.describe(said, "browser", "browser"), said, Wanted())


def altered(folder: Path, file: str, **changes: Any) -> Path:
    """A copy of the tiny bundle with other settings."""
    copy = folder / f"copy-{len(list(folder.iterdir()))}"
    shutil.copytree(bundle(), copy)
    path = copy / file
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return copy


@pytest.mark.parametrize(
    ("runtime", "target", "scheme", "slow"),
    [
        ("wasm", "onnx", "int4", True),
        ("wasm", "onnx", "int8-a8", True),
        ("wasm", "onnx", "fp16", False),
        ("wasm", "onnx_portable", "int4", False),
        ("webgpu", "onnx", "int4", False),
    ],
)
def test_what_wasm_is_slow_at_is_said(runtime: str, target: str, scheme: str, slow: bool) -> None:
    card = messages.Card(
        name="x", scheme=scheme, target=target, runtime=runtime, threads=1, size_bytes=1, stages={}, cold_start_ms=None,
        accuracy=None, same=None, hidden_s=0.0, notes=(),
    )  # fmt: skip
    assert browser.unpacks_at_every_token(card) == slow
