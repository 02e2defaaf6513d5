"""Known, harmless chatter of the libraries underneath, switched off by name.

Only messages that say nothing about the user's run are listed here, each with its source. Everything else stays
visible. Call `hush()` before the first import of torch or transformers.
"""

import importlib
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

# Loggers whose INFO/WARNING lines concern the build of a library, not this run.
LOGGERS = (
    "torchao",  # "Failed to load _C_*.so": CUDA kernels of a package built for several machines
    "torch.utils._pytree",  # deprecations inside torchao 0.18's own import
    "torch.onnx",  # progress lines of the exporter; our own bar stands in their place
    "onnxscript",
    "torch.distributed.elastic",  # "Redirects are currently not supported" on Windows and macOS
    "httpx",
)


def hush() -> None:
    """Quiet the listed loggers and telemetry, and make hub look-ups quick to fail when there is no network."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    for name in LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)
    # peft and transformers' own Trainer still say gradient_checkpointing for activation_checkpointing.
    warnings.filterwarnings("ignore", message=".*gradient_checkpointing.* is deprecated", category=FutureWarning)
    # Executorch speaks of its own state of development, and of the KV cache, which is meant to change.
    warnings.filterwarnings("ignore", message="This API is experimental.*")
    warnings.filterwarnings("ignore", message=".*Mutation on a buffer in the model is detected.*")
    # torch's exporter copies a tree spec through a deprecated class of its own.
    warnings.filterwarnings("ignore", message=".*isinstance\\(treespec, LeafSpec\\).*")


def hush_transformers() -> None:
    """Same for transformers, whose logger can be reached only after its import."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()


@contextmanager
def without_lines(start: str) -> Iterator[None]:
    """Hold back what C++ code writes to standard error in the block; what doesn't begin with `start` comes after it."""
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as written:
        os.dup2(written.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            written.seek(0)
            for line in written.read().splitlines(keepends=True):
                if not line.startswith(start.encode()):
                    os.write(2, line)


def import_openvino(name: str = "openvino") -> ModuleType:
    """OpenVINO, or one of its neighbours by name, without the telemetry that its import would send.

    OpenVINO takes a stub of its own where the telemetry package can't be imported.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    return importlib.import_module(name)
