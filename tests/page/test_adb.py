"""Phones over adb: what its command lines answer, typed, and a measuring from plugging in to the settings put back.

adb and the phones are stand-ins (`adb_stand_in.py`); in the last test a phone's browser is a real Chromium.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest

from masters_edge.benchmarks.devices import Lost, Wanted, _adb
from masters_edge.benchmarks.devices import adb as adb_device
from masters_edge.benchmarks.page import desk
from masters_edge.benchmarks.suites import Suite, load
from masters_edge.common.errors import UserError
from masters_edge.runtime import Student
from tests.export import bundles
from tests.page.adb_stand_in import NO_PERMISSIONS, Phone, StandIn, standing_in
from tests.page.conftest import benched
from tests.page.driver import PHONE, chromium, needs_browser
from tests.page.fake_page import FakePage, Host, Vanished


@pytest.fixture
def adb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    """An `adb` on PATH, before everything else there, and phones that answer in no time."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(_adb, "APPEARS_S", 0.2)
    monkeypatch.setattr(adb_device, "LOOK_S", 0.1)
    monkeypatch.setattr(desk, "FAREWELL_S", 0.3)
    with standing_in(folder) as found:
        yield found


LISTED = f"""* daemon not running; starting now at tcp:5037
* daemon started successfully
List of devices attached
R5CT20ABCDE            device usb:1-4 product:dm3qxeea model:SM_S918B device:dm3q transport_id:3
192.168.1.7:5555       device product:shiba model:Pixel_8 device:shiba transport_id:4
adb-R5C-x (2)._adb-tls-connect._tcp offline transport_id:5
0123456789ABCDEF       unauthorized usb:1-1 transport_id:6
HT4CWJT00123           {NO_PERMISSIONS} usb:1-2 transport_id:7
(no serial number)     no device

"""


def test_the_list_of_devices_is_read_whatever_their_states_and_serial_numbers() -> None:
    found = _adb.parse_devices(LISTED)
    assert [(one.serial, one.state.partition(" (")[0]) for one in found] == [
        ("R5CT20ABCDE", "device"),
        ("192.168.1.7:5555", "device"),
        ("adb-R5C-x (2)._adb-tls-connect._tcp", "offline"),
        ("0123456789ABCDEF", "unauthorized"),
        ("HT4CWJT00123", "no permissions"),
        ("(no serial number)", "no device"),
    ]
    assert (found[0].model, found[0].transport) == ("SM_S918B", "3") and found[4].transport == "7"
    assert _adb.parse_devices("List of devices attached\r\n\r\n") == []


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("  USB powered: true\n  status: 2\n  level: 84\n  scale: 100\n  temperature: 326\n", (84, 32.6, True)),
        ("  level: 40\r\n  scale: 200\r\n  temperature: -55\r\n", (20, -5.5, False)),
        ("  AC powered: true\n  status: 3\n  level: 7\n  temperature: 300\n", (7, 30.0, False)),
        ("  present: false\n  level: 0\n  temperature: 0\n", (None, None, False)),  # a television
        ("  (UPDATES STOPPED -- use 'reset' to restart)\n  level: 99\n  temperature: 1\n", (None, None, False)),
        ("  level: 9999999999999999999999\n  temperature: \x1b[31m\n  level: 5\n", (None, None, False)),
        ("", (None, None, False)),
    ],
)
def test_the_battery_is_read_or_said_to_be_unknown(
    said: str, expected: tuple[float | None, float | None, bool]
) -> None:
    found = _adb.battery(said)
    assert (found.per_cent, found.celsius, found.charging) == expected


@pytest.mark.parametrize(
    ("phones", "serial", "says"),
    [
        ([], None, "no phone is connected; switch on USB debugging"),
        ([], "R5CT", "there is no phone 'R5CT'; adb lists no phone at all"),
        ([Phone("R5CT")], "192.168.1.7:5555", r"adb lists R5CT \(Pixel_8\); check the number .* or adb connect 192"),
        ([Phone("R5CT"), Phone("HT4C", state="offline")], None, r"R5CT \(Pixel_8\), HT4C \(offline\); choose with"),
        ([Phone("R5CT", state="unauthorized")], None, "accept the key on its screen"),
        ([Phone("R5CT", state="offline")], "R5CT", "connected but doesn't answer"),
        ([Phone("R5CT", state=NO_PERMISSIONS)], None, "may not use the phone R5CT .* udev rules"),
        ([Phone("R5CT", state="recovery")], None, "in the state 'recovery'; start Android"),
    ],
)
def test_a_phone_that_cannot_be_used_is_said_with_what_to_do(
    adb: StandIn, phones: list[Phone], serial: str | None, says: str
) -> None:
    for phone in phones:
        adb.plug(phone)
    with pytest.raises(UserError, match=says) as raised:
        _adb.phone(serial)
    assert "\n" not in str(raised.value)


