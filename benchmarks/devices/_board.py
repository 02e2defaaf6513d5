"""What happens on a board: this file's text is sent over ssh and run there by the board's own Python.

Only the standard library, Python 3.10 or newer. In, on stdin: one line of JSON (`op` and its arguments), then bytes
where the op takes some. Out, on stdout: `HELLO`, then JSON lines, the last of which has `ok` (the op's result) or
`problem`; `fetch` sends bytes before it. Everything lies in one folder of the user's cache:

    lock            held (flock) by the host that uses the board
    envs/<key>/     virtual environments, kept for the next time
    pool/<sha256>   files that were copied, by their content; `<sha256>.part` while one is on its way
    bundles/<sha256>/, jobs/<id>/   made of hard links into the pool; a job's folder also holds what its worker leaves:
                    raw/, events.jsonl, stderr.txt, status, worker.json, and `lock`, held as long as the worker lives
"""

import contextlib
import errno
import fcntl
import hashlib
import importlib.util
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

HELLO = "masters-edge: board"
SILENT_S = 20  # a host that says nothing for so long is gone
KEEP_DAYS = 7  # what an interrupted bench left waits so long for its continuation
_STARTED = time.monotonic()
ROOM = 1 << 20  # to spare on the board's disk when something is copied
# What takes long or is hopeless to build on a board comes as a wheel or not at all.
COMPILED = "numpy,onnxruntime,openvino,xllamacpp,executorch,torch,pillow,tokenizers,psutil,pydantic-core,pyyaml"


class Problem(Exception):
    """What the host makes a sentence of: `kind`, and what it needs to say."""

    def __init__(self, kind: str, **details: Any) -> None:
        super().__init__(kind)
        self.fields = {"problem": kind, **details}


def say(**fields: Any) -> None:
    send((json.dumps(fields) + "\n").encode())


def send(data: bytes) -> None:
    """Straight to stdout; a host that is gone raises BrokenPipeError."""
    view = memoryview(data)
    while view:
        view = view[os.write(1, view) :]


def home() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(base) / "masters-edge" / "bench"


# ---- who uses the board


def _look() -> None:
    """Whether this Python can make environments, and whether the cache can be written."""
    missing = [name for name in ("venv", "ensurepip") if importlib.util.find_spec(name) is None]
    if missing:
        raise Problem("no venv", python=sys.executable, version=list(sys.version_info[:2]))
    for name in ("envs", "pool", "bundles", "jobs"):
        (home() / name).mkdir(parents=True, exist_ok=True)


def hold(who: str) -> dict[str, Any]:
    """Hold the board for `who` as long as newlines come in on stdin; says its Python's version and which jobs run."""
    _look()
    lock = _lock(home() / "lock", wait_s=SILENT_S + 5)
    if lock is None:
        raise Problem("busy", **_read(home() / "lock"))
    running = [job.name for job in (home() / "jobs").iterdir() if _running(job)]
    for job in running:
        worker = _read(home() / "jobs" / job / "worker.json")
        if worker.get("who") != who:
            raise Problem("busy", **worker)
    os.ftruncate(lock, 0)
    os.pwrite(lock, json.dumps({"who": who, "since": time.strftime("%H:%M")}).encode(), 0)
    _sweep(running)
    say(version=list(sys.version_info[:2]), running=running)
    while select.select([0], [], [], SILENT_S)[0] and os.read(0, 4096):
        os.utime(home() / "lock")
    return {}


def _lock(path: Path, wait_s: float = 0) -> int | None:
    """An open file that holds the lock; None where another has it. Waits only for a holder that has gone silent."""
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    end = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return file
        except OSError:
            silent = time.time() - path.stat().st_mtime > SILENT_S / 2
            if not silent or time.monotonic() > end:
                os.close(file)
                return None
            time.sleep(0.5)


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _sweep(running: list[str]) -> None:
    """Remove what nobody came back for."""
    old = time.time() - KEEP_DAYS * 86400
    for path in [path for room in ("bundles", "jobs", "pool", "envs") for path in (home() / room).iterdir()]:
        marks = [mark for name in ("", "ready.json", "events.jsonl") if (mark := path / name).exists()]
        patience = 30 * 86400 if path.parent.name == "envs" else 0  # the longest way back
        if path.name not in running and max(mark.stat().st_mtime for mark in marks) < old - patience:
            _remove(path)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def remove(paths: list[str]) -> None:
    """Folders of this cache, named from its root."""
    for path in paths:
        _remove(home() / path)


def tidy() -> None:
    """Remove the pool's files that no folder uses any more; those on their way stay."""
    for file in (home() / "pool").iterdir():
        if file.suffix != ".part" and file.stat().st_nlink == 1:
            file.unlink()


# ---- files


