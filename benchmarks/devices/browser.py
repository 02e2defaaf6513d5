"""Any phone, tablet or computer by its browser, nothing installed: browser[:NAME].

A page is served, a link with a one-time token printed; the device that opens it runs each bundle itself, by the same
protocol as every other device, and sends its raw rows here, where they are scored. NAME is what the device is called.
"""

import dataclasses
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from masters_edge.benchmarks import machine, results
from masters_edge.benchmarks.devices import OnEvent, Place, Wanted
from masters_edge.benchmarks.page import assets, messages, record
from masters_edge.benchmarks.page.compare import same_as_python
from masters_edge.benchmarks.page.desk import Desk
from masters_edge.benchmarks.page.handout import Handout
from masters_edge.benchmarks.page.record import Record
from masters_edge.benchmarks.page.server import serving
from masters_edge.benchmarks.peers import in_browser
from masters_edge.benchmarks.protocol import Subject
from masters_edge.benchmarks.results import Device
from masters_edge.common.display import say
from masters_edge.common.errors import UserError
from masters_edge.common.plain import line

PEERS = {"bundle": "masters_edge.benchmarks.peers.in_browser"}
MOST_THREADS = 4  # what onnxruntime-web takes by itself
NOT_TOLD = "not told by the browser"
WAITING = "waiting for a device to open the link"


class Browser:
    """A `Place` behind a link. `facts` is what the browser said, `device` what that makes of it.

    `not_told`: what such a device can't tell, a sentence each, for every result.
    """

    not_told: tuple[str, ...] = record.NOT_TOLD

    def __init__(self, desk: Desk, device: Device, facts: messages.Facts, wanted: Wanted) -> None:
        self.desk, self.device, self.facts, self.wanted = desk, device, facts, wanted
        cores = device.logical_cores
        self.most_threads: int | None = None if facts.isolated else 1
        self.usable_threads = cores if cores <= 2 else min(MOST_THREADS, math.ceil(cores / 2))
        self.notes: tuple[str, ...] = ()
        if not facts.isolated:
            self.usable_threads = 1
            why = "it needs HTTPS or localhost" if not facts.secure_context else "its browser doesn't isolate the page"
            self.notes = (f"{device.name}: one thread alone, since {why}",)

    def versions(self, *packages: str) -> dict[str, str]:
        """Ours, npm's by their names there, and of onnxruntime-web's backends those that this browser has."""
        served = assets.versions()
        backends = in_browser.BACKENDS if self.facts.webgpu is not None else ("wasm",)
        known = machine.versions("masters-edge") | served | dict.fromkeys(backends, served["onnxruntime-web"])
        return {name: known[name] for name in packages if name in known}

    def run(self, job: Path, subject: Subject, sha256: str, on_event: OnEvent) -> None:
        in_browser.check(subject.place)
        handout = Handout(job, Path(subject.place), subject.name, sha256)
        if handout.asked["backend"] == "webgpu" and self.facts.webgpu is None:
            raise UserError(f"{self.device.name} has no WebGPU to run {subject.name} with; measure it with wasm")
        rows = Record(handout, self.device, self.not_told)
        try:
            self.desk.measure(rows, on_event)
        except UserError as error:
            self.desk.say(str(error))
            raise
        self.desk.show(card := rows.card())
        if unpacks_at_every_token(card):
            self.wanted.note(
                f"{subject.name}: WASM unpacks its {card.scheme} weights at every token; exported with --target "
                "onnx_portable they are unpacked once, which decodes faster the larger the student is"
            )
        self.desk.say(f"The computer compares the answers of {subject.name} with those of its own runtime.")

        def compared(done: int, total: int) -> None:
            on_event({"event": "progress", "phase": "comparing", "done": done, "total": total, "right": None})

        try:
            same_as_python(handout, compared)
        except UserError as error:
            self.wanted.note(f"{subject.name}: its answers were not compared with those of the Python runtime: {error}")
        self.desk.show(rows.card())
        self.desk.say("")