def test_a_missing_adb_is_said_with_the_line_that_installs_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="sudo apt install adb"):
        _adb.phone()


def test_the_link_arrives_as_it_is(adb: StandIn) -> None:
    links: list[str] = []
    adb.plug(Phone("R5CT", browser=links.append))
    link = "http://localhost:8765/?a=1&b='2';rm%20-rf $HOME`id`#t=to-ken_&x"
    _adb.phone().open(link)
    assert adb.phones[0].opened == [link]
    assert "-p com.android.chrome" in adb.asked[-1]


def test_without_chrome_the_default_browser_takes_the_link_and_without_any_it_is_said(adb: StandIn) -> None:
    phone = adb.plug(Phone("R5CT", packages=(), browser=lambda url: None))
    _adb.phone().open("http://localhost:8765/#t=secret")
    assert phone.opened and "-p" not in adb.asked[-1].split()
    phone.browser = None
    with pytest.raises(UserError, match="no browser on the phone R5CT opened the link .*install Chrome") as raised:
        _adb.phone().open("http://localhost:8765/#t=secret")
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("before", ["0", "3", "null"])
def test_the_setting_that_keeps_it_awake_is_put_back(adb: StandIn, before: str) -> None:
    phone = adb.plug(Phone("R5CT"))
    phone.settings = {} if before == "null" else {_adb.STAY_ON: before}
    was = dict(phone.settings)
    held = _adb.phone()
    assert held.stay_awake() and phone.settings == {_adb.STAY_ON: "7"}
    held.restore()
    assert phone.settings == was


def test_a_maker_that_locks_its_settings_keeps_them(adb: StandIn) -> None:
    phone = adb.plug(Phone("R5CT", settings_locked=True))
    held = _adb.phone()
    assert not held.stay_awake() and phone.settings == {_adb.STAY_ON: "0"}
    held.restore()
    assert not any("settings put global stay_on_while_plugged_in 0" in line for line in adb.asked)


@pytest.fixture(scope="module")
def bundle() -> Path:
    return bundles.exported("smolvlm", "int4")


@pytest.fixture(scope="module")
def suite() -> Suite:
    return load("easy-vqa").take(6)


class PageOnPhone:
    """What a phone's browser does with the link: the same page, each time it is opened, until it was told the end."""

    def __init__(self, phone: Phone, bundle: Path) -> None:
        self.phone, self.student = phone, Student.load(bundle)
        self.page: FakePage | None = None
        self.vanish: Callable[[str, int], bool] = lambda kind, index: False
        phone.browser = self.open

    def open(self, url: str) -> None:
        port = int(url.partition("/#")[0].rpartition(":")[2])
        if self.page is None:
            self.page = FakePage(url, self.student, cores=9, mobile=True, model="made up by the page")
            self.page.http.headers["Host"] = f"localhost:{port}"
            self.page.http.base_url = httpx.URL(f"http://127.0.0.1:{self.phone.ports[port]}")
        self.page.vanish = self.vanish
        while True:
            try:
                if self.page.claim().status_code == 200:
                    self.page.measure(self.page.job())
                    self.page.until(lambda state: state["phase"] == "ended")
                    return
            except httpx.TransportError:  # out of reach
                time.sleep(0.05)
            except Vanished:  # closed here
                return


def on_phone(adb: StandIn, phone: Phone, bundle: Path, suite: Suite, out: Path) -> tuple[PageOnPhone, Host]:
    adb.plug(phone)
    return PageOnPhone(phone, bundle), Host(bundle, suite, out / "results.json", device="adb")


def left_as_it_was(adb: StandIn, phone: Phone) -> bool:
    return phone.settings == {_adb.STAY_ON: "0"} and not adb.reversed_ports(phone)


