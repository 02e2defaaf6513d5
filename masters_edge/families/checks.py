"""What of a checkpoint is looked at before transformers loads it: checkpoints come from strangers.

Weights and settings are data. Whatever would make a program of them is refused: code of the checkpoint's own, kernels
and quantizers that its config names, files that are none. Pickled weights are read as plain tensors or not at all.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from masters_edge.common import inside
from masters_edge.common.errors import UserError, reason

FETCH = "fetch the checkpoint again"
_MOST_BYTES = 64 << 20  # of a settings file or an index of shards
_READ = (
    ".json",
    ".safetensors",
    ".jinja",
    ".txt",
    ".model",
    ".bin",
)  # what transformers opens
_ADAPTER = "adapter_config.json"
_SETTINGS = ("config.json", "generation_config.json")
_INDICES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
# Keys whose value may name a kernel on the hub (namespace/name), wherever in a config they stand.
_KERNELS = re.compile(r"^_?(attn|experts)_implementation(_internal)?$")
_DEEPEST = 20


def refuse_programs(source: str, local_files_only: bool = False) -> None:
    """Raise UserError where a checkpoint (folder or hub id) would have anything loaded but tensors and settings."""
    folder = Path(source)
    if folder.is_dir():
        regular_files(folder)
        for name in _INDICES:
            if (folder / name).exists():
                shards(folder, name)
        for name in _SETTINGS:
            if (folder / name).exists():
                _check_config(f"{folder / name}", _json(folder / name))
        if (folder / _ADAPTER).exists():
            raise _adapter(source)
        return
    from transformers.utils import cached_file

    found = cached_file(source, "config.json", local_files_only=local_files_only)
    if found is not None:
        _check_config(f"{source}: config.json", _json(Path(found)))
    quiet = {f"_raise_exceptions_for_{what}": False for what in ("missing_entries", "connection_errors", "gated_repo")}
    if cached_file(source, _ADAPTER, local_files_only=local_files_only, **quiet):
        raise _adapter(source)


def _adapter(source: str) -> UserError:
    """transformers would load an adapter into whatever base model it names."""
    return UserError(f"{source} is an adapter of another model, and whole models are loaded; merge it into its model")


def refuse_quantizer(folder: Path) -> None:
    """Raise UserError where the folder's config.json, if it has one, names a quantizer or another program."""
    if (folder / "config.json").exists():
        path = inside.regular(folder, folder / "config.json", FETCH, linked=True)
        _check_config(f"{folder / 'config.json'}", _json(path))


def regular_files(folder: Path) -> None:
    """Raise UserError for a FIFO or a device among a checkpoint's files: opening one may take for ever."""
    for path in folder.iterdir():
        if path.suffix in _READ:
            inside.regular(folder, path, FETCH, linked=True)


def shards(folder: Path, index: str) -> list[str]:
    """The files that an index of shards names, sorted; raises UserError for a name that leads out of the folder."""
    found = _json(folder / index)
    named = found.get("weight_map")
    if not isinstance(named, dict) or not all(isinstance(name, str) for name in named.values()):
        raise UserError(f"{folder / index} has no weight_map of tensors and files; {FETCH}")
    for name in (names := sorted(set(named.values()))):
        inside.regular(folder, folder.joinpath(*inside.checked(folder, name, FETCH)), FETCH, linked=True)
    return names


def said(error: Exception) -> str:
    """What transformers or torch raised, as a part of a sentence; without their advice to allow what may do harm."""
    words = str(error)
    if "custom code" in words or "trust_remote_code" in words:
        return "it needs code of its own, and masters-edge runs no code of a checkpoint (trust_remote_code is off)"
    if type(error).__name__ == "UnpicklingError" or "weights_only" in words or "CVE-2025-32434" in words:
        return "its .bin weights are no plain tensors, so they may run programs; take it as safetensors"
    return reason(error, 300)


def _json(path: Path) -> dict[str, Any]:
    """An object of JSON, of bounded size."""
    try:
        with path.open("rb") as file:
            content = file.read(_MOST_BYTES + 1)
        found = json.loads(content) if len(content) <= _MOST_BYTES else None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} can't be read ({reason(error)}); {FETCH}") from None
    if not isinstance(found, dict):
        raise UserError(f"{path} is no JSON object; {FETCH}")
    return found


def _check_config(where: str, config: dict[str, Any]) -> None:
    for key, value in _items(config):
        if _KERNELS.match(key) and any("/" in str(one) for one in _leaves(value)):
            raise UserError(
                f"{where}: {key} names a kernel on the hub, a program, and masters-edge loads none; remove {key}"
            )
        if key in ("quantization_config", "compression_config") and value:
            method = value.get("quant_method", "") if isinstance(value, dict) else value
            raise UserError(
                f"{where} names a quantizer ({reason(ValueError(method), 40)}), and quantized checkpoints are not "
                "loaded; give the unquantized one"
            )
        if key in ("use_kernels", "kernel_config") and value:
            raise UserError(f"{where}: {key} asks for kernels of the hub, and masters-edge loads none; remove {key}")


def _items(value: Any, depth: int = 0) -> Iterator[tuple[str, Any]]:
    """Every key of a config, at every level."""
    if depth > _DEEPEST:
        return
    if isinstance(value, dict):
        for key, one in value.items():
            yield key, one
            yield from _items(one, depth + 1)
    elif isinstance(value, list):
        for one in value:
            yield from _items(one, depth + 1)


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        yield from value.values()
    else:
        yield value
