"""`masters-edge mask`: a checkpoint with its smallest weights zeroed, written one tensor at a time.

In: a folder as transformers saves it, or a hub id. Out: the same folder with masked safetensors files; loaded, its
weights are bit for bit those of `MaskedTeacher` at the same ratio. For training that loads masked teachers ready-made
(sharded over GPUs, or in another program).
"""

import json
import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from masters_edge.common import inside
from masters_edge.common.display import progress, say
from masters_edge.common.errors import UserError, reason
from masters_edge.common.files import at_home, whole_folder
from masters_edge.families.checks import FETCH, refuse_quantizer
from masters_edge.families.checks import shards as shards_of
from masters_edge.teacher.masking import check_globs, dropped_count, mask_tensor_, wanted
from masters_edge.teacher.published import is_layer

Progress = Callable[[int], None]

_FLOATS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_WHOLE_NUMBERS = ("I64", "I32", "I16", "BOOL")  # positions and the like; never weights, so copied as they are
_OTHER_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".gguf", ".onnx", ".onnx_data")
_FROM_THE_HUB = ["*.json", "*.safetensors", "*.jinja", "*.txt", "*.model", "*.py", "*.md"]
_BLOCK = 16 << 20  # bytes copied at once
_LONGEST_HEADER = 100_000_000  # bytes; safetensors' own bound
INDEX = "model.safetensors.index.json"


def mask_checkpoint(
    teacher: str,
    out: Path,
    ratio: float,
    include: Sequence[str] = ("*",),
    exclude: Sequence[str] = (),
) -> None:
    """Write `teacher` masked at `ratio` to the folder `out`; nothing is left there where it fails.

    Everything else in the checkpoint's folder (config, tokenizer, processor, templates) is copied; weights in other
    formats are not, since they would be unmasked. Memory: the largest tensor, and what selecting within it takes.

    Args:
        teacher: a folder, or a hub id (fetched through huggingface_hub, as transformers would).
        out: a folder that doesn't exist, or an empty one.
        ratio: share of each tensor to zero, 0 <= ratio < 1.
        include: globs of the tensors' names in the checkpoint that may be masked; only floats of two or more dimensions
            ever are, norms and biases never.
        exclude: globs of names that never are.

    Raises:
        UserError: a ratio out of bounds, no such folder or hub id, no safetensors, quantized weights, a damaged file,
            or an `out` that is not empty.
    """
    if not 0 <= ratio < 1:
        raise UserError(f"--ratio is {ratio:g}, but must be at least 0 and less than 1")
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise UserError(f"{out} exists and is not empty; give a new folder")
    folder = _folder(teacher)
    refuse_quantizer(folder)
    names = _shards(folder)
    shards = {name: inside.place(folder, name, FETCH) for name in names}
    headers = {name: _header(shard) for name, shard in shards.items()}
    for name, header in headers.items():
        _check(folder / name, header, include, exclude)
    tensors = [name for _, header in headers.values() for name, entry in header.items() if len(entry["shape"]) >= 2]
    check_globs(tensors, include, exclude, "--{}", teacher)
    left_out = []
    size = sum(shard.stat().st_size for shard in shards.values())
    with whole_folder(out) as temporary, progress("masking, MB", round(size / 1e6)) as bar:
        for path in sorted(folder.iterdir()):
            if path.name in shards:
                continue
            if path.suffix in _OTHER_WEIGHTS or path.name.endswith(".bin.index.json"):
                left_out.append(path.name)
            elif path.is_dir() and not path.is_symlink():
                if not path.name.startswith("."):
                    _copy(folder, path.name, temporary, names)
            else:
                shutil.copyfile(inside.regular(folder, path, FETCH), temporary / path.name)
        for name, header in headers.items():
            target = temporary.joinpath(*name.split("/"))
            target.parent.mkdir(parents=True, exist_ok=True)
            _mask_file(shards[name], target, header, ratio, include, exclude, lambda done: bar(done / 1e6))
        bar(completed=round(size / 1e6))
    if left_out:
        say(f"left out, since they hold weights that would be unmasked: {', '.join(left_out)}")
    say(f"{out}: {size / 1e6:.1f} MB of weights, the smallest {100 * ratio:g}% of each tensor zeroed")


