"""An Android phone on a cable: adb, or adb:SERIAL where there are several. Its own browser measures; nothing is
installed.

Connecting wakes the phone, lends it a port of this machine (`adb reverse`), and opens the page there as localhost: a
secure context without a certificate, so that threads, WebGPU and the camera work. What the phone is, its battery and
its temperature come from adb, everything else from the page (`browser.py`). A cable that was pulled and put back is
mended; at the end the phone's settings are as they were.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from masters_edge.benchmarks import job as jobs
from masters_edge.benchmarks.devices import Lost, OnEvent, Place, Wanted, _adb
from masters_edge.benchmarks.devices.browser import PEERS, Browser, describe, ending
from masters_edge.benchmarks.page.desk import Desk
from masters_edge.benchmarks.page.link import origin
from masters_edge.benchmarks.page.record import add_conditions
from masters_edge.benchmarks.page.server import serving
from masters_edge.benchmarks.protocol import Subject
from masters_edge.benchmarks.results import Device
from masters_edge.common.errors import UserError

__all__ = ["PEERS", "connect"]

HOT_CELSIUS, LOW_PER_CENT = 40.0, 20.0  # of the battery; beyond them phones slow down by themselves
LOOK_S = 2.0  # between two looks at the cable
REOPEN_S = 30.0  # a page that isn't heard of this long, though the way is free, is opened anew
UNLOCK_S = 8.0  # a page that doesn't come this long: the phone is locked, or its browser asks something
LOST_S = 300.0  # a page that never comes
NOT_TOLD = (
    "energy: a phone's own meter counts all that it does",
    "peak memory: a browser doesn't tell it",
    "temperature: the battery's, the only one that every phone tells adb",
    "clock: it moves all the time, and a page can't follow it",
)

OnNote = Callable[[str], None]
Answer = TypeVar("Answer")


class OnCable(Browser):
    """A `Place`: a phone's browser, with battery and temperature before and after each measuring from adb."""

    not_told = NOT_TOLD
    phone: _adb.Phone

    def run(self, job: Path, subject: Subject, sha256: str, on_event: OnEvent) -> None:
        raw = job / jobs.RAW
        raw.mkdir(exist_ok=True)
        battery, begun = self._look(), jobs.read_json(raw / jobs.CONDITIONS) or {}
        if "battery_before" not in begun:  # else this try goes on from an earlier one
            add_conditions(raw, battery_before=battery.per_cent, celsius_before=battery.celsius)
        try:
            super().run(job, subject, sha256, on_event)
        except Lost:
            if _quietly(self.phone.listed) is not None:
                raise
            raise Lost(
                f"measuring {subject.name} stopped: the phone {self.phone.serial} isn't connected any more; what it "
                "measured is kept, so plug it in and run the same command again"
            ) from None
        battery = self._look()
        add_conditions(raw, battery_after=battery.per_cent, celsius_after=battery.celsius)

    def _look(self) -> _adb.Battery:
        """The battery now; what of it spoils a measurement is said."""
        battery, throttling = _quietly(self.phone.battery) or _adb.Battery(), _quietly(self.phone.throttling)
        name, celsius, per_cent = self.device.name, battery.celsius, battery.per_cent
        if celsius is not None and celsius > HOT_CELSIUS:
            charging = " while it charges" if battery.charging else ""
            self.wanted.note(f"{name}'s battery is at {celsius:.0f} °C{charging}, and a hot phone slows down; cool it")
        elif throttling is not None:
            self.wanted.note(f"{name} says that it slows down for heat ({throttling}); cool it")
        if per_cent is not None and per_cent < LOW_PER_CENT:
            self.wanted.note(f"{name} has {per_cent:.0f}% of its battery left, and may slow down to save it; charge it")
        return battery


@contextmanager
def connect(address: str, wanted: Wanted) -> Iterator[Place]:
    """A phone whose browser has opened the page.

    Raises:
        UserError: in one sentence, whatever keeps it from that.
    """
    phone = _adb.phone(address.partition(":")[2] or None)
    address = f"adb:{phone.serial}"
    told = described(phone)
    with (
        serving(told["name"], replace(wanted, lan=False)) as (desk, link),
        _awake(phone, wanted.note),
        _lent(phone, link.port),
    ):
        url = link.at(origin("http", "localhost", link.port))
        phone.open(url)
        with Watch(phone, desk, link.port, url, wanted.note):
            _wait(phone, desk, address, wanted)
            assert desk.facts is not None
            page = describe(desk.facts, "adb", address, told["name"])
            device = Device(**page.model_dump(exclude={"browser"}) | told, browser=page.browser)
            place = OnCable(desk, device, desk.facts, wanted)
            place.phone = phone
            wanted.step(address, "the page was opened", 1)
            wanted.note(f"{device.name} ({device.cpu}, {device.os}) opened the page")
            with ending(desk):
                yield place


