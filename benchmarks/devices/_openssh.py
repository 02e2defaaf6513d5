"""A board behind ssh: one shared connection of the user's own OpenSSH client, and Python run over it.

Keys, agents, host checking, aliases and jump hosts are as the user's `ssh` has them. Nothing is asked at a prompt: what
would need one becomes a sentence. `Connection.call` runs an op of `_board.py` there and gives back what it says.
"""

import contextlib
import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from masters_edge.benchmarks.devices import Lost, _board, _replies
from masters_edge.common import child
from masters_edge.common.errors import UserError

# Another configuration than ~/.ssh/config, as `ssh -F` takes it.
CONFIG = "MASTERS_EDGE_SSH_CONFIG"
PYTHONS = "python3 python3.14 python3.13 python3.12 python3.11 python3.10"
_READY = "masters-edge: connected"
_OPTIONS = (
    "BatchMode=yes",
    "ConnectTimeout=15",
    "ServerAliveInterval=5",  # a board that vanished is noticed after three of these
    "ServerAliveCountMax=3",
    "LogLevel=ERROR",
    "ControlPersist=no",
    "RemoteCommand=none",
    "RequestTTY=no",
    "ForwardX11=no",
    "ForwardAgent=no",
    "ClearAllForwardings=yes",
    "PermitLocalCommand=no",
)
_PROGRAM = Path(_board.__file__).read_bytes()


@dataclass(frozen=True)
class Address:
    """ssh://[user@]board[:port]; `board` may be an alias of ~/.ssh/config."""

    text: str
    user: str | None
    host: str
    port: int | None

    @classmethod
    def parse(cls, text: str) -> "Address":
        found = re.fullmatch(
            r"ssh://(?:([A-Za-z0-9_.][\w.+-]*)@)?(?:\[([0-9A-Fa-f:.%\w]+)\]|([A-Za-z0-9_][\w.-]*))(?::(\d{1,5}))?/?",
            text,
        )
        if not found:
            raise UserError(f"{text!r} is no address of a board; write ssh://user@board or ssh://user@board:port")
        user, address, name, port = found.groups()
        return cls(text, user, address or name, int(port) if port else None)

    @property
    def login(self) -> str:
        return f"{self.user}@{self.host}" if self.user else self.host

    @property
    def ssh(self) -> str:
        """What the user would type."""
        return f"ssh {f'-p {self.port} ' if self.port else ''}{self.login}"