def _copy(folder: Path, below: str, out: Path, shards: Sequence[str]) -> None:
    """A folder in the checkpoint's without the weights in it; raises UserError for a link that leads out."""
    for name in inside.files(folder / below, FETCH):
        path = Path(below, name)
        if path.suffix in _OTHER_WEIGHTS or path.as_posix() in shards:
            continue
        (out / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(inside.regular(folder, folder / path, FETCH), out / path)


def _folder(teacher: str) -> Path:
    folder = at_home(teacher)
    if folder.is_dir():
        return folder
    if teacher.startswith((".", "/", "~")) or folder.exists() or teacher.count("/") > 1:
        raise UserError(f"there is no checkpoint folder {teacher}; give a folder saved by transformers, or a hub id")
    from masters_edge.common.quiet import hush

    hush()
    from huggingface_hub import snapshot_download

    from masters_edge.families.loading import NOT_FETCHED, hub_reachable

    try:
        return Path(snapshot_download(teacher, allow_patterns=_FROM_THE_HUB, local_files_only=not hub_reachable()))
    except (OSError, ValueError) as error:  # huggingface_hub's own are of these
        first = (str(error).strip().splitlines() or [type(error).__name__])[0] if hub_reachable() else NOT_FETCHED
        raise UserError(
            f"there is no folder {teacher}, and as a hub id it can't be fetched: {first} "
            "(give a folder saved by transformers, or a hub id that this machine can reach)"
        ) from None


def _shards(folder: Path) -> list[str]:
    """Names of the safetensors files that transformers would load."""
    if (folder / INDEX).is_file():
        return shards_of(folder, INDEX)
    if (folder / "model.safetensors").is_file():
        return ["model.safetensors"]
    if any(path.suffix in (".bin", ".pt", ".pth") for path in folder.iterdir()):
        raise UserError(
            f"{folder} has its weights in .bin files only, and masking reads safetensors; load the model with "
            "transformers and save it again with save_pretrained"
        )
    raise UserError(f"{folder} has no model.safetensors and no index of shards, so it is no checkpoint of transformers")


Header = dict[str, dict[str, Any]]


def _header(shard: Path) -> tuple[bytes, Header]:
    """The first bytes of a safetensors file, up to where the tensors start, and its tensors in their order there.

    Format: 8 bytes little-endian length, JSON `{name: {dtype, shape, data_offsets}}`, then the tensors without gaps
    (https://huggingface.co/docs/safetensors).
    """
    try:
        with shard.open("rb") as file:
            length = file.read(8)
            if (announced := int.from_bytes(length, "little")) > _LONGEST_HEADER:
                raise ValueError(f"a header of {announced} bytes")
            text = file.read(announced)
        entries = json.loads(text)
        entries.pop("__metadata__", None)
        header = dict(sorted(entries.items(), key=lambda item: item[1]["data_offsets"]))
        end = 0
        for entry in header.values():
            begin, following = entry["data_offsets"]
            if begin != end or following < begin:
                raise ValueError(f"a gap at byte {end}")
            if (kind := _FLOATS.get(entry["dtype"])) is not None:
                count = math.prod(entry["shape"])
                if min(entry["shape"], default=1) < 0 or count * kind.itemsize != following - begin:
                    raise ValueError(f"{following - begin} bytes for a tensor of {count}")
            end = following
        if shard.stat().st_size != len(length) + len(text) + end:
            raise ValueError(f"{shard.stat().st_size} bytes where {len(length) + len(text) + end} were announced")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{shard} is no whole safetensors file ({reason(error)}); fetch the checkpoint again") from None
    return length + text, header


def _check(shard: Path, header: tuple[bytes, Header], include: Sequence[str], exclude: Sequence[str]) -> None:
    for name, entry in header[1].items():
        unmaskable = entry["dtype"] not in _FLOATS and entry["dtype"] not in _WHOLE_NUMBERS
        if unmaskable and len(entry["shape"]) >= 2 and wanted(name, include, exclude):
            raise UserError(
                f"{shard}: {name} is {entry['dtype']}, a quantized weight, and only F64, F32, F16 and BF16 can be "
                "masked; give the unquantized checkpoint, or --exclude it"
            )


def _mask_file(
    source: Path,
    target: Path,
    header: tuple[bytes, Header],
    ratio: float,
    include: Sequence[str],
    exclude: Sequence[str],
    bar: Progress,
) -> None:
    """Copy a safetensors file, tensor by tensor, the maskable ones masked."""
    start, entries = header
    with source.open("rb") as read, target.open("wb") as write:
        read.seek(len(start))
        write.write(start)
        bar(len(start))
        for name, entry in entries.items():
            begin, end = entry["data_offsets"]
            layer = entry["dtype"] in _FLOATS and is_layer(name, len(entry["shape"]))
            masked = layer and wanted(name, include, exclude)
            if masked and dropped_count(math.prod(entry["shape"]), ratio):
                block = bytearray(end - begin)
                if read.readinto(block) != len(block):
                    raise UserError(f"{source} ends within {name}; fetch the checkpoint again")
                mask_tensor_(torch.frombuffer(block, dtype=_FLOATS[entry["dtype"]]), ratio, name)
                write.write(block)
                del block
                bar(end - begin)
            else:
                for size in _blocks(end - begin):
                    write.write(read.read(size))
                    bar(size)


def _blocks(size: int) -> Iterator[int]:
    while size > 0:
        yield min(size, _BLOCK)
        size -= _BLOCK
