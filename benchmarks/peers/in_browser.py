"""Our own bundles, answered in a browser by transformers.js and onnxruntime-web (`masters_edge.benchmarks.page`)."""

from pathlib import Path

from masters_edge.benchmarks.peers import bundle as here
from masters_edge.bundle import manifest as manifests
from masters_edge.common.errors import UserError
from masters_edge.runtime import settings

COLD_STARTS = 3
CHOOSES = True
BACKENDS = ("wasm", "webgpu")
TARGETS = ("onnx", "onnx_portable")
FAMILIES = ("smolvlm", "idefics3", "qwen2_5_vl", "qwen3_vl", "internvl")
PACKAGES = ("masters-edge", "@huggingface/transformers", "onnxruntime-web")

fingerprint = here.fingerprint


def packages(path: str, backend: str = "auto") -> tuple[str, ...]:
    """What answers the bundle there, by the names of PyPI and npm. Raises UserError where it can't be run there."""
    runtimes(path, backend)
    check(path)
    return PACKAGES


def runtimes(path: str, backend: str = "auto") -> tuple[str, ...]:
    """What of onnxruntime-web the backend may mean."""
    if backend not in ("auto", *BACKENDS):
        raise UserError(f"a browser has no backend {backend!r}; use one of: auto, {', '.join(BACKENDS)}")
    return BACKENDS if backend == "auto" else (backend,)


def check(path: str) -> None:
    """Raise UserError where a browser can't run this bundle."""
    folder = Path(path)
    target = manifests.read(folder).target
    if target not in TARGETS:
        raise UserError(
            f"{folder} is a bundle for {target}; a browser runs {' and '.join(TARGETS)}: export the student for one of "
            "them, or measure this one with --device local"
        )
    config = settings.read(folder, "config.json", settings.Config)
    family = config.masters_edge_model_type or config.model_type
    if family not in FAMILIES:
        raise UserError(
            f"the browser's runtime does not know {family}; it knows {', '.join(FAMILIES)}; "
            "measure it with --device local"
        )
