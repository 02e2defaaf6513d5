"""Which runtime answers fastest on this device: what `backend: auto` takes.

In: a bundle and the number of threads. Out: a `Choice`. Where several installed runtimes can run the bundle, each
answers a made-up picture in a process of its own, so that those not taken leave no memory behind; the choice is kept
in the user's cache folder (`MASTERS_EDGE_CACHE` names another) until bundle, runtimes, threads or processor change.
"""

import hashlib
import importlib.metadata
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from masters_edge.common import cpu
from masters_edge.common.errors import UserError
from masters_edge.common.files import whole_file
from masters_edge.runtime import backends

VERSION = 1  # of the kept choice and of the way it is measured
SIDES = (448, 224, 112, 56, 28)  # pixels of the made-up picture: the first one that leaves room for an answer
QUESTION = "what is in this image?"
TOKENS = 16  # of each answer
BUDGET_S = 1.5  # answers go on so long, and one is given in any case
MOST_ANSWERS = 20
LIMIT_S = 900  # for one runtime, from the start of its process


@dataclass(frozen=True)
class Choice:
    """`ms`: median whole answer of each runtime measured; empty where there was nothing to choose from. `left_out`:
    runtimes that failed, and why. `measured_now`: False where the choice was kept from an earlier start. `not_kept`:
    why the choice couldn't be kept, if it couldn't."""

    backend: str
    ms: dict[str, float]
    left_out: dict[str, str]
    measured_now: bool = False
    not_kept: str | None = None

    @property
    def reason(self) -> str:
        """One line for people: what was taken, and why."""
        if not self.ms:
            return f"{self.backend}, the only runtime installed here for this bundle"
        ordered = sorted(self.ms, key=self.ms.__getitem__)
        figures = ", ".join(f"{name} {self.ms[name]:.1f} ms" for name in ordered)
        words = [f"{self.backend}, the fastest here for an answer of {TOKENS} tokens ({figures})"]
        words += [f"{name} was left out: {why}" for name, why in self.left_out.items()]
        if self.not_kept:
            words.append(f"measured at every start, as {self.not_kept}")
        return "; ".join(words)


def of_bundle(folder: Path, threads: int) -> Choice:
    """What `Student.load(folder, threads=threads)` runs on; measured where it isn't known."""
    from masters_edge.bundle import manifest as bundle

    manifest = bundle.read(folder)
    return choose(manifest.target, folder, manifest.graphs, threads)


def choose(target: str, folder: Path, graphs: dict[str, str], threads: int, exact: bool = False) -> Choice:
    """The fastest installed runtime for a bundle.

    Raises UserError where none is installed, or where each of several fails.
    """
    able = {name: module for name, module in backends.modules().items() if target in module.AVAILABLE_FOR}
    if not able:
        raise UserError(f"no backend runs bundles for {target}; known are: {', '.join(backends.names())}")
    packages = {name: module.PACKAGE for name, module in able.items() if importlib.util.find_spec(module.PACKAGE)}
    if not packages:
        wanted = " or ".join(module.PACKAGE for module in able.values())
        raise UserError(
            f"{folder} is a bundle for {target}, which needs a package that can't be imported here ({wanted}); "
            f"run: pip install {next(iter(able.values())).PACKAGE}"
        )
    if len(packages) == 1:
        return Choice(next(iter(packages)), {}, {})
    key = _key(folder, packages, threads, exact)
    place = None if key is None else cache_folder() / "fastest" / f"{key}.json"
    kept = None if place is None else _read(place, packages)
    if kept is not None:
        return kept
    found = _measured(target, folder, graphs, threads, exact, list(packages))
    return replace(found, measured_now=True, not_kept=_keep(place, found))


def cache_folder() -> Path:
    """Where this user's caches go."""
    if given := os.environ.get("MASTERS_EDGE_CACHE"):
        return Path(given)
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "masters-edge" / "cache"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "masters-edge"
    base = Path(os.environ.get("XDG_CACHE_HOME") or "")
    return (base if base.is_absolute() else Path.home() / ".cache") / "masters-edge"


def _key(folder: Path, packages: dict[str, str], threads: int, exact: bool) -> str | None:
    """All that the choice depends on, as a hash; None for a folder that isn't a finished bundle."""
    try:
        manifest = (folder / "manifest.json").read_bytes()
    except OSError:
        return None
    versions = {package: _version(package) for package in packages.values()}
    parts = [VERSION, hashlib.sha256(manifest).hexdigest(), versions, threads, exact, cpu.name()]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:  # installed under another name, such as onnxruntime-gpu
        spec = importlib.util.find_spec(package)
        return str(spec and spec.origin)


