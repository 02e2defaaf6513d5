"""Boards and phones that mean harm: whatever they answer is figures or one sentence, and no file elsewhere."""

import contextlib
import hashlib
import io
import json
import os
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from masters_edge.benchmarks import job as jobs
from masters_edge.benchmarks import protocol
from masters_edge.benchmarks.devices import _adb, _copying, _openssh, _replies, ssh
from masters_edge.benchmarks.protocol import Options, Subject
from masters_edge.benchmarks.results import Device
from masters_edge.common import child
from masters_edge.common.errors import UserError

ADDRESS = _openssh.Address.parse("ssh://board")
SUBJECT = Subject("student", "exported", Path("bundle"))
ESCAPE = "\x1b[2J\x1b]0;PWNED\x07"


class Board(_openssh.Connection):
    """A connection to a board that answers every op with these bytes."""

    def __init__(self, said: bytes) -> None:
        super().__init__(ADDRESS)
        self.said = said

    @contextlib.contextmanager
    def op(self, name: str, doing: str, **arguments: Any) -> Iterator[_openssh.Channel]:
        reading, writing = os.pipe()
        os.close(writing)
        process = types.SimpleNamespace(
            stdin=io.BytesIO(), stdout=io.BytesIO(self.said), stderr=os.fdopen(reading, "rb"), wait=lambda: 1
        )
        yield _openssh.Channel(process, self.address, doing)  # type: ignore[arg-type]


def lines(*said: Any) -> bytes:
    return b"".join(one if isinstance(one, bytes) else json.dumps(one).encode() + b"\n" for one in said)


def ok(value: Any) -> dict[str, Any]:
    return {"ok": value}


def file(path: Any, content: bytes = b"x", **changes: Any) -> dict[str, Any]:
    return {"path": path, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()} | changes


def hold(said: bytes, folder: Path) -> None:
    board = ssh.Board(Board(said), "ssh://board", "me")
    with ssh._holding(board):
        pass


def ready(said: bytes, folder: Path) -> None:
    ssh.Board(Board(said), "ssh://board", "me").ready()


def plan(said: bytes, folder: Path) -> None:
    items = [_copying.BoardFile.of("a.txt", b"content")]
    _copying.upload(Board(said), [_copying.Folder("bundles/x", items)], what="student")


def fetch(said: bytes, folder: Path) -> None:
    _copying.fetch(Board(said), "jobs/x/raw", folder / "raw", what="figures", names=jobs.LEFT, most=1 << 20)


def measure(said: bytes, folder: Path) -> None:
    ssh.Board(Board(said), "ssh://board", "me")._measure("job", "key", SUBJECT, lambda event: None)