def plan(folders: list[dict[str, Any]]) -> dict[str, Any]:
    """Make each folder (`root`) of what is in the pool, every file's content checked; says what is missing, and where
    each goes on. `only`: files in the folder that are not named are removed.
    """
    missing = {}
    for folder in folders:
        root = home() / folder["root"]
        for file in folder["files"]:
            if (have := _place(root / file["path"], file)) is not None:
                missing[file["sha256"]] = {"sha256": file["sha256"], "bytes": file["bytes"], "offset": have}
        wanted = {file["path"] for file in folder["files"]}
        for path in list(root.rglob("*")) if folder["only"] and root.is_dir() else []:
            if path.is_file() and path.relative_to(root).as_posix() not in wanted:
                path.unlink()
    need = sum(file["bytes"] - file["offset"] for file in missing.values())
    if missing and shutil.disk_usage(home()).free < need + ROOM:
        for other in (home() / "bundles").iterdir():  # copies only: they come again when they are asked for
            if other.relative_to(home()).as_posix() not in [folder["root"] for folder in folders]:
                _remove(other)
        tidy()
        if (free := shutil.disk_usage(home()).free) < need + ROOM:
            raise Problem("no room", need=need, free=free, where=str(home()))
    return {"missing": list(missing.values())}


def _place(path: Path, file: dict[str, Any]) -> int | None:
    """The file at its path, as it lies there or out of the pool; else how many bytes of it have come so far."""
    if _same(path, file):
        return None
    path.unlink(missing_ok=True)
    pooled = home() / "pool" / file["sha256"]
    if _same(pooled, file):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(pooled, path)
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise
            shutil.copyfile(pooled, path)  # a file system without hard links
        return None
    pooled.unlink(missing_ok=True)
    part = pooled.with_suffix(".part")
    have = part.stat().st_size if part.exists() else 0
    if have > file["bytes"]:
        part.unlink()
        have = 0
    return have


def _same(path: Path, file: dict[str, Any]) -> bool:
    return path.is_file() and path.stat().st_size == file["bytes"] and _sha256(path) == file["sha256"]


def _sha256(path: Path) -> str:
    total = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            total.update(block)
    return total.hexdigest()


def receive(files: list[dict[str, Any]], folders: list[dict[str, Any]]) -> dict[str, Any]:
    """The rest of each file from `offset`, one after the other from stdin, into the pool; then as `plan`."""
    for file in files:
        pooled = home() / "pool" / file["sha256"]
        part = pooled.with_suffix(".part")
        left = file["bytes"] - file["offset"]
        with part.open("ab") as stream:
            stream.truncate(file["offset"])
            while left:
                block = sys.stdin.buffer.read(min(left, 1 << 18))
                if not block:
                    raise Problem("gone")
                stream.write(block)
                stream.flush()
                left -= len(block)
            os.fsync(stream.fileno())
        if _sha256(part) == file["sha256"]:
            part.replace(pooled)
        else:
            part.unlink()
    return plan(folders)


def fetch(root: str) -> dict[str, Any]:
    """Every file below `root`: first what comes, then the bytes."""
    folder = home() / root
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.endswith(".part"))
    listed = [
        {"path": path.relative_to(folder).as_posix(), "bytes": path.stat().st_size, "sha256": _sha256(path)}
        for path in paths
    ]
    say(files=listed)
    for path in paths:
        with path.open("rb") as stream:
            while block := stream.read(1 << 18):
                send(block)
    return {}


# ---- the environment


def environment(key: str) -> dict[str, Any]:
    """What `install` wrote when it was done with this environment; nothing where it wasn't."""
    ready = home() / "envs" / key / "ready.json"
    with contextlib.suppress(OSError):
        os.utime(ready)
    return _read(ready)


def install(key: str, wheel: str, sha256: str, requirements: list[str], pins: list[str]) -> dict[str, Any]:
    """A virtual environment with the wheel (a path in the cache) and the requirements at the pinned versions.

    A pin that has no wheel for this board is dropped, and reported in `dropped`. Says `seconds` about every second.
    """
    folder = home() / "envs" / key
    known = environment(key)
    (folder / "ready.json").unlink(missing_ok=True)
    python = str(folder / "bin" / "python")
    if not (folder / "made").exists():
        _remove(folder)
        _run([sys.executable, "-m", "venv", str(folder)])
        (folder / "made").touch()
    pip = [python, "-m", "pip", "--disable-pip-version-check", "--no-input", "install", "--prefer-binary"]
    file = str(home() / wheel)
    dropped: list[str] = known.get("dropped", [])
    if known:  # everything is there but for this version of masters-edge
        _run([*pip, "--no-deps", "--force-reinstall", file])
    else:
        try:
            _run([*pip, *_only(pins, folder), "--only-binary", COMPILED, file, *requirements])
        except Problem as problem:
            if not any("satisf" in line or "conflict" in line for line in problem.fields["lines"]):
                raise
            dropped = [pin for pin in pins if not _available(pip, pin)]
            if not dropped:
                raise
            left = [pin for pin in pins if pin not in dropped]
            _run([*pip, *_only(left, folder), "--only-binary", COMPILED, file, *requirements])
    marker = folder / "ready.part"
    marker.write_text(json.dumps({"wheel": sha256, "dropped": dropped}), encoding="utf-8")
    marker.replace(folder / "ready.json")
    return {"wheel": sha256, "dropped": dropped}


