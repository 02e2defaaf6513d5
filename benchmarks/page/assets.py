"""transformers.js and onnxruntime-web, which the page runs students with: fetched from npm once, served from here.

    python -m masters_edge.benchmarks.page.assets      # what installing masters-edge does by itself where npm is there

`package-lock.json` pins both packages by version and hash. Their tarballs come by `npm pack`: no scripts are run, and
the half gigabyte that they would pull in for Node isn't needed. Only what a browser loads is kept.
"""

import base64
import hashlib
import json
import secrets
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

# The standard library alone: setup.py runs this file before masters_edge is there to be imported.

HERE = Path(__file__).resolve().parent
FOLDER = HERE / "assets"
COMMAND = "python -m masters_edge.benchmarks.page.assets"
_RECORD = "lock.txt"  # written last: what `lock()` was when the files were fetched
_TIMEOUT_S = 900

# The name here, the package, the path in it. WASM runs on the plain build of onnxruntime, which is half as large;
# only the other one has WebGPU.
_TABLE = {
    "transformers.min.js": ("@huggingface/transformers", "dist/transformers.min.js"),
    "transformers.LICENSE.txt": ("@huggingface/transformers", "LICENSE"),
    "ort-wasm-simd-threaded.mjs": ("onnxruntime-web", "dist/ort-wasm-simd-threaded.mjs"),
    "ort-wasm-simd-threaded.wasm": ("onnxruntime-web", "dist/ort-wasm-simd-threaded.wasm"),
    "ort-wasm-simd-threaded.asyncify.mjs": ("onnxruntime-web", "dist/ort-wasm-simd-threaded.asyncify.mjs"),
    "ort-wasm-simd-threaded.asyncify.wasm": ("onnxruntime-web", "dist/ort-wasm-simd-threaded.asyncify.wasm"),
    "onnxruntime-web.README.md": ("onnxruntime-web", "README.md"),
}


class CannotFetch(RuntimeError):
    """The packages can't be had; the message is a sentence for people."""


def files(folder: Path = FOLDER) -> dict[str, Path]:
    """What may be served, by name."""
    return {name: folder / name for name in _TABLE}


def ready(folder: Path = FOLDER) -> bool:
    """Whether the files that this version pins are there."""
    try:
        recorded = (folder / _RECORD).read_text(encoding="utf-8")
    except OSError:
        return False
    return recorded == lock() and all(path.is_file() for path in files(folder).values())


def lock() -> str:
    """A short hash of the files' content, known before they are there: the packages' own hashes and what is kept."""
    kept = json.dumps([_pinned(), _TABLE], sort_keys=True)
    return hashlib.sha256(kept.encode()).hexdigest()[:12]


def versions() -> dict[str, str]:
    """The pinned version of each package."""
    return {name: version for name, (version, _) in _pinned().items()}


def missing() -> str:
    """What to tell a person when the files aren't there."""
    first = "install Node.js (its npm fetches them)" if shutil.which("npm") is None else "connect to the network"
    return (
        f"the page has no transformers.js yet: npm or the network was missing when masters-edge was installed; "
        f"{first}, then run: {COMMAND}"
    )


def fetch(folder: Path = FOLDER) -> None:
    """Have the files in `folder`; nothing is done where they are there. Raises CannotFetch."""
    if ready(folder):
        return
    npm = shutil.which("npm")
    if npm is None:
        raise CannotFetch("npm isn't installed")
    try:
        with tempfile.TemporaryDirectory(prefix="masters-edge-npm-") as place:
            part = folder.with_name(f"{folder.name}.part-{secrets.token_hex(4)}")
            part.mkdir(parents=True)
            try:
                for package, (version, integrity) in _pinned().items():
                    _unpack(tarball(npm, package, version, integrity, Path(place)), package, part)
                (part / _RECORD).write_text(lock(), encoding="utf-8")
                shutil.rmtree(folder, ignore_errors=True)
                part.rename(folder)
            finally:
                shutil.rmtree(part, ignore_errors=True)
    except (OSError, tarfile.TarError) as error:
        raise CannotFetch(f"{folder} can't be written ({error})") from error


def _pinned() -> dict[str, tuple[str, str]]:
    """Version and integrity (`sha512-` and base64) of each package that the table names."""
    packages = json.loads((HERE / "package-lock.json").read_text(encoding="utf-8"))["packages"]
    names = dict.fromkeys(package for package, _ in _TABLE.values())
    return {
        name: (entry["version"], entry["integrity"]) for name in names if (entry := packages[f"node_modules/{name}"])
    }


def tarball(npm: str, package: str, version: str, integrity: str, place: Path) -> Path:
    """The package as the registry has it, its hash checked."""
    command = [npm, "pack", f"{package}@{version}", "--ignore-scripts", "--prefer-offline"]
    command += ["--fetch-retries=1", "--fetch-retry-mintimeout=1000", "--pack-destination", str(place)]
    before = set(place.iterdir())
    try:
        done = subprocess.run(command, cwd=place, capture_output=True, text=True, timeout=_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        raise CannotFetch(f"npm took over {_TIMEOUT_S // 60} minutes for {package}") from None
    found = [path for path in place.iterdir() if path not in before and path.suffix == ".tgz"]
    if done.returncode or len(found) != 1:
        said = [line.removeprefix("npm error ").strip() for line in (done.stderr or done.stdout).splitlines()]
        why = next((line for line in said if "Error:" in line), " ".join(said[:3]) or "it says nothing")
        raise CannotFetch(f"npm can't fetch {package} {version} ({why})")
    digest = base64.b64encode(hashlib.sha512(found[0].read_bytes()).digest()).decode()
    if f"sha512-{digest}" not in integrity.split():
        raise CannotFetch(f"{package} {version} from npm isn't the one that package-lock.json names: its hash differs")
    return found[0]


def _unpack(tarball: Path, package: str, folder: Path) -> None:
    """Only the files of the table, each under its name there."""
    with tarfile.open(tarball) as archive:
        for name, (owner, inside) in _TABLE.items():
            if owner != package:
                continue
            try:
                source = archive.extractfile(f"package/{inside}")
            except KeyError:
                source = None
            if source is None:
                raise CannotFetch(f"{package} has no {inside}")
            with (folder / name).open("wb") as target:
                shutil.copyfileobj(source, target)


def main() -> int:
    """Fetch, and say how it went."""
    try:
        fetch()
    except CannotFetch as error:
        print(f"Error: {error}; {missing()}", file=sys.stderr)
        return 2
    size = sum(path.stat().st_size for path in files().values())
    print(f"{FOLDER}: {', '.join(f'{name} {version}' for name, version in versions().items())}; {size / 1e6:.0f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