class Connection:
    """An open connection; `python` is the board's Python (3.10 or newer)."""

    python: str

    def __init__(self, address: Address) -> None:
        self.address = address
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> "Connection":
        if shutil.which("ssh") is None:
            raise UserError("measuring over ssh needs the program ssh; install OpenSSH's client")
        try:
            self._open()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _open(self) -> None:
        # A socket's path has room for about 100 characters; a Mac's TMPDIR alone takes half of that.
        short = "/tmp" if Path("/tmp").is_dir() else None
        self.folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="me-ssh-", dir=short)))
        # It ends when its stdin does: with us, however we end.
        master = self._start(["-o", "ControlMaster=yes"], f"echo {_READY}; cat")
        self._stack.callback(_end, master)
        channel = Channel(master, self.address, "connecting to it")
        for line in channel.all_lines():
            if line.strip() == _READY.encode():
                break
        else:
            master.wait()
            raise UserError(_why_not(channel.stderr.text(), self.address))
        self.python = self._find_python()

    def _start(self, options: list[str], command: str) -> "subprocess.Popen[bytes]":
        config = os.environ.get(CONFIG)
        port = self.address.port
        words = [
            "ssh",
            *(["-F", config] if config else []),
            *(word for option in _OPTIONS for word in ("-o", option)),
            *(["-p", str(port)] if port else []),
            *(["-l", self.address.user] if self.address.user else []),
            *("-o", f"ControlPath={self.folder}/s"),
            *options,
            self.address.host,
            command,
        ]
        # A session of its own: Ctrl-C is for us, who first stop what the board does; and there is no terminal to ask.
        return subprocess.Popen(
            words,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            env=os.environ | {"SSH_ASKPASS_REQUIRE": "never"},
        )

    def _find_python(self) -> str:
        """The first Python that is new enough; else a sentence with the one that was found."""
        probe = (
            'import sys; print("python", *sys.version_info[:2], sys.executable); sys.exit(sys.version_info < (3, 10))'
        )
        script = (
            "PATH=$PATH:/usr/local/bin:/opt/homebrew/bin; "
            f"for p in {PYTHONS}; do command -v $p >/dev/null 2>&1 && $p -c '{probe}' && break; done; echo end"
        )
        quoted = script.replace("'", "'\"'\"'")
        with self.channel(f"sh -c '{quoted}'", "looking for Python") as channel:
            channel.close_input()
            lines = [line.decode("utf-8", "replace").rstrip("\r\n") for line in channel.all_lines()]
        if "end" not in lines:
            raise channel.failure()
        found = [line.split(" ", 3)[1:] for line in lines if re.match(r"python \d{1,3} \d{1,3} /", line)]
        for major, minor, path in found:
            if (int(major), int(minor)) >= (3, 10):
                return path
        what = f"only Python {'.'.join(found[0][:2])}" if found else "no Python"
        raise UserError(
            f"{self.address.login} has {what}, and Python 3.10 or newer is needed; "
            "install it there, such as with: sudo apt install python3 python3-venv"
        )

    @contextlib.contextmanager
    def channel(self, command: str, doing: str) -> Iterator["Channel"]:
        """A program on the board, its stdin and stdout here; ended when the block ends."""
        # Where the shared connection is gone, no other is made.
        process = self._start(["-o", "ControlMaster=no", "-o", "ProxyCommand=false"], command)
        try:
            yield Channel(process, self.address, doing)
        finally:
            _end(process)

    @contextlib.contextmanager
    def op(self, name: str, doing: str, **arguments: Any) -> Iterator["Channel"]:
        """An op of `_board.py`, begun: its arguments are sent and its hello was heard."""
        program = f"import sys; exec(sys.stdin.buffer.read({len(_PROGRAM)}))"
        with self.channel(f"{_word(self.python)} -c '{program}'", doing) as channel:
            channel.write(_PROGRAM + json.dumps({"op": name, **arguments}).encode() + b"\n")
            for line in channel.all_lines():
                if line.strip() == _board.HELLO.encode():
                    break
            else:
                raise channel.failure()
            yield channel

    def call(
        self,
        name: str,
        doing: str,
        reply: type[_replies.Schema],
        data: Iterable[bytes] = (),
        on_line: Callable[[bytes], None] = lambda line: None,
        **arguments: Any,
    ) -> _replies.Schema:
        """Run an op to its end, `data` behind its arguments; `on_line` hears what it says before its result, `reply`.

        Raises:
            Lost: the connection broke while `doing` ("copying demo to it").
            UserError: what went wrong on the board, in one sentence.
        """
        with self.op(name, doing, **arguments) as channel:
            for block in data:
                if not channel.write(block):
                    break
            channel.close_input()
            for line in channel.lines():
                on_line(line)
            return channel.read(reply)


class Channel:
    """A program that runs on the board. `result` is what an op gave back, once `lines` has come to its end."""

    result: Any = None

    def __init__(self, process: "subprocess.Popen[bytes]", address: Address, doing: str) -> None:
        assert process.stdin is not None and process.stdout is not None and process.stderr is not None
        self.process, self.stdin, self.stdout = process, process.stdin, process.stdout
        self.address, self.doing = address, doing
        self.stderr = child.Tail(process.stderr)

    def write(self, data: bytes) -> bool:
        """False where nobody reads any more; what is said on stdout tells why."""
        try:
            self.stdin.write(data)
            self.stdin.flush()
        except BrokenPipeError:
            return False
        return True

    def close_input(self) -> None:
        with contextlib.suppress(BrokenPipeError):
            self.stdin.close()

    def all_lines(self) -> Iterator[bytes]:
        """Whatever it says; raises UserError where a line, or all of them, are longer than any answer."""
        total = 0
        while line := self.stdout.readline(_replies.MOST_LINE):
            total += len(line)
            if len(line) == _replies.MOST_LINE or total > _replies.MOST_LINES:
                raise self.odd("far too much of it")
            yield line

    def lines(self) -> Iterator[bytes]:
        """What the op says until its result."""
        for line in self.all_lines():
            if not line.strip():
                continue  # only to find out whether we listen
            if line.startswith(b'{"ok":') and line.endswith(b"\n"):
                self.result = self._json(line)["ok"]
                return
            if line.startswith(b'{"problem":') and line.endswith(b"\n"):
                found = _replies.parsed(line, _replies.Problem, self.address.login, self.doing)
                raise UserError(_sentence(found, self.address, self.doing))
            yield line
        raise self.failure()

    def read(self, reply: type[_replies.Schema], line: bytes | None = None) -> _replies.Schema:
        """The op's result, or a line of it, as its schema."""
        return _replies.parsed(self.result if line is None else line, reply, self.address.login, self.doing)

    def odd(self, what: str) -> UserError:
        """The sentence for an answer that no board of ours gives."""
        return _replies.odd(self.address.login, self.doing, what)

    def _json(self, line: bytes) -> Any:
        try:
            return json.loads(line)
        except (ValueError, RecursionError):
            raise self.odd("no JSON") from None

    def failure(self) -> UserError:
        """Why there was no result: the connection is gone, or the program failed, in its own last words."""
        self.close_input()
        status = self.process.wait()
        said = [line for line in self.stderr.text().splitlines() if line.strip()]
        if status == 255 or status < 0:
            return Lost(
                f"the connection to {self.address.login} was lost while {self.doing}; what was measured is kept there, "
                "and the same command goes on"
            )
        last = _replies.words(said[-1]) if said else f"exit status {status}"
        return UserError(f"{self.address.login} failed while {self.doing} ({last})")


