"""One question at a time: a thread that owns the student, and a bounded line of questions in front of it.

Whatever a question makes the student raise, panics of native libraries too (which are no `Exception`), fails that
question alone: the thread goes on. `troubled` says what keeps it from answering.

`QuestionQueue.take` puts a question in line; its `PendingAnswer` hears the answer's pieces on the event loop, and
ends it when whoever asked has gone.
"""

import asyncio
import logging
import threading
import time
from collections import deque

from masters_edge.common.errors import UserError
from masters_edge.common.plain import line
from masters_edge.runtime import Answer, Student
from masters_edge.serve import pictures
from masters_edge.serve.refusals import Refused
from masters_edge.serve.requests import Asked

MAX_WAITING = 64  # questions in line; lmms-eval asks 32 at once
ANSWER_S = 600.0  # from taking a question to its whole answer; OpenAI's clients wait as long

_STOPPING = "the server is being stopped"
_log = logging.getLogger("masters_edge.serve")


class PendingAnswer:
    """A question in line or being answered. Made and awaited on the event loop, answered in the queue's thread."""

    def __init__(self, asked: Asked) -> None:
        self.asked = asked
        self._cancelled = threading.Event()
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[str | Answer | Refused] = asyncio.Queue()
        self._until = time.monotonic() + ANSWER_S

    async def next(self) -> str | Answer:
        """The answer's next piece, or at its end the whole of it; raises Refused where there is none."""
        try:
            event = await asyncio.wait_for(self._events.get(), max(0.0, self._until - time.monotonic()))
        except asyncio.TimeoutError:
            self.cancel()
            raise Refused(503, f"no answer within {ANSWER_S:.0f} s; ask again, or ask for fewer tokens") from None
        if isinstance(event, Refused):
            raise event
        return event

    def cancel(self) -> None:
        """Nobody waits for the answer any more."""
        self._cancelled.set()

    @property
    def cancelled(self) -> bool:
        return self._cancelled.is_set()

    def put(self, event: str | Answer | Refused) -> None:
        """From any thread, to whoever awaits `next`."""
        try:
            self._loop.call_soon_threadsafe(self._events.put_nowait, event)
        except RuntimeError:  # the loop is closed: the server has stopped meanwhile
            self.cancel()

    def say(self, piece: str) -> None:
        """A piece of the answer, as the student finds it; raises `_Gone` where nobody listens, which ends it."""
        if self.cancelled:
            raise _Gone
        self.put(piece)


class _Gone(Exception):
    """Whoever asked is no longer there."""


class QuestionQueue:
    """Owns the student, which is not safe to share between threads."""

    def __init__(self, student: Student, max_waiting: int = MAX_WAITING) -> None:
        self._student, self._max_waiting = student, max_waiting
        self._line: deque[PendingAnswer] = deque()
        self._current: PendingAnswer | None = None
        self._since = 0.0  # when it was taken up
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._live, name="student", daemon=True)
        self._thread.start()

    def take(self, asked: Asked) -> PendingAnswer:
        """Put a question in line.

        Raises Refused: the student can't read it (400), or the line is full, or isn't served (503).
        """
        try:
            self._student.check_question(asked.question)
        except UserError as error:
            raise Refused(400, str(error)) from None
        if trouble := self.troubled():
            raise Refused(503, trouble)
        pending = PendingAnswer(asked)
        with self._changed:
            self._line = deque(waiting for waiting in self._line if not waiting.cancelled)
            if self._closed:
                raise _stopping()
            if len(self._line) >= self._max_waiting:
                raise Refused(503, f"{self._max_waiting} questions are waiting already; ask again in a moment")
            self._line.append(pending)
            self._changed.notify()
        return pending

    def troubled(self) -> str | None:
        """What keeps the student from answering, as a sentence; None where it answers."""
        with self._changed:
            if self._closed:
                return _STOPPING
            if self._current is not None and (busy_s := time.monotonic() - self._since) > ANSWER_S:
                return f"the student has been at one question for {busy_s:.0f} s and doesn't come back; start it again"
        return None if self._thread.is_alive() else "the student's thread has ended; start the server again"

    def close(self, wait_s: float = 10.0) -> bool:
        """Refuse what waits, end the answer under way; whether the thread ended within `wait_s` seconds."""
        self.refuse_all()
        self._thread.join(wait_s)
        return not self._thread.is_alive()

    def refuse_all(self) -> None:
        """Tell everybody that the server stops; returns at once."""
        with self._changed:
            self._closed = True
            unanswered = [*self._line, *([self._current] if self._current else [])]
            self._line.clear()
            self._changed.notify()
        for pending in unanswered:
            pending.put(_stopping())
            pending.cancel()

    def _live(self) -> None:
        """Work until the server stops, whatever happens in between."""
        while not self._closed:
            try:
                self._work()
            except BaseException as error:
                _log.exception("the student's thread starts again")
                if self._current is not None:
                    self._current.put(_failed(error))

    def _work(self) -> None:
        while True:
            with self._changed:
                self._current = None
                while not self._line and not self._closed:
                    self._changed.wait()
                if self._closed:
                    return
                self._current = pending = self._line.popleft()
                self._since = time.monotonic()
            if not pending.cancelled:
                self._answer(pending)

    def _answer(self, pending: PendingAnswer) -> None:
        asked = pending.asked
        try:
            picture = pictures.decode(asked.picture, asked.where)
            pending.put(self._student.answer(picture, asked.question, asked.max_tokens, on_text=pending.say))
        except _Gone:
            pass
        except Refused as refused:
            pending.put(refused)
        except UserError as error:
            pending.put(Refused(400, str(error)))
        except BaseException as error:  # whatever a runtime raises: this question fails, and the next one is answered
            _log.exception("the student failed to answer")
            pending.put(_failed(error))


def _failed(error: BaseException) -> Refused:
    return Refused(500, f"the student failed to answer ({type(error).__name__}: {line(str(error), 300)})")


def _stopping() -> Refused:
    return Refused(503, _STOPPING)
