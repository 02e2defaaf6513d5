"""A board reached over ssh: ssh://[user@]board[:port].

Connecting makes a virtual environment there with this masters-edge and the runtimes; a run copies bundle and questions,
starts the worker detached, follows its events, fetches the raw files and cleans up. Whatever breaks off (the copy, the
connection, the measuring) goes on with the same command. All of it lies in ~/.cache/masters-edge on the board.
"""

import contextlib
import getpass
import hashlib
import json
import platform
import re
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pydantic import ValidationError

from masters_edge.benchmarks import job as jobs
from masters_edge.benchmarks import machine, peers
from masters_edge.benchmarks.devices import Lost, OnEvent, Place, Wanted, _replies, _wheel
from masters_edge.benchmarks.devices._copying import BoardFile, Folder, fetch, items, upload
from masters_edge.benchmarks.devices._openssh import Address, Connection
from masters_edge.benchmarks.protocol import Subject, follow
from masters_edge.benchmarks.results import Device
from masters_edge.common.errors import UserError

PEERS = {"bundle": peers.KINDS["bundle"]}
# What a runtime needs and doesn't ask for itself: ExecuTorch's Python runtime takes and gives torch tensors.
_ALSO = {"executorch": ("torch",)}
MOST_FIGURES, MOST_ANSWER = 64 << 20, 4 << 10  # bytes of a subject's raw files: in any case, and for each question
_HEARTBEAT_S = 4.0  # well below `_board.SILENT_S`
_DESCRIBE = """
import json, re
from importlib.metadata import distributions
from masters_edge.benchmarks import machine
versions = {re.sub("[-_.]+", "-", found.metadata["Name"]).lower(): found.version for found in distributions()}
print(json.dumps({"device": machine.describe(), "usable": machine.usable_cores(), "versions": versions}))
"""


class Board:
    """A `Place` behind ssh, held by us alone as long as we are connected."""

    most_threads: int | None = None

    def __init__(self, connection: Connection, address: str, who: str) -> None:
        self.connection, self.address, self.who = connection, address, who
        self.version: list[int] = []  # of its Python
        self.running: list[str] = []  # jobs that an earlier connection left running
        self.environment = self.wheel = ""
        self.notes: tuple[str, ...] = ()  # what is other there than here, a sentence each

    def ready(self) -> None:
        """Let the board say what it is and what it has, now that it can."""
        doing = "asking what it is"
        found = self.connection.call("ask", doing, _replies.Described, key=self.environment, code=_DESCRIBE)
        self._versions: dict[str, str] = found.versions
        self.usable_threads: int = found.usable
        try:
            self.device = Device.model_validate(found.device | {"kind": "ssh", "address": self.address})
        except ValidationError:
            raise _replies.odd(self.connection.address.login, doing, "no description of a device") from None

    def versions(self, *packages: str) -> dict[str, str]:
        return {name: self._versions[_plain(name)] for name in packages if _plain(name) in self._versions}

    def run(self, job: Path, subject: Subject, sha256: str, on_event: OnEvent) -> None:
        bundle = f"bundles/{sha256}"
        files, name = self._job_files(job, f"../../{bundle}")
        folder = f"jobs/{name}"
        goes_on = name in self.running
        if not goes_on:
            self._stop(self.running)
            upload(
                self.connection,
                [Folder(bundle, _bundle_files(subject, sha256), only=True), Folder(folder, files)],
                what=subject.name,
                on_bytes=_bytes(on_event),
            )
        try:
            self.running = [name]
            self._measure(name, "" if goes_on else self.environment, subject, on_event)
        except Lost:  # it measures on without us
            raise
        except BaseException as error:  # a board isn't left busy; what it has measured stays there
            with contextlib.suppress(Lost):
                self._stop([name])
                if isinstance(error, UserError):  # it couldn't be measured: the same bundle is no use there
                    self.connection.call("remove", "cleaning up", _replies.Nothing, paths=[bundle])
            raise
        self.running = []
        fetch(
            self.connection,
            f"{folder}/{jobs.RAW}",
            job / jobs.RAW,
            what=f"the figures of {subject.name}",
            names=jobs.LEFT,
            most=MOST_FIGURES + MOST_ANSWER * len(jobs.read_rows(job / jobs.QUESTIONS)),
        )
        self.connection.call("remove", "cleaning up", _replies.Nothing, paths=[folder, bundle])

    def _job_files(self, job: Path, subject: str) -> tuple[list[BoardFile], str]:
        """The job's files as they shall be there, and a name that two different jobs don't share."""
        asked = jobs.read_json(job / jobs.JOB) | {"subject": subject}
        files = items(job, jobs.QUESTIONS, jobs.IMAGES)
        begun = asked.pop("started", None)
        listed = json.dumps([asked, [(file.path, file.sha256) for file in files], self.wheel], sort_keys=True)
        content = json.dumps(asked | {"started": begun}).encode()
        return [BoardFile.of(jobs.JOB, content), *files], hashlib.sha256(listed.encode()).hexdigest()[:16]

    def _measure(self, name: str, environment: str, subject: Subject, on_event: OnEvent) -> None:
        arguments = dict(job=name, key=environment, who=self.who)
        with self.connection.op("measure", f"measuring {subject.name}", **arguments) as channel:
            channel.close_input()
            done = follow(channel.lines(), subject, on_event)
        if not done:
            ended = channel.read(_replies.Ended)
            status, said = ended.status, ended.said
            reason = said or f"its process ended with status {status} and said nothing"
            if status is None or status > 128:
                reason = "its process was ended from outside, most likely for want of memory"
            raise UserError(f"measuring {subject.name} on {self.connection.address.login} stopped: {reason}")

    def _stop(self, names: Sequence[str]) -> None:
        if names:
            self.connection.call("stop", "stopping what it measured", _replies.Nothing, jobs=list(names))
        self.running = []