def _end(process: "subprocess.Popen[bytes]") -> None:
    with contextlib.suppress(OSError):
        if process.stdin is not None:
            process.stdin.close()
    if process.stdout is not None:
        process.stdout.close()
    try:
        process.wait(2)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _word(path: str) -> str:
    return "'" + path.replace("'", "'\"'\"'") + "'"


def _why_not(said: str, address: Address) -> str:
    """One sentence for why ssh could not connect."""
    login, known = address.login, f"[{address.host}]:{address.port}" if address.port else address.host
    lines = [_replies.words(line) for line in said.splitlines() if line.strip()]
    if "IDENTIFICATION HAS CHANGED" in said:
        where = re.search(r"Offending .*key in (\S+):(\d+)", said)
        line = f" (line {where[2]} of {where[1]})" if where else ""
        advice = re.search(r'ssh-keygen -f "?([^"\n]+?)"? -R "?([^"\n]+)', said)  # ssh knows the name it looked for
        remove = f"ssh-keygen -f {advice[1]} -R '{advice[2].strip()}'" if advice else f"ssh-keygen -R '{known}'"
        return (
            f"{known} answers with another host key than the known one{line}: it was installed anew, or another "
            f"machine answers in its place; compare its key, and only if it is right: {remove}, then {address.ssh}"
        )
    if "Host key verification failed" in said or "host key is known" in said:
        return (
            f"the host key of {known} is not known yet; connect once by hand, compare it and accept it: {address.ssh}"
        )
    if "Permission denied" in said or "Too many authentication failures" in said:
        port = f" -p {address.port}" if address.port else ""
        return (
            f"{login} doesn't let you in with your keys, and no password can be asked for here; give it your key with: "
            f"ssh-copy-id{port} {login} (a key with a passphrase has to be in the agent: ssh-add)"
        )
    if "Could not resolve hostname" in said:
        return f"there is no machine called {address.host}; check the name, or give its number: ssh://user@192.168.1.20"
    if "Connection refused" in said:
        port = f" port {address.port}" if address.port else ""
        return (
            f"{address.host} is there, but no ssh server answers at{port or ' it'}; "
            "start one there, such as with: sudo systemctl enable --now ssh"
        )
    if re.search(r"timed out|No route to host|unreachable|Host is down", said):
        return f"{address.host} doesn't answer; is it switched on and in this network?"
    return f"no connection to {login} ({lines[-1] if lines else 'ssh said nothing'}); try: {address.ssh}"


def _sentence(found: _replies.Problem, address: Address, doing: str) -> str:
    """One sentence for a problem that `_board.py` reports."""
    login, kind = address.login, found.problem
    if kind == "no venv":
        version = ".".join(map(str, found.version or [3]))
        return (
            f"Python {version} on {login} can make no virtual environment; install that there, such as with: "
            f"sudo apt install python{version}-venv"
        )
    if kind == "busy":
        since = f" since {found.since}" if found.since else ""
        return f"{login} is measuring for {found.who or 'another'}{since}; two at once would spoil both, so wait"
    if kind == "no room":
        need, free = (f"{(size or 0) / 1e6:.1f} MB" for size in (found.need, found.free))
        return f"the disk of {login} is full: {doing} takes {need}, and {found.where} has {free}; make room there"
    lines = found.lines
    if kind == "disk full" or any("No space left on device" in line for line in lines):
        where = f" ({found.where})" if found.where else ""
        return f"the disk of {login} is full{where}, {doing} stopped; make room there, and the same command goes on"
    if kind == "os":
        return f"{login} failed while {doing} ({found.where}: {found.message})"
    if kind == "command":
        wrong = [line for line in lines if line.startswith("ERROR:")] or lines
        last = wrong[-1].removeprefix("ERROR:").strip() if wrong else f"exit status {found.status}"
        return f"{found.what} failed on {login} while {doing} ({last})"
    return f"{login} failed while {doing} ({kind})"
