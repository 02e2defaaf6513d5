"""Where the host that measures and the page that does the work meet; safe to call from any thread.

The host (`devices/browser.py`) waits for a device to claim the link, hands out one job after the other and blocks until
each is done. The page's side (`app.py`) claims, asks for the state, and hands in progress and raw rows. The token lets
one device in, once; from then on that device has a cookie.
"""

import hmac
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from masters_edge.benchmarks.devices import Lost, OnEvent
from masters_edge.benchmarks.page import messages
from masters_edge.benchmarks.page.handout import Handout
from masters_edge.benchmarks.page.record import Record
from masters_edge.common.errors import UserError
from masters_edge.serve.refusals import Refused

SILENT_S = 20.0  # without a word from the page, and the person at the terminal is told
LOST_S = 300.0
FAREWELL_S = 3.0  # for the page to hear that all is over
LOOK_S = 0.25  # how often the waiting host looks up, for Ctrl-C's sake too
MANY_WRONG = 20  # wrong tokens, and the person at the terminal is told
_KEPT_EVENTS = 1000

OnNote = Callable[[str], None]


class Desk:
    """`phase`: waiting for the first job, measuring, finished (between two jobs), ended."""

    def __init__(self, on_note: OnNote | None = None) -> None:
        self.token = secrets.token_urlsafe(16)
        self.facts: messages.Facts | None = None  # of the device that claimed the link
        self.device_name: str | None = None
        self._note = on_note or (lambda text: None)
        self._changed = threading.Condition()
        self._listeners: set[Callable[[], object]] = set()
        self._cookie: str | None = None
        self._n, self._phase, self._message = 1, "waiting", ""
        self._record: Record | None = None
        self._given: dict[str, Record] = {}  # by job
        self._cards: dict[str, messages.Card] = {}
        self._events: deque[dict[str, Any]] = deque(maxlen=_KEPT_EVENTS)
        self._outcome: UserError | None = None
        self._stopped = False
        self._heard_at = time.monotonic()
        self._farewell = False
        self.closed = False  # nobody waits for a change any more
        self._wrong = 0

    # The host's side

    def wait_for_claim(self) -> messages.Facts:
        """Until a device has opened the link."""
        with self._changed:
            while self.facts is None:
                self._changed.wait(LOOK_S)
            return self.facts

    def measure(self, record: Record, on_event: OnEvent) -> None:
        """Have the page do this job, until raw/done.json is there. `on_event` is called in this thread.

        Raises:
            UserError: it was stopped on the device, or the page can't measure this bundle.
            Lost: the page was not heard of for `LOST_S`.
        """
        name = record.handout.name
        if self._stopped:
            raise UserError(f"{name} was not measured: measuring was stopped on the device")
        with self._changed:
            self._record, self._outcome, self._heard_at = record, None, time.monotonic()
            self._given[record.handout.id] = record
            self._message = ""
            self._events.clear()
            self._say("measuring")
        silent = False
        try:
            while not record.whole:
                with self._changed:
                    if not self._events and self._outcome is None and not record.whole:
                        self._changed.wait(LOOK_S)
                    events, outcome = list(self._events), self._outcome
                    self._events.clear()
                for event in events:
                    on_event(event)
                if outcome is not None:
                    raise outcome
                silent = self._listen(silent, name)
            while self._events:
                on_event(self._events.popleft())
        finally:
            with self._changed:
                self._record = None
                self._say("finished")

    def show(self, card: messages.Card) -> None:
        """A finished job's card, or what is known better of it by now."""
        with self._changed:
            self._cards[card.name] = card
            self._say(self._phase)

    def say(self, message: str) -> None:
        """A sentence that the page shows."""
        with self._changed:
            self._message = message
            self._say(self._phase)

    def end(self, message: str = "") -> None:
        """No more jobs. Waits a moment for the page to hear of it."""
        with self._changed:
            self._message = message or self._message
            self._say("ended")
            until = time.monotonic() + FAREWELL_S
            there = self._cookie is not None and self.silent_s < SILENT_S
            while there and not self._farewell and time.monotonic() < until:
                self._changed.wait(LOOK_S)

    def close(self) -> None:
        """Let go of whoever waits for a change: the server ends."""
        with self._changed:
            self.closed = True
            self._say(self._phase)

    @property
    def silent_s(self) -> float:
        """Seconds since the page was last heard of."""
        return time.monotonic() - self._heard_at

    def _listen(self, silent: bool, name: str) -> bool:
        """Whether the page is silent; the person is told when that changes."""
        since = self.silent_s
        if since > LOST_S:
            raise Lost(
                f"measuring {name} stopped: nothing was heard of the page for {LOST_S:.0f} s; "
                "what it measured is kept, run the same command again"
            )
        if since > SILENT_S and not silent:
            self._note("the page was closed or its device is out of reach; open the link again on the same device")
        if since <= SILENT_S and silent:
            self._note("the page is back")
        return since > SILENT_S

    # The page's side

    def claim(self, token: str | None, cookie: str | None, facts: messages.Facts) -> str:
        """The cookie of the device that may stay: the first with the token, and that one again. Raises Refused."""
        with self._changed:
            if self._is_ours(cookie):
                self._heard_at = time.monotonic()
                assert self._cookie is not None
                return self._cookie
            if token is None or not hmac.compare_digest(token.encode(), self.token.encode()):
                self._wrong += 1
                if self._wrong == MANY_WRONG:
                    self._note(f"somebody tried {MANY_WRONG} wrong links; none of them was let in")
                raise Refused(403, "this link is not valid; open the one that the terminal shows now")
            if self._cookie is not None:
                raise Refused(
                    409,
                    "this link was opened on another device already; to measure on this one, stop the command in the "
                    "terminal, run it again, and open its new link here",
                )
            self._cookie = secrets.token_urlsafe(32)
            self.facts, self._heard_at = facts, time.monotonic()
            self._say(self._phase)
            return self._cookie

    def let_in(self, cookie: str | None) -> None:
        """Hear a request of the device that claimed the link; refuse any other."""
        with self._changed:
            if not self._is_ours(cookie):
                raise Refused(401, "this page was not opened by the link; open the link that the terminal shows")
            self._heard_at = time.monotonic()

    def state(self) -> dict[str, Any]:
        """What the page shows; `n` grows with every change."""
        with self._changed:
            record = self._record
            found = {"n": self._n, "phase": self._phase, "cards": [card.model_dump() for card in self._cards.values()]}
            if self._message:
                found["message"] = self._message
        if record is not None:
            found["job"] = record.handout.job(record.done()).model_dump()
        return found

    def said_farewell(self) -> None:
        """The page has heard that all is over."""
        with self._changed:
            self._farewell = True
            self._changed.notify_all()

    def record(self, job: str) -> Record:
        """A job that is being measured, or is whole: its last rows may come twice. Raises Refused for any other."""
        with self._changed:
            found = self._given.get(job)
            if found is None or not (found is self._record or found.whole):
                raise Refused(409, "that job is over, or was never given; ask for the state of things")
            return found

    def handout(self, sha256: str) -> Handout | None:
        """A bundle that was given out."""
        with self._changed:
            found = (record.handout for record in self._given.values())
            return next((handout for handout in found if handout.sha256 == sha256), None)

    def progress(self, sent: messages.Progress) -> None:
        record = self.record(sent.job)
        record.hear_hidden(sent.hidden_s)
        if sent.phase == "accuracy":  # what was scored, not what the page has yet to send
            self._count_answers(record)
            return
        unit = 1e6 if sent.phase == "download" else 1.0  # people read MB, not bytes
        done, total = sent.done / unit, (sent.total or 1.0) / unit
        self._put({"event": "progress", "phase": sent.phase, "done": done, "total": total, "right": None})

    def take(self, sent: Any) -> dict[str, Any]:
        """Raw rows (`messages.Raw`); answers with what is there now."""
        record = self.record(sent.job)
        before = record.right[1]
        found = record.take(sent)
        if record.right[1] > before:
            self._count_answers(record)
        with self._changed:
            self._changed.notify_all()
        return found

    def stop(self, job: str) -> None:
        """The person pressed stop."""
        name = self.record(job).handout.name
        self._stopped = True
        self._fail(UserError(f"measuring {name} was stopped on the device; run the same command again to go on"))

    def fail(self, job: str, message: str) -> None:
        """The page can't measure this bundle."""
        name = self.record(job).handout.name
        self._fail(UserError(f"measuring {name} in the browser stopped: {message}"))

    @contextmanager
    def listening(self, on_change: Callable[[], object]) -> Iterator[None]:
        """`on_change` is called from any thread whenever `n` grows."""
        with self._changed:
            self._listeners.add(on_change)
        try:
            yield
        finally:
            with self._changed:
                self._listeners.discard(on_change)

    def _fail(self, outcome: UserError) -> None:
        with self._changed:
            self._outcome = self._outcome or outcome
            self._changed.notify_all()

    def _count_answers(self, record: Record) -> None:
        (right, asked), total = record.right, len(record.handout.questions)
        self._put({"event": "progress", "phase": "accuracy", "done": asked, "total": total, "right": right})

    def _put(self, event: dict[str, Any]) -> None:
        with self._changed:
            self._events.append(event)
            self._changed.notify_all()

    def _say(self, phase: str) -> None:
        """With the lock held: something changed."""
        self._n, self._phase = self._n + 1, phase
        self._changed.notify_all()
        for listener in self._listeners:
            listener()

    def _is_ours(self, cookie: str | None) -> bool:
        if cookie is None or self._cookie is None:
            return False
        return hmac.compare_digest(cookie.encode("utf-8", "replace"), self._cookie.encode())
