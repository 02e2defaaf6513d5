"""What keeps a board from measuring is said in one sentence: host keys, logins, addresses, Pythons."""

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from masters_edge.benchmarks.devices import Wanted, _openssh, _replies, ssh
from masters_edge.benchmarks.devices._openssh import Address
from masters_edge.common.errors import UserError
from tests.benchmarks.sshd import Sshd, needs_sshd

pytestmark = needs_sshd


@pytest.fixture
def sshd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sshd]:
    made = Sshd(tmp_path / "board")
    monkeypatch.setenv(_openssh.CONFIG, str(made.config))
    yield made
    made.close()


def refusal(address: str) -> str:
    with pytest.raises(UserError) as error, ssh.connect(address, Wanted()):
        raise AssertionError("connected")
    sentence = str(error.value)
    assert "\n" not in sentence and "Traceback" not in sentence
    return sentence


def test_a_changed_host_key_is_never_accepted(sshd: Sshd) -> None:
    sshd.new_key("host")
    before = sshd.known().read_bytes()
    sshd.start()
    sentence = refusal(sshd.address)
    assert sentence.startswith("board answers with another host key than the known one (line 1 of ")
    assert "compare its key" in sentence and f"ssh-keygen -f {sshd.known()} -R '[127.0.0.1]:{sshd.port}'" in sentence
    assert sshd.known().read_bytes() == before
    assert not sshd.cache.exists()


def test_an_unknown_host_key_is_not_accepted_either(sshd: Sshd) -> None:
    sshd.known().write_text("")
    sshd.start()
    assert refusal(sshd.address) == (
        "the host key of board is not known yet; connect once by hand, compare it and accept it: ssh board"
    )
    assert sshd.known().read_text() == ""


def test_a_key_that_is_not_let_in(sshd: Sshd) -> None:
    (sshd.folder / "authorized").write_text("")
    sshd.start()
    sentence = refusal("ssh://someone@board")
    assert sentence.startswith("someone@board doesn't let you in with your keys")
    assert "ssh-copy-id someone@board" in sentence


def test_nobody_listens(sshd: Sshd) -> None:
    sentence = refusal(f"ssh://127.0.0.1:{sshd.port}")
    assert sentence.startswith(f"127.0.0.1 is there, but no ssh server answers at port {sshd.port}; start one")


def test_a_name_that_nobody_has() -> None:
    assert refusal("ssh://no-such-board.invalid").startswith("there is no machine called no-such-board.invalid; ")


@pytest.mark.parametrize(
    "address", ["ssh://", "ssh://user@", "ssh://-oProxyCommand=x", "ssh://a:password@b", "ssh://b/path", "ssh://b:port"]
)
def test_no_address(address: str) -> None:
    assert refusal(address) == (
        f"{address!r} is no address of a board; write ssh://user@board or ssh://user@board:port"
    )


def test_addresses() -> None:
    assert Address.parse("ssh://pi@kitchen.local:2222").ssh == "ssh -p 2222 pi@kitchen.local"
    assert Address.parse("ssh://board") == Address("ssh://board", None, "board", None)
    assert Address.parse("ssh://me@[fe80::1%eth0]:22").host == "fe80::1%eth0"


def program(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


@pytest.fixture
def programs(sshd: Sshd, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The only folder with programs that the board has."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "sh").symlink_to("/bin/sh")
    (folder / "cat").symlink_to("/bin/cat")
    monkeypatch.setattr(_openssh, "PYTHONS", "python3 python3.9")  # a Mac's other folders are looked through as well
    sshd.environment["PATH"] = str(folder)
    return folder


def test_no_python(sshd: Sshd, programs: Path) -> None:
    sshd.start()
    assert refusal(sshd.address) == (
        "board has no Python, and Python 3.10 or newer is needed; install it there, such as with: "
        "sudo apt install python3 python3-venv"
    )


def test_python_is_too_old(sshd: Sshd, programs: Path) -> None:
    program(programs / "python3", "echo python 3 8 /usr/bin/python3; exit 1")
    sshd.start()
    assert refusal(sshd.address).startswith("board has only Python 3.8, and Python 3.10 or newer is needed")


def test_the_first_python_that_is_new_enough_is_taken(sshd: Sshd, programs: Path) -> None:
    program(programs / "python3", "echo python 3 8 /usr/bin/python3; exit 1")
    program(programs / "python3.9", f'exec {sys.executable} "$@"')
    sshd.start()
    with _openssh.Connection(Address.parse(sshd.address)) as connection:
        assert connection.python == sys.executable


def test_a_python_that_can_make_no_environment(sshd: Sshd, tmp_path: Path) -> None:
    (tmp_path / "without").mkdir()
    (tmp_path / "without" / "sitecustomize.py").write_text(
        "import importlib.util as u\nfind = u.find_spec\n"
        "u.find_spec = lambda n, *a: None if n == 'ensurepip' else find(n, *a)\n"
    )
    sshd.environment["PYTHONPATH"] = str(tmp_path / "without")
    sshd.start()
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    assert refusal(sshd.address).endswith(f"sudo apt install python{version}-venv")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_cache_that_cannot_be_written(sshd: Sshd) -> None:
    sshd.cache.mkdir(mode=0o500)
    sshd.start()
    assert "Permission denied" in refusal(sshd.address)


def test_a_login_that_prints_things(sshd: Sshd, tmp_path: Path) -> None:
    """Greetings of a shell's start-up files are not taken for answers."""
    config = sshd.folder / "noise"
    program(config, 'echo Welcome to the board; echo "{\\"ok\\": 1}"; exec sh -c "$SSH_ORIGINAL_COMMAND"')
    sshd.extra.append(f"ForceCommand {config}")
    sshd.start()
    with _openssh.Connection(Address.parse(sshd.address)) as connection:
        assert connection.call("plan", "looking", _replies.Lacking, folders=[]).missing == []


def test_nothing_is_left_behind_here(sshd: Sshd) -> None:
    sshd.start()
    with _openssh.Connection(Address.parse(sshd.address)) as connection:
        folder = connection.folder
        assert (folder / "s").exists()
    assert not folder.exists()
    left = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert str(folder) not in left