def _only(pins: list[str], folder: Path) -> list[str]:
    file = folder / "pins.txt"
    file.write_text("\n".join(pins) + "\n", encoding="utf-8")
    return ["-c", str(file)]


def _available(pip: list[str], pin: str) -> bool:
    try:
        _run([*pip, "--dry-run", "--no-deps", "--ignore-installed", "--only-binary", ":all:", pin])
    except Problem:
        return False
    return True


def _run(command: list[str]) -> None:
    """A program that takes its time; it ends when the host is gone. Problem `command` with its last lines."""
    told = -1
    lines = [""]
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    ) as process:
        assert process.stdout is not None
        try:
            while True:
                if select.select([process.stdout], [], [], 1)[0]:
                    if not (data := os.read(process.stdout.fileno(), 1 << 16)):
                        break
                    lines += (lines.pop() + data.decode("utf-8", "replace")).split("\n")
                if (seconds := int(time.monotonic() - _STARTED)) > told:
                    told = seconds
                    say(seconds=seconds)
            status = process.wait()
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    if status:
        said = [line.strip() for line in lines if line.strip()]
        raise Problem("command", what=command[2], status=status, lines=said[-40:])


def ask(key: str, code: str) -> Any:
    """What a few lines of Python print in the environment, as JSON."""
    python = home() / "envs" / key / "bin" / "python"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL)
    if done.returncode:
        raise Problem("command", what="python", status=done.returncode, lines=done.stderr.strip().splitlines()[-5:])
    return json.loads(done.stdout.strip().splitlines()[-1])


# ---- measuring


def measure(job: str, key: str, who: str) -> dict[str, Any]:
    """Start the job's worker, detached, unless it runs already or `key` is empty. Then its events as they come, from
    its start to its end, with an empty line now and then, which finds out whether the host still listens."""
    folder = home() / "jobs" / job
    if key:
        _start(folder, home() / "envs" / key / "bin" / "python", who)
    offset, rest, spoken = 0, b"", time.monotonic()
    while True:
        alive = _running(folder)  # first, then read: nothing that it wrote last is missed
        with contextlib.suppress(FileNotFoundError), (folder / "events.jsonl").open("rb") as stream:
            stream.seek(offset)
            data = stream.read()
            offset += len(data)
            whole, _, rest = (rest + data).rpartition(b"\n")
            if whole:
                send(whole + b"\n")
                spoken = time.monotonic()
        if not alive:
            break
        if time.monotonic() - spoken > 2:
            send(b"\n")
            spoken = time.monotonic()
        time.sleep(0.1)
    said = ""
    with contextlib.suppress(OSError):
        lines = (folder / "stderr.txt").read_text(encoding="utf-8", errors="replace").splitlines()
        said = next((line.strip() for line in reversed(lines) if line.strip()), "")
    with contextlib.suppress(OSError, ValueError):
        return {"status": int((folder / "status").read_text()), "said": said}
    return {"status": None, "said": said}


def _start(folder: Path, python: Path, who: str) -> None:
    if (lock := _lock(folder / "lock")) is None:
        return
    for name in ("events.jsonl", "stderr.txt", "status"):
        (folder / name).unlink(missing_ok=True)
    script = '"$0" -m masters_edge.benchmarks.worker . >events.jsonl 2>stderr.txt; echo $? >status'
    quiet: dict[str, Any] = dict(stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    process = subprocess.Popen(
        ["/bin/sh", "-c", script, str(python)], cwd=folder, start_new_session=True, pass_fds=[lock], **quiet
    )
    os.close(lock)  # the worker's is what holds it now
    about = {"who": who, "since": time.strftime("%H:%M"), "pid": process.pid}
    (folder / "worker.json").write_text(json.dumps(about), encoding="utf-8")


def stop(jobs: list[str]) -> None:
    """End these jobs' workers; their raw files stay."""
    for job in jobs:
        folder = home() / "jobs" / job
        pid = _read(folder / "worker.json").get("pid")
        if not pid or not _running(folder):
            continue
        for number, patience in ((signal.SIGTERM, 5.0), (signal.SIGKILL, 5.0)):
            end = time.monotonic() + patience
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, number)
            while _running(folder) and time.monotonic() < end:
                time.sleep(0.05)


def _running(folder: Path) -> bool:
    if not (folder / "lock").exists():
        return False
    lock = _lock(folder / "lock")
    if lock is not None:
        os.close(lock)
    return lock is None


OPS = (hold, remove, tidy, plan, receive, fetch, environment, install, ask, measure, stop)


def main() -> None:
    arguments = json.loads(sys.stdin.buffer.readline())
    op = {function.__name__: function for function in OPS}[arguments.pop("op")]
    try:
        send(f"{HELLO}\n".encode())
        try:
            say(ok=op(**arguments))
        except Problem as problem:
            say(**problem.fields)
        except OSError as error:
            if isinstance(error, BrokenPipeError):
                raise
            full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
            where = str(error.filename or home())
            say(problem="disk full" if full else "os", where=where, message=error.strerror or str(error))
    except BrokenPipeError:  # the host is gone
        os._exit(1)


if __name__ == "__main__":
    main()
