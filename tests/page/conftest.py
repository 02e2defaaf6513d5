"""`bench --device browser` in a thread, waiting for a real browser to open its link."""

import functools
import json
import re
import shutil
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from masters_edge.benchmarks.measure import Settings, Subject, bench
from masters_edge.benchmarks.progress import Step
from masters_edge.benchmarks.results import Measurement, Results
from masters_edge.benchmarks.suites import Suite, load
from masters_edge.export import export_student
from tests import shared
from tests.export import bundles
from tests.page.driver import Browser, chromium

ANSWER_S = 120.0
EAGER = "--enable-blink-features=ForceEagerMeasureMemory"  # memory is told at once, not after a garbage collection
DEMO_STUDENT = Path(__file__).parents[2] / "recipes" / "demo" / "student"


class Bench:
    """One run of `bench`: what it said, where it was, what came of it."""

    def __init__(
        self, subjects: Sequence[Subject], suite: Suite | None, out: Path, device: str = "browser:test", **settings: Any
    ) -> None:
        self.notes: list[str] = []
        self.steps: list[Step] = []
        self.results: Results | None = None
        self.error: BaseException | None = None
        self.out = out
        self._linked = threading.Event()
        wanted = Settings(**{"port": 0} | settings)

        def run() -> None:
            try:
                self.results = bench(
                    subjects,
                    suite,
                    wanted,
                    device=device,
                    out=out,
                    on_note=self._note,
                    on_progress=self.steps.append,
                )
            except BaseException as error:  # looked at by the test
                self.error = error
            finally:
                self._linked.set()

        self._thread = threading.Thread(target=run, daemon=True)
        self._thread.start()

    def _note(self, text: str) -> None:
        self.notes.append(text)
        if "#t=" in text:
            self._linked.set()

    @property
    def link(self) -> str:
        assert self._linked.wait(60), self.notes
        found = re.search(r"https?://\S+#t=\S+", "\n".join(self.notes))
        assert found, (self.notes, self.error)
        return found[0]

    @property
    def origin(self) -> str:
        return self.link.partition("/#")[0]

    def end(self, seconds: float = ANSWER_S) -> "Bench":
        """Wait for it."""
        self._thread.join(seconds)
        assert not self._thread.is_alive(), (self.notes, self.steps[-1:])
        return self

    def measurement(self, name: str = "int4") -> Measurement:
        """What came of it. Raises what it ended with, if it did."""
        self.end()
        if self.error is not None:
            raise self.error
        assert self.results is not None
        return next(one for one in self.results.measurements if one.name == name)

    def phases(self) -> list[str]:
        """In order, each once."""
        return list(dict.fromkeys(step.phase for step in self.steps))


@functools.lru_cache
def int4() -> Path:
    """The demo's student before it is distilled, in int4. It has learnt to answer: a student of random weights says
    other things in a browser, where it likes two tokens equally well and int4 is rounded otherwise."""
    export = functools.partial(export_student, DEMO_STUDENT, target="onnx", scheme="int4", samples=bundles.samples(1))
    return shared.once("demo-int4", lambda out: export(out=out))


def made_later(bundle: Path) -> Path:
    """The same student in a bundle of another day, and so with another fingerprint."""
    out = bundle.with_name(f"{bundle.name}-later")
    if not out.exists():
        shutil.copytree(bundle, out)
        manifest = json.loads((out / "manifest.json").read_text())
        (out / "manifest.json").write_text(json.dumps(manifest | {"created": "2030-01-01T00:00:00+00:00"}))
    return out


def benched(out: Path, suite: Suite | None = None, **options: Any) -> Bench:
    """A run of few questions on the int4 student."""
    given: dict[str, Any] = {"latency_questions": 4, "cases": False, "threads": 1, "backend": "wasm"} | options
    subjects = given.pop("subjects", None) or [Subject("int4", "exported", int4())]
    return Bench(subjects, suite or load("easy-vqa").take(12), out / "results.json", **given)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium(EAGER) as started:
        yield started


@contextmanager
def opened(browser: Browser, run: Bench) -> Iterator[Bench]:
    """The link open in the browser; afterwards nothing of it is left there."""
    browser.requests(), browser.complaints()
    browser.driver.get(run.link)
    try:
        yield run
    finally:
        browser.offline(False)
        browser.driver.get("about:blank")
        browser.command("Storage.clearDataForOrigin", {"origin": run.origin, "storageTypes": "all"})
        browser.driver.delete_all_cookies()