def _read(place: Path, packages: dict[str, str]) -> Choice | None:
    """A choice kept earlier; None where there is none, or none that can be read."""
    try:
        found = Choice(**json.loads(place.read_text(encoding="utf-8")))
        whole = found.backend in found.ms and found.ms.keys() | found.left_out.keys() == packages.keys()
        return found if whole and all(value > 0 for value in found.ms.values()) else None
    except (OSError, ValueError, TypeError, AttributeError):
        return None


def _keep(place: Path | None, choice: Choice) -> str | None:
    """Write it down; why not, where that can't be."""
    if place is None:
        return "the bundle has no manifest to know it by"
    try:
        with whole_file(place) as temporary:
            temporary.write_text(json.dumps(asdict(choice), indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        return f"{place.parent} can't be written to ({error.strerror or error})"
    return None


def _measured(
    target: str, folder: Path, graphs: dict[str, str], threads: int, exact: bool, names: Sequence[str]
) -> Choice:
    """Each runtime in a process of its own, one after the other."""
    ms: dict[str, float] = {}
    left_out: dict[str, str] = {}
    for name in names:
        job = dict(folder=str(folder), graphs=graphs, target=target, backend=name, threads=threads, exact=exact)
        found = _child(job)
        if "error" in found:
            left_out[name] = found["error"]
        else:
            ms[name] = found["ms"]
    if not ms:
        raise UserError("; ".join(left_out.values()))
    return Choice(min(ms, key=ms.__getitem__), ms, left_out)


def _child(job: dict[str, Any]) -> dict[str, Any]:
    """{"ms": median} of one runtime, or {"error": sentence}."""
    threads = str(job["threads"])
    command = [sys.executable, "-m", __name__, json.dumps(job)]
    environment = os.environ | {"OMP_NUM_THREADS": threads}
    try:
        run = subprocess.run(
            command, capture_output=True, text=True, errors="replace", env=environment, timeout=LIMIT_S
        )
    except subprocess.TimeoutExpired:
        return {"error": f"it gave no answer in {LIMIT_S} s"}
    except OSError as error:
        return {"error": f"no process of its own could be started ({error})"}
    for line in reversed(run.stdout.splitlines()):
        if line.startswith("{"):
            return json.loads(line)
    if run.returncode < 0:
        return {"error": f"its process was ended by {signal.Signals(-run.returncode).name}"}
    last = [line for line in run.stderr.splitlines() if line.strip()][-1:]
    return {"error": f"its process failed ({last[0].strip() if last else f'status {run.returncode}'})"}


def measure(
    folder: str, graphs: dict[str, str], target: str, backend: str, threads: int, exact: bool
) -> dict[str, float]:
    """In this process: load, warm up, answer for a moment; the median whole answer in milliseconds."""
    import numpy as np
    from PIL import Image

    from masters_edge.runtime import Student

    student = Student(Path(folder), graphs, target, backend, threads, exact)
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (28, 28, 3), np.uint8))
    # A bundle of static graphs may hold less than the student could.
    context = min(student.context, getattr(student.backend, "context", student.context))
    for side in SIDES:
        picture = noise.resize((side, side), Image.Resampling.BICUBIC)
        room = context - len(student.ask(picture, QUESTION).input_ids)
        if room >= TOKENS:
            break
    count = max(1, min(TOKENS, room))
    student.answer(picture, QUESTION, exactly=count)
    times: list[float] = []
    until = time.perf_counter() + BUDGET_S
    while not times or (time.perf_counter() < until and len(times) < MOST_ANSWERS):
        times.append(student.answer(picture, QUESTION, exactly=count).total_ms)
    getattr(student.backend, "close", lambda: None)()
    return {"ms": sorted(times)[len(times) // 2], "answers": len(times)}


def _main() -> None:
    try:
        found: dict[str, Any] = dict(measure(**json.loads(sys.argv[1])))
    except UserError as error:
        found = {"error": str(error)}
    print(json.dumps(found), flush=True)
    os._exit(0)  # some runtimes take long to clean up, and nothing of theirs is needed any more


if __name__ == "__main__":
    _main()