@pytest.mark.wide
def test_a_phone_is_measured_under_its_own_name_and_left_as_it_was(
    adb: StandIn, bundle: Path, suite: Suite, tmp_path: Path
) -> None:
    phone = Phone("192.168.1.7:5555", battery_level=83, battery_tenths=312)
    page, host = on_phone(adb, phone, bundle, suite, tmp_path)

    def warmer(kind: str, index: int) -> bool:
        phone.battery_level, phone.battery_tenths = 80, 389
        return False

    page.vanish = warmer
    measured = host.measurement()
    device = measured.device
    assert (device.kind, device.address, device.name) == ("adb", "adb:192.168.1.7:5555", "Google Pixel 8")
    assert (device.model, device.cpu, device.os) == ("Pixel 8", "Google Tensor G3", "Android 15 (API 35)")
    assert (device.cores, device.logical_cores, device.ram_mib) == (9, 9, 7569)
    assert device.architecture == "arm64-v8a" and device.browser is not None and device.browser.mobile
    assert measured.python_runtime is not None and measured.python_runtime.equal == measured.python_runtime.asked
    told = measured.conditions
    assert (told.battery_before, told.battery_after) == (83, 80)
    assert (told.celsius_before, told.celsius_after) == (31.2, 38.9)
    assert any("temperature: the battery's" in sentence for sentence in measured.unmeasured)
    assert left_as_it_was(adb, phone)
    assert phone.opened[0].startswith("http://localhost:")


@pytest.mark.wide
def test_a_cable_that_is_pulled_and_put_back_is_mended(
    adb: StandIn, bundle: Path, suite: Suite, tmp_path: Path
) -> None:
    phone = Phone("R5CT")
    page, host = on_phone(adb, phone, bundle, suite, tmp_path)
    pulled = threading.Event()

    def pull(kind: str, index: int) -> bool:
        if kind == "answers" and not pulled.is_set():
            pulled.set()
            adb.unplug(phone)
        return False

    page.vanish = pull
    assert pulled.wait(20), (host.notes, host.result)
    until(lambda: any("isn't reached any more" in note for note in host.notes))
    adb.plug(phone)
    assert host.measurement().accuracy is not None
    assert any("R5CT is connected again" in note for note in host.notes)
    assert len(phone.opened) == 1 and left_as_it_was(adb, phone)


@pytest.mark.wide
def test_a_page_that_was_closed_is_opened_again(
    adb: StandIn, bundle: Path, suite: Suite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adb_device, "REOPEN_S", 1.0)
    phone = Phone("R5CT")
    page, host = on_phone(adb, phone, bundle, suite, tmp_path)

    page.vanish = lambda kind, index: kind == "latency" and len(phone.opened) == 1
    assert host.measurement().accuracy is not None
    assert len(phone.opened) == 2 and any("it is opened again" in note for note in host.notes)