@contextmanager
def connect(address: str, wanted: Wanted) -> Iterator[Place]:
    """A board that is ready to measure: reachable, ours alone, and with masters-edge and what is `wanted` installed.

    Raises:
        UserError: in one sentence, whatever keeps it from that; `Lost` where the connection breaks.
    """
    where = Address.parse(address)

    def say(phase: str) -> None:
        wanted.step(address, phase)

    say("connecting")
    who = f"{getpass.getuser()}@{platform.node()}"
    with Connection(where) as connection:
        board = Board(connection, address, who)
        with _holding(board):
            _install(board, wanted.packages, say)
            board.ready()
            yield board
            connection.call("tidy", "cleaning up", _replies.Nothing)


@contextmanager
def _holding(board: Board) -> Iterator[None]:
    """Nobody else measures on the board meanwhile. It lets go of us when it hasn't heard of us for a while."""
    ended = threading.Event()
    with board.connection.op("hold", "waiting for its turn", who=board.who) as channel:
        found = channel.read(_replies.Holding, next(channel.lines(), b""))
        board.version, board.running = found.version, found.running

        def beat() -> None:
            while not ended.wait(_HEARTBEAT_S) and channel.write(b"\n"):
                pass

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()


def _install(board: Board, packages: Sequence[str], say: Callable[[str], None]) -> None:
    """The board's environment, made or brought up to date where it isn't the one that this host asks for."""
    also = {other for package in packages for other in _ALSO.get(package, ())}
    packages = sorted(set(packages) - {"masters-edge"} | also)
    needed = sorted({_name(line) for line in _wheel.requirements()} | set(packages))
    # Without the "+cpu" of a build: another board has another build of the same version.
    pins = [f"{name}=={version.partition('+')[0]}" for name, version in machine.versions(*needed).items()]
    with tempfile.TemporaryDirectory(prefix="masters-edge-") as folder:
        wheel = BoardFile.of((file := _wheel.build(Path(folder))).name, file)
        key = hashlib.sha256(json.dumps([board.version, needed, pins, _wheel.requirements()]).encode()).hexdigest()[:16]
        board.environment, board.wheel = key, wheel.sha256
        ready = board.connection.call("environment", "looking for its environment", _replies.Environment, key=key)
        if ready.wheel != wheel.sha256:
            board._stop(board.running)
            upload(board.connection, [Folder("wheel", [wheel], only=True)], what="masters-edge")
            ready = board.connection.call(
                "install",
                "installing",
                _replies.Environment,
                key=key,
                wheel=f"wheel/{wheel.path}",
                sha256=wheel.sha256,
                requirements=packages,
                pins=pins,
                on_line=lambda line: say(f"installing, {seconds(line)} s"),
            )
    board.notes = tuple(
        f"{board.connection.address.login} has no {pin} to install: it got another version than this machine has"
        for pin in ready.dropped
    )


def seconds(line: bytes) -> int:
    """How long an installation has taken by now; 0 for what is no such line."""
    try:
        return _replies.Seconds.model_validate_json(line).seconds
    except ValidationError:
        return 0


def _bundle_files(subject: Subject, sha256: str) -> list[BoardFile]:
    files = items(Path(subject.place))
    if peers.module_of(subject.kind).fingerprint(subject.place) != sha256:
        raise UserError(f"{subject.place} changed while it was read; run the same command again")
    return files


def _plain(package: str) -> str:
    """A package's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", package).lower()


def _name(requirement: str) -> str:
    """ "jinja2" of "jinja2>=3.1"."""
    found = re.match(r"[A-Za-z0-9._-]+", requirement)
    return found[0] if found else requirement


def _bytes(on_event: OnEvent) -> Callable[[int, int], None]:
    """Copied bytes as progress events, in MB."""

    def on_bytes(done: int, total: int) -> None:
        on_event({"event": "progress", "phase": "copy", "done": done / 1e6, "total": total / 1e6, "right": None})

    return on_bytes
