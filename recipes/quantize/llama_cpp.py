"""llama.cpp's own quantizer, out of the library that node-llama-cpp's npm package holds for Linux on x86-64.

`llama_model_quantize` is what the program `llama-quantize` calls with its options (llama.h).
"""

import ctypes
import subprocess
import sys
import tarfile
from pathlib import Path

PACKAGE = "@node-llama-cpp/linux-x64@3.22.1"
TYPES = {"Q4_0": 2, "Q8_0": 7, "Q4_K_M": 15}  # llama_ftype in llama.h


class _Params(ctypes.Structure):
    """llama_model_quantize_params: its first fields, and room for all others, which keep their defaults."""

    _fields_ = [("nthread", ctypes.c_int32), ("ftype", ctypes.c_int32), ("others", ctypes.c_byte * 1024)]


def fetch(folder: Path) -> Path:
    """The folder of libraries, out of npm's package, which is downloaded once."""
    if not (folder / "package").exists():
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run(["npm", "pack", PACKAGE], cwd=folder, check=True, capture_output=True)
        with tarfile.open(next(folder.glob("*.tgz"))) as archive:
            archive.extractall(folder, filter="data")
    return folder / "package" / "bins" / "linux-x64"


def quantize(libraries: Path, source: Path, out: Path, kind: str, threads: int) -> None:
    """Write `source`, a float32 GGUF file, as `kind` into `out`; in a process of its own, as the library can abort."""
    part = out.with_suffix(".part")
    subprocess.run(
        [sys.executable, __file__, str(libraries), str(source), str(part), kind, str(threads)],
        check=True,
        capture_output=True,
    )
    part.rename(out)


def _quantize(libraries: Path, source: str, out: str, kind: str, threads: int) -> None:
    for name in ("libggml-base*.so*", "libggml-cpu-x64.so*", "libggml.*so*"):
        for path in sorted(libraries.glob(name)):
            ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
    library = ctypes.CDLL(str(next(libraries.glob("libllama.v*.so"))))
    library.llama_model_quantize_default_params.restype = _Params
    params = library.llama_model_quantize_default_params()
    params.nthread, params.ftype = threads, TYPES[kind]
    failed = library.llama_model_quantize(source.encode(), out.encode(), ctypes.byref(params))
    if failed:
        raise SystemExit(f"llama.cpp couldn't write {source} as {kind}")


if __name__ == "__main__":
    _quantize(Path(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4], int(sys.argv[5]))
