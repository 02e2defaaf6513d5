"""A real sshd on loopback: this machine plays the board, with a cache folder, keys and a known host of its own."""

import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

PROGRAM = shutil.which("sshd", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")
REQUIRED = os.environ.get("MASTERS_EDGE_REQUIRE_SSHD") == "1"
needs_sshd = pytest.mark.skipif(PROGRAM is None and not REQUIRED, reason="there is no sshd here")


class Sshd:
    """`address` reaches it through the ssh configuration `config`; `cache` is its XDG_CACHE_HOME."""

    address = "ssh://board"

    def __init__(self, folder: Path, environment: dict[str, str] | None = None) -> None:
        assert PROGRAM is not None, "MASTERS_EDGE_REQUIRE_SSHD is set, and there is no sshd; install openssh-server"
        self.folder = folder
        self.cache = folder / "cache"
        self.home = self.cache / "masters-edge" / "bench"
        self.environment = environment or {}
        self.extra: list[str] = []
        self.port = _free_port()
        self.process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("host", "user"):
            self.new_key(name)
        (folder / "authorized").write_bytes((folder / "user.pub").read_bytes())
        self.known().write_text(f"[127.0.0.1]:{self.port} {(folder / 'host.pub').read_text()}")
        self.config = folder / "ssh_config"
        self.config.write_text(
            f"Host board\n HostName 127.0.0.1\n Port {self.port}\n IdentityFile {folder}/user\n IdentitiesOnly yes\n"
            f"Host *\n UserKnownHostsFile {self.known()}\n GlobalKnownHostsFile none\n"
        )

    def known(self) -> Path:
        return self.folder / "known_hosts"

    def new_key(self, name: str) -> None:
        for path in self.folder.glob(f"{name}*"):
            path.unlink()
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.folder / name], check=True)

    def start(self) -> None:
        """It listens when this returns."""
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(exist_ok=True)  # where sshd as root wants to find an empty folder
        # A home of its own: nobody's shell start-up files have a say. The Python is the one that runs the tests.
        python = Path(sys.base_prefix) / "bin"
        plain = {"HOME": str(self.folder), "XDG_CACHE_HOME": str(self.cache), "PATH": f"{python}:/usr/bin:/bin"}
        environment = plain | self.environment
        lines = [
            f"ListenAddress 127.0.0.1:{self.port}",
            f"HostKey {self.folder}/host",
            f"AuthorizedKeysFile {self.folder}/authorized",
            "StrictModes no",
            "UsePAM no",
            "PidFile none",
            "PasswordAuthentication no",
            "SetEnv " + " ".join(f'"{name}={value}"' for name, value in environment.items()),
            *self.extra,
        ]
        (self.folder / "sshd_config").write_text("\n".join(lines) + "\n")
        log = (self.folder / "log").open("ab")
        assert PROGRAM is not None
        self.process = subprocess.Popen(
            [PROGRAM, "-D", "-e", "-f", str(self.folder / "sshd_config")], stdout=log, stderr=log
        )
        log.close()
        for _ in range(200):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.02)
        raise AssertionError((self.folder / "log").read_text())

    def sessions(self) -> list[psutil.Process]:
        """Everything that hangs on a connection; a worker that was started detached doesn't."""
        assert self.process is not None
        below = psutil.Process(self.process.pid).children(recursive=True)
        return [process for process in below if not _is_worker(process)]

    def kill(self) -> None:
        """The board is gone: no connection lives on, none can be made."""
        if self.process is None:
            return
        doomed = self.sessions()
        self.process.kill()
        self.process.wait()
        self.process = None
        for process in doomed:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        while any(_alive(process) for process in doomed):
            time.sleep(0.01)

    def workers(self) -> list[int]:
        """Process ids of detached workers that this board has."""
        found = []
        for process in psutil.process_iter():
            if _is_worker(process) and self._mine(process):
                found.append(process.pid)
        return found

    def _mine(self, process: psutil.Process) -> bool:
        try:
            return str(self.cache) in process.cwd()
        except psutil.Error:
            return False

    def close(self) -> None:
        self.kill()
        for pid in self.workers():
            try:
                psutil.Process(pid).kill()
            except psutil.NoSuchProcess:
                continue


def _is_worker(process: psutil.Process) -> bool:
    try:
        return "masters_edge.benchmarks.worker" in " ".join(process.cmdline())
    except psutil.Error:
        return False


def _alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