@pytest.mark.wide
def test_a_phone_that_stays_away_is_lost_and_what_could_not_be_put_back_is_said(
    adb: StandIn, bundle: Path, suite: Suite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(desk, "LOST_S", 1.0)
    phone = Phone("R5CT")
    page, host = on_phone(adb, phone, bundle, suite, tmp_path)

    def pull(kind: str, index: int) -> bool:
        if kind == "latency":
            adb.unplug(phone)
        return kind == "latency"

    page.vanish = pull
    lost = host.ended()
    assert isinstance(lost, Lost) and "R5CT isn't connected any more" in str(lost)
    assert any("'Stay awake' off" in note for note in host.notes)
    assert phone.settings == {_adb.STAY_ON: "7"}


@pytest.mark.wide
def test_what_spoils_a_measurement_is_said(adb: StandIn, bundle: Path, suite: Suite, tmp_path: Path) -> None:
    phone = Phone("R5CT", battery_level=12, battery_tenths=437, thermal_status=3)
    page, host = on_phone(adb, phone, bundle, suite, tmp_path)

    def cooler(kind: str, index: int) -> bool:
        phone.battery_tenths = 390
        return False

    page.vanish = cooler
    host.measurement()
    notes = " ".join(host.notes)
    assert "battery is at 44 °C while it charges" in notes and "has 12% of its battery left" in notes
    assert "slows down for heat (severe)" in notes


@pytest.mark.wide
def test_a_locked_phone_is_waited_for(adb: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adb_device, "UNLOCK_S", 0.3)
    notes: list[str] = []
    phone = adb.plug(Phone("R5CT", locked=True, secure=True))

    def behind_the_lock(url: str) -> None:
        until(lambda: any("it is locked: unlock it" in note for note in notes))
        port = int(url.partition("/#")[0].rpartition(":")[2])
        with FakePage(url) as page:
            page.http.headers["Host"] = f"localhost:{port}"
            page.http.base_url = httpx.URL(f"http://127.0.0.1:{phone.ports[port]}")
            assert page.claim().status_code == 200

    phone.browser = behind_the_lock
    with adb_device.connect("adb", Wanted(on_note=notes.append, port=0)) as place:
        assert place.device.name == "Google Pixel 8" and place.usable_threads == 4
    assert left_as_it_was(adb, phone)


def test_what_a_phone_says_is_cut_to_one_printable_line(adb: StandIn) -> None:
    hostile = "\x1b]0;evil\x07Pixel\n[ro.soc.model]: [fake]\u202e" + "x" * 5000
    phone = adb.plug(Phone("R5CT", properties={"ro.product.model": hostile, "ro.product.manufacturer": " \x00 "}))
    told = adb_device.described(_adb.phone())
    assert all(str(value).isprintable() and len(str(value)) <= 80 for value in told.values())
    assert told["name"].startswith("]0;evil Pixel [ro.soc") and "cpu" not in told
    phone.properties = {
        "ro.product.manufacturer": "samsung",
        "ro.product.model": "SM-S918B",
        "ro.board.platform": "kalama",
    }
    told = adb_device.described(_adb.phone())
    assert (told["name"], told["cpu"]) == ("Samsung SM-S918B", "kalama") and "os" not in told


# A test run in the background ignores SIGINT, and so do its children.
_WAITING = """
import signal, time
signal.signal(signal.SIGINT, signal.default_int_handler)
from masters_edge.benchmarks.devices import Wanted, adb
with adb.connect("adb:R5CT", Wanted(port=0)):
    time.sleep(60)
"""


@pytest.mark.wide
def test_ctrl_c_leaves_the_phone_as_it_was(adb: StandIn) -> None:
    phone = adb.plug(Phone("R5CT", browser=lambda url: None))
    with subprocess.Popen([sys.executable, "-c", _WAITING], stderr=subprocess.DEVNULL) as process:
        try:
            until(lambda: phone.opened)
            assert phone.settings == {_adb.STAY_ON: "7"} and adb.reversed_ports(phone)
            process.send_signal(signal.SIGINT)
            process.wait(20)
        finally:
            process.kill()
    assert left_as_it_was(adb, phone)


@pytest.mark.wide
@needs_browser
def test_a_real_browser_on_the_phone_measures_though_the_cable_is_pulled(adb: StandIn, tmp_path: Path) -> None:
    phone = Phone("R5CT")
    ended = threading.Event()

    def open_in_chromium(url: str) -> None:
        port = int(url.partition("/#")[0].rpartition(":")[2])
        rules = f"MAP localhost:{port} 127.0.0.1:{phone.ports[port]}, MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"
        # Else Chromium counts a page's memory when it collects garbage the next time, up to 20 s later.
        at_once = "--enable-blink-features=ForceEagerMeasureMemory"
        with chromium(f"--host-resolver-rules={rules}", at_once) as browser:
            browser.view(PHONE)
            browser.driver.get(url)
            ended.wait(120)

    phone.browser = open_in_chromium
    adb.plug(phone)
    try:
        run = benched(tmp_path, load("easy-vqa").take(3), latency_questions=2, device="adb")
        until(lambda: "start" in run.phases(), 60)
        adb.unplug(phone)
        until(lambda: any("isn't reached any more" in note for note in run.notes))
        adb.plug(phone)
        measured = run.measurement()
    finally:
        ended.set()
    assert measured.device.browser is not None and measured.device.browser.secure_context
    assert measured.device.browser.isolated and measured.device.cpu == "Google Tensor G3"
    assert measured.python_runtime is not None and measured.python_runtime.inputs_equal == 3
    assert measured.conditions.battery_after == 83 and left_as_it_was(adb, phone)
    assert len(phone.opened) == 1


def until(true: Callable[[], Any], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)