OFFERED = file("a.txt", b"content", offset=0)
DESCRIBED = {"device": {"name": "b", "cpu": "c", "cores": 1}, "usable": 1, "versions": {}}
ODD = "sent something that is no answer of masters-edge"
REPLIES: dict[str, tuple[Callable[[bytes, Path], None], bytes, str]] = {
    "nothing": (ready, b"", "failed while"),
    "no JSON": (ready, b'{"ok": x}\n', ODD),
    "JSON in JSON": (ready, b'{"ok":' + b"[" * 100_000 + b"\n", ODD),
    "a number of 5,000 digits": (ready, b'{"ok": ' + b"9" * 5000 + b"}\n", ODD),
    "a list": (ready, lines(ok([1])), ODD),
    "null": (ready, lines(ok(None)), ODD),
    "no device": (ready, lines(ok(DESCRIBED | {"device": 3})), ODD),
    "another device": (ready, lines(ok(DESCRIBED)), "no description of a device"),
    "no cores": (ready, lines(ok(DESCRIBED | {"usable": "many"})), "usable"),
    "too many cores": (ready, lines(ok(DESCRIBED | {"usable": 10**12})), "usable"),
    "versions of numbers": (ready, lines(ok(DESCRIBED | {"versions": {"torch": 3}})), "versions"),
    "a line without end": (ready, b"x" * (_replies.MOST_LINE + 1), "far too much of it"),
    "lines without end": (ready, (b"x" * 1_000_000 + b"\n") * 300, "far too much of it"),
    "a problem of escapes": (ready, lines({"problem": "os", "where": ESCAPE, "message": ESCAPE}), "[2J"),
    "a problem of a number": (ready, lines({"problem": 3}), ODD),
    "a problem of no numbers": (ready, lines({"problem": "no room", "need": "x", "free": []}), ODD),
    "a problem of nothing": (ready, lines({"problem": "no room"}), "is full"),
    "a problem of no venv": (ready, lines({"problem": "no venv"}), "no virtual environment"),
    "a command that failed": (ready, lines({"problem": "command", "lines": [ESCAPE]}), "failed on board"),
    "somebody else": (ready, lines({"problem": "busy", "who": ESCAPE, "since": 3}), ODD),
    "no version": (hold, lines({"running": []}, ok({})), "version"),
    "versions": (hold, lines({"version": ["x", None], "running": []}), "version"),
    "a job elsewhere": (hold, lines({"version": [3, 11], "running": ["../../x"]}), "running"),
    "a file that wasn't offered": (plan, lines(ok({"missing": [file("a") | {"offset": 0}]})), "wasn't offered"),
    "a file of another size": (plan, lines(ok({"missing": [OFFERED | {"bytes": 3}]})), "wasn't offered"),
    "beyond a file's end": (plan, lines(ok({"missing": [OFFERED | {"offset": 99}]})), "wasn't offered"),
    "before a file's start": (plan, lines(ok({"missing": [OFFERED | {"offset": -9}]})), "offset"),
    "missing nothing": (plan, lines(ok({})), "missing"),
    "out of the folder": (fetch, lines({"files": [file("../../.ssh/authorized_keys")]}, b"x", ok({})), "asked for"),
    "an absolute path": (fetch, lines({"files": [file("/tmp/x")]}, b"x", ok({})), "wasn't asked for"),
    "a path of escapes": (fetch, lines({"files": [file(ESCAPE)]}, b"x", ok({})), "wasn't asked for"),
    "a file of another name": (fetch, lines({"files": [file("run.json")]}, b"x", ok({})), "wasn't asked for"),
    "a host's own file": (fetch, lines({"files": [file(jobs.CONDITIONS)]}, b"x", ok({})), "wasn't asked for"),
    "a path of a number": (fetch, lines({"files": [file(3)]}, ok({})), "path"),
    "a file twice": (fetch, lines({"files": [file(jobs.DONE), file(jobs.DONE)]}, b"xx", ok({})), "wasn't asked for"),
    "files without end": (fetch, lines({"files": [file(jobs.DONE, bytes=10**15)]}, b"x"), "MB of figures"),
    "fewer than nothing": (fetch, lines({"files": [file(jobs.DONE, bytes=-1)]}, ok({})), "bytes"),
    "another content": (fetch, lines({"files": [file(jobs.DONE)]}, b"y", ok({})), "changed while it was fetched"),
    "half a file": (fetch, lines({"files": [file(jobs.DONE, bytes=9)]}, b"x"), "failed while"),
    "no list": (fetch, lines({"files": 3}, ok({})), "files"),
    "no end": (measure, b"", "failed while"),
    "an odd end": (measure, lines(ok({"status": "x", "said": 3})), ODD),
    "an end of escapes": (measure, lines(ok({"status": 1, "said": ESCAPE})), "stopped: [2J"),
    "an error of escapes": (measure, lines({"event": "error", "message": ESCAPE}), "stopped: [2J"),
    "an error of nothing": (measure, lines({"event": "error"}), "stopped: None"),
    "an error of much": (measure, lines({"event": "error", "message": "x" * 10**6}), "stopped: xxx"),
}  # fmt: skip


@pytest.mark.parametrize("case", REPLIES)
def test_an_answer_is_one_sentence(case: str, tmp_path: Path) -> None:
    ask, said, words = REPLIES[case]
    with pytest.raises(UserError) as error:
        ask(said, tmp_path)
    sentence = str(error.value)
    assert words in sentence and sentence.isprintable() and len(sentence) < 1500, sentence
    assert list(tmp_path.iterdir()) == []