def described(phone: _adb.Phone) -> dict[str, Any]:
    """The fields of `results.Device` that the phone tells adb."""
    properties = phone.properties()

    def told(*names: str) -> str | None:
        return next((found for name in names if (found := properties.get(name, ""))), None)

    maker, model = told("ro.product.manufacturer", "ro.product.brand"), told("ro.product.model", "ro.product.name")
    maker = maker[:1].upper() + maker[1:] if maker else None  # "samsung"
    # Android 12 names the chip; before, the board's platform is the nearest thing to it.
    chip_maker, chip = told("ro.soc.manufacturer"), told("ro.soc.model")
    if chip is None:
        chip_maker, chip = None, told("ro.board.platform", "ro.hardware")
    api = f" (API {properties['ro.build.version.sdk']})" if told("ro.build.version.sdk") else ""
    release = told("ro.build.version.release")
    fields = {
        "name": _joined(maker, model) or f"Android phone {phone.serial}",
        "model": model,
        "cpu": _joined(chip_maker, chip),
        "cores": phone.cores(),
        "ram_mib": phone.ram_mib(),
        "os": f"Android {release}{api}" if release else None,
        "architecture": told("ro.product.cpu.abi"),
    }
    fields["logical_cores"] = fields["cores"]
    return {name: value for name, value in fields.items() if value is not None}


class Watch:
    """Watches the cable: lends the port anew when the phone is back, and opens a page that stays away."""

    def __init__(self, phone: _adb.Phone, desk: Desk, port: int, url: str, note: OnNote) -> None:
        self.phone, self.desk, self.port, self.url, self.note = phone, desk, port, url, note
        listed = _quietly(phone.listed)
        self.transport = listed.transport if listed else None
        self.free_since: float | None = time.monotonic()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch over the cable", daemon=True)

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join(5)  # adb may hang

    def _run(self) -> None:
        while not self._ended.wait(LOOK_S):
            _quietly(self._look)  # a phone that goes while it is looked at is found missing the next time

    def _look(self) -> None:
        listed, now = self.phone.listed(), time.monotonic()
        if listed is None or not listed.ready:
            if self.free_since is not None:
                state = f" ({listed.state.partition(' (')[0]})" if listed else ""
                self.note(f"the phone {self.phone.serial} isn't reached any more{state}; plug it in again")
            self.free_since = None
        elif self.free_since is None or listed.transport != self.transport:
            self.phone.reverse(self.port)
            self.transport, self.free_since = listed.transport, now
            self.note(f"the phone {self.phone.serial} is connected again")
        elif self.desk.facts is not None and min(self.desk.silent_s, now - self.free_since) > REOPEN_S:
            self.free_since = now  # until the next try
            self.note(f"nothing is heard of the page on the phone {self.phone.serial}; it is opened again")
            self.phone.reverse(self.port)  # another program may have taken it away
            self.phone.wake()
            self.phone.open(self.url)


def _wait(phone: _adb.Phone, desk: Desk, address: str, wanted: Wanted) -> None:
    """Until the page has come. Raises UserError where it doesn't."""
    wanted.step(address, "waiting for the page to open")
    begun, said = time.monotonic(), False
    while desk.facts is None:
        time.sleep(0.1)
        waited = time.monotonic() - begun
        if waited > UNLOCK_S and not said:
            said = True
            why = "it is locked: unlock it" if _quietly(phone.locked) else "look at it, its browser may ask something"
            wanted.note(f"the page hasn't opened on the phone {phone.serial} yet; {why}")
        if waited > LOST_S:
            raise UserError(
                f"the page did not open on the phone {phone.serial} within {LOST_S:.0f} s; unlock it, see that its "
                "browser opens links, and try again"
            )


@contextmanager
def _awake(phone: _adb.Phone, note: OnNote) -> Iterator[None]:
    """The screen is on and stays on; afterwards the setting is as it was."""
    try:
        phone.stay_awake()
        phone.wake()
        yield
    finally:
        try:
            phone.restore()
        except UserError:
            note(
                f"the phone {phone.serial} is gone with its screen still set to stay on while it charges; switch "
                "'Stay awake' off under its developer options"
            )


@contextmanager
def _lent(phone: _adb.Phone, port: int) -> Iterator[None]:
    """The phone's localhost:port is ours, until the end."""
    try:
        phone.reverse(port)
        yield
    finally:
        _quietly(lambda: phone.unreverse(port))  # a phone that is gone has forgotten it


def _quietly(ask: Callable[[], Answer]) -> Answer | None:
    """The answer; None where the phone can't be asked now, which the watch says."""
    try:
        return ask()
    except UserError:
        return None


def _joined(maker: str | None, what: str | None) -> str | None:
    """ "Google Pixel 8", and "OnePlus Nord" where the maker stands in the name already."""
    if maker is None or what is None or what.lower().startswith(maker.lower()):
        return what or maker
    return f"{maker} {what}"
