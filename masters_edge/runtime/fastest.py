"""Which runtime answers fastest on this device: what `backend: auto` takes.

In: a bundle and the number of threads. Out: a `Choice`. Each installed runtime that can run the bundle answers a
made-up picture in a process of its own, so that what it dies of, or hangs in, stays there, and those not taken leave no
memory behind. Where it dies, its next setting is tried. The choice is kept in the user's cache folder
(`MASTERS_EDGE_CACHE` names another) until bundle, runtimes, threads or processor change.
"""

import hashlib
import importlib.metadata
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from masters_edge.bundle import manifest as manifests
from masters_edge.common import cache, child, cpu
from masters_edge.common.errors import UserError
from masters_edge.common.files import whole_file
from masters_edge.runtime import backends
from masters_edge.runtime.backends._protocols import Choice

TRIAL = "masters_edge.runtime.trial"  # runs as a process of its own
VERSION = 2  # of the kept choice and of the way it is measured
LIMIT_S = 900  # for one runtime, from the start of its process
BUDGET_S = 1.5  # answers go on so long where runtimes are compared, and one is given in any case


def of_bundle(folder: Path, threads: int) -> Choice:
    """What `Student.load(folder, threads=threads)` runs on; measured where it isn't known."""
    manifest = manifests.read(folder)
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
    key = _key(folder, packages, threads, exact)
    place = None if key is None else _place(key)
    kept = None if place is None else _read(place, packages)
    if kept is not None:
        return kept
    found = _measured(target, folder, graphs, threads, exact, list(packages))
    return replace(found, measured_now=bool(found.ms), not_kept=_keep(place, found))


def proven(target: str, folder: Path, name: str, died: str | None, threads: int) -> None:
    """Keep what the export has found out: a bundle's only runtime, `name`, answers here at the setting that is in its
    name. Where several can run the bundle, nothing is kept, since it isn't known which is the fastest."""
    able = {other: module.PACKAGE for other, module in backends.modules().items() if target in module.AVAILABLE_FOR}
    packages = {other: package for other, package in able.items() if importlib.util.find_spec(package)}
    key = _key(folder, packages, threads, exact=False)
    if len(packages) == 1 and key is not None:
        _keep(_place(key), Choice(name, {}, {}, died=died))


def _place(key: str) -> Path:
    return cache.folder() / "fastest" / f"{key}.json"


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
        told = found.ms if len(packages) > 1 else {found.backend: 1.0}
        whole = found.backend in told and {name.partition(":")[0] for name in told} | found.left_out.keys() == {
            *packages
        }
        backends.module(found.backend)
        return found if whole and all(value > 0 for value in found.ms.values()) else None
    except (OSError, ValueError, TypeError, AttributeError, UserError):
        return None


def _keep(place: Path | None, choice: Choice) -> str | None:
    """Write it down; why not, where that can't be."""
    if place is None:
        return "the bundle has no manifest to know it by"
    try:
        with whole_file(place) as temporary:
            temporary.write_text(json.dumps(asdict(choice), indent=1) + "\n", encoding="utf-8")
    except (OSError, UserError) as error:
        return f"{place.parent} can't be written to ({getattr(error, 'strerror', None) or error})"
    return None


def _measured(
    target: str, folder: Path, graphs: dict[str, str], threads: int, exact: bool, names: Sequence[str]
) -> Choice:
    """Each runtime in a process of its own, one after the other; a lone one answers once, as nothing is compared."""
    ms: dict[str, float] = {}
    left_out: dict[str, str] = {}
    died: dict[str, str] = {}
    budget_s = BUDGET_S if len(names) > 1 else 0.0
    job = dict(folder=str(folder), graphs=graphs, target=target, threads=threads, exact=exact, budget_s=budget_s)
    for name in names:
        deaths: list[str] = []
        for setting in backends.settings(name):
            found = _child(job | {"backend": setting})
            if "ms" in found:
                ms[setting] = found["ms"]
                died |= {setting: f"{'; '.join(deaths)}; so {setting} was taken"} if deaths else {}
            elif "died" in found:
                deaths.append(f"{backends.runtime(name)} fails at {backends.setting_of(setting)}: {found['died']}")
                continue
            break
        if setting not in ms:
            left_out[name] = found.get("error") or "; ".join(deaths)
    if not ms:
        raise UserError("; ".join(left_out.values()))
    best = min(ms, key=ms.__getitem__)
    return Choice(best, ms if len(names) > 1 else {}, left_out, died=died.get(best))


def _child(job: dict[str, Any]) -> dict[str, Any]:
    """{"ms": median} of one runtime, {"error": sentence}, or {"died": how its process ended}."""
    threads = str(job["threads"])
    command = [sys.executable, "-m", TRIAL, json.dumps(job)]
    environment = os.environ | {"OMP_NUM_THREADS": threads}
    try:
        run = subprocess.run(
            command, capture_output=True, text=True, errors="replace", env=environment, timeout=LIMIT_S
        )
    except subprocess.TimeoutExpired:
        return {"died": f"it gave no answer in {LIMIT_S} s"}
    except OSError as error:
        return {"error": f"no process of its own could be started ({error})"}
    said = list(child.objects(run.stdout.splitlines()))
    return said[-1] if said else {"died": child.ending(run.returncode, run.stderr)}