def test_progress_that_is_none_is_passed_over() -> None:
    heard: list[dict[str, Any]] = []
    odd = [
        {},
        {"phase": 3},
        {"phase": "p", "done": "x", "total": 1},
        {"phase": "p", "done": 1e999, "total": 1},
        {"phase": []},
    ]
    said = [{"event": "progress"} | one for one in odd]
    good = {"event": "progress", "phase": f"a{ESCAPE}b", "done": 1, "total": 2, "right": None}
    done = protocol.follow(
        [*(json.dumps(one) for one in [*said, good]), "[" * 5000, "3", '{"event": "done"}'], SUBJECT, heard.append
    )
    assert done and [one["phase"] for one in heard] == ["a [2J ]0;PWNED b"]


FACTS = {"facts": {"parameters": None}, "device": {}}
LATENCY = {"unmeasured": [], "stages": {}, "peak_rss_mib": None, "conditions": {}, "energy": None}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("facts.json", "[]"),
        ("facts.json", "{}"),
        ("facts.json", "[" * 100_000),
        ("facts.json", '{"facts": {"parameters": null, "target": 3}, "device": {}}'),
        ("facts.json", '{"facts": [], "device": []}'),
        ("latency.json", "3"),
        ("latency.json", '{"unmeasured": 3}'),
        ("latency.json", json.dumps(LATENCY | {"stages": {"total_ms": ["x"]}})),
        ("latency.json", json.dumps(LATENCY | {"stages": {"total_ms": [float("nan")]}})),
        ("latency.json", json.dumps(LATENCY | {"stages": 3})),
        ("choice.json", "[1]"),
        ("cold.jsonl", "{}\n"),
        ("cases.jsonl", "3\n"),
        ("cases.jsonl", '{"stages": 3}\n'),
        ("sustained.jsonl", '{"at_s": "x"}\n'),
        ("done.json", "[" * 100_000),
    ],
)
def test_figures_that_are_none_are_one_sentence(tmp_path: Path, name: str, content: str) -> None:
    raw = tmp_path / jobs.RAW
    raw.mkdir()
    jobs.write_json(
        tmp_path / jobs.JOB,
        {"backend": "auto", "candidates": {}, "sustain_s": 0, "latency_count": 1, "started": "2026-01-01"},
    )
    for file_name, value in ((jobs.FACTS, FACTS), (jobs.LATENCY, LATENCY), (jobs.DONE, {})):
        jobs.write_json(raw / file_name, value)
    (raw / name).write_text(content)
    device = Device.model_construct(kind="ssh", address="ssh://board")
    with pytest.raises(UserError, match="ssh://board measured of student can't be read") as error:
        protocol.assemble(tmp_path, SUBJECT, None, Options(threads=1), device, sha256="0")
    assert str(error.value).isprintable()


def test_a_program_that_writes_without_end_is_ended() -> None:
    """As adb would bring what a phone sends."""
    endless = [sys.executable, "-c", "import os\nwhile True: os.write(1, b'x' * 65536)"]
    with pytest.raises(OSError, match="writes more than"):
        child.output(endless, 20, 1 << 20)


def test_a_phone_that_says_far_too_much_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "adb"
    program.write_text(f"#!{sys.executable}\nimport os\nwhile True: os.write(1, b'x' * 65536)\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(_adb, "MOST_SAID", 1 << 20)
    with pytest.raises(UserError, match="far more than a phone has to say"):
        _adb.Phone("x").shell("getprop")


@pytest.mark.parametrize("said", ["0-" + "9" * 5000, "9" * 5000, ESCAPE, "\u0661\u0662"])
def test_numbers_of_a_phone(said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_adb.Phone, "shell", lambda self, *words, **options: said)
    phone = _adb.Phone("x")
    assert (phone.cores() or 1) >= 1 and phone.ram_mib() is None and phone.throttling() is None


def test_links_in_a_bundle_go_to_no_board(tmp_path: Path) -> None:
    (tmp_path / "id_rsa").write_text("PRIVATE KEY")
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "notes.txt").symlink_to("../id_rsa")
    with pytest.raises(UserError, match="notes.txt is a link out of the folder"):
        _copying.items(tmp_path / "bundle")