def unpacks_at_every_token(card: messages.Card) -> bool:
    """WASM has no kernels for MatMulNBits, which holds the quantized weights of the `onnx` target."""
    return card.runtime == "wasm" and card.target == "onnx" and not card.scheme.startswith("fp")


@contextmanager
def connect(address: str, wanted: Wanted) -> Iterator[Place]:
    """A browser that has opened the link.

    Raises:
        UserError: in one sentence, whatever keeps the server from being reached.
    """
    name = name_of(address)
    if wanted.on_note is None:  # without the link nobody can go on
        wanted = dataclasses.replace(wanted, on_note=say)
    with serving(name, wanted) as (desk, link):
        for note in link.said():
            wanted.note(note)
        wanted.step(address, WAITING)
        facts = desk.wait_for_claim()
        device = describe(facts, "browser", address, name)
        desk.device_name = device.name
        wanted.note(f"{device.name} opened the link ({device.browser.user_agent if device.browser else ''})")
        wanted.step(address, "the link was opened", 1)
        with ending(desk):
            yield Browser(desk, device, facts, wanted)


@contextmanager
def ending(desk: Desk) -> Iterator[None]:
    """Tell the page when all is over, and why."""
    try:
        yield
    except KeyboardInterrupt:
        desk.end("Measuring was stopped at the computer.")
        raise
    except UserError as error:
        desk.end(f"Measuring ended: {error}")
        raise
    except BaseException:
        desk.end("Measuring ended at the computer; look at its terminal.")
        raise
    desk.end()


def name_of(address: str) -> str | None:
    """NAME of browser:NAME."""
    kind, colon, name = address.partition(":")
    if colon and not line(name):
        raise UserError(f"{address!r} has no name behind the colon; write {kind}, or {kind}:NAME")
    return line(name)[:100] or None


def describe(facts: messages.Facts, kind: str, address: str, name: str | None = None) -> Device:
    """The device as its browser tells of itself: a claim, which nothing here can check."""
    agent = facts.user_agent
    brands = tuple(f"{one.brand} {one.version}" for one in facts.brands)
    adapter = facts.webgpu
    words = [adapter.vendor, adapter.architecture, adapter.device, adapter.description] if adapter else []
    model = facts.model or (found[0] if (found := re.search(r"iPhone|iPad", agent)) else None)
    cores = facts.cores or 1
    system = _system(facts)
    browser = results.Browser(
        user_agent=agent,
        brands=brands,
        platform=facts.platform,
        platform_version=facts.platform_version,
        mobile=facts.mobile,
        memory_gib=facts.memory_gib,
        webgpu=(" ".join(dict.fromkeys(word for word in words if word)) or "not named") if adapter else None,
        secure_context=facts.secure_context,
        isolated=facts.isolated,
        screen=facts.screen,
    )
    called = browser.name[0] if system == NOT_TOLD else f"{browser.name[0]} on {re.sub(r' [0-9.]+$', '', system)}"
    return Device(
        kind=kind,
        address=address,
        name=name or model or called,
        model=model,
        cpu=facts.architecture or "not told by the browser",
        cores=cores,
        logical_cores=cores,
        os=system,
        architecture=facts.architecture or "not told by the browser",
        browser=browser,
    )


def _system(facts: messages.Facts) -> str:
    """ "Android 15", "iOS 18.2", "Windows 11"; a version only where it is true: user agents stopped telling most."""
    if facts.platform:
        version = (facts.platform_version or "").removesuffix(".0").removesuffix(".0")
        if facts.platform == "Windows" and version:
            version = "11" if int(re.match(r"\d*", version)[0] or 0) >= 13 else "10"  # type: ignore[index]
        return f"{facts.platform} {version}".strip()
    agent = facts.user_agent
    if found := re.search(r"(?:iPhone OS|CPU OS) (\d+)[_.](\d+)", agent):
        return f"iOS {found[1]}.{found[2]}"
    for mark, name in (
        ("Android", "Android"),
        ("CrOS", "ChromeOS"),
        ("Mac OS X|Macintosh", "macOS"),
        ("Windows", "Windows"),
        ("Linux|X11", "Linux"),
    ):
        if re.search(mark, agent):
            return name
    return NOT_TOLD
