"""A checkpoint with random weights, written piece by piece: no more than one file's tensors are in memory at a time.

bfloat16 on the disk, as published checkpoints are; the export computes with float32 of the same values. Each tensor is
drawn from a seed of its own name, so a checkpoint is the same wherever and in whatever order it is made.
"""

import copy
import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from masters_edge.common.errors import UserError
from masters_edge.common.files import read_json, whole_folder, write_json
from masters_edge.preview import stand_ins
from masters_edge.preview.architecture import Architecture

MARK = "preview.json"  # which architecture lies in the folder
SEED = 0
NEW_TOKENS = 16  # of an answer, where the checkpoint doesn't say
_SHARD = 1 << 30  # bytes
_SPREAD = 0.02  # standard deviation of weights, as most configs have it


def build(found: Architecture, folder: Path, on_bytes: Callable[[int], None] = lambda count: None) -> bool:
    """Write the checkpoint to `folder`, unless it lies there already; whether it was made now.

    `on_bytes` hears how many bytes of weights were written since it last heard.
    """
    if _made_before(folder, found):
        return False
    with whole_folder(folder) as temporary:
        config = copy.deepcopy(found.shape.config)
        processor = _processor(found, config)
        _write_weights(found.shape.model, temporary, on_bytes)
        config.architectures = [type(found.shape.model).__name__]
        config.save_pretrained(temporary)
        processor.save_pretrained(temporary)
        _write_generation(config, processor, temporary)
        write_json(temporary / MARK, {"sha256": found.sha256, "seed": SEED})
    return True


def stored_bytes(parameters: int) -> int:
    """Of the weights on the disk."""
    return 2 * parameters


def _made_before(folder: Path, found: Architecture) -> bool:
    try:
        return read_json(folder / MARK) == {"sha256": found.sha256, "seed": SEED}
    except (OSError, ValueError):
        return False


def _processor(found: Architecture, config: Any) -> Any:
    """The architecture's own, or one that stands in, to which the config's token ids are changed."""
    if found.processor is None:
        return stand_ins.stand_in(config)
    from masters_edge import families

    return families.load_processor(found.processor)


def _write_generation(config: Any, processor: Any, folder: Path) -> None:
    from transformers import GenerationConfig

    ends = getattr(config.get_text_config(), "eos_token_id", None)
    GenerationConfig(
        pad_token_id=processor.tokenizer.pad_token_id,
        eos_token_id=processor.tokenizer.eos_token_id if ends is None else ends,
        do_sample=False,
        max_new_tokens=NEW_TOKENS,
    ).save_pretrained(folder)


def _write_weights(model: Any, folder: Path, on_bytes: Callable[[int], None]) -> None:
    from safetensors.torch import save_file

    places: dict[str, str] = {}
    total = 0
    shards = list(_shards(model))
    for number, shard in enumerate(shards, start=1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        tensors = {name: _drawn(name, shape) for name, shape in shard.items()}
        save_file(tensors, folder / file, metadata={"format": "pt"})
        count = sum(tensor.nbytes for tensor in tensors.values())
        places |= dict.fromkeys(tensors, file)
        total += count
        on_bytes(count)
    index = {"metadata": {"total_size": total}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")


def _shards(model: Any) -> Iterator[dict[str, torch.Size]]:
    """Names and shapes of parameters and kept buffers, file by file; tied ones once."""
    parameters = dict(model.named_parameters(remove_duplicate=True))
    tied = {name for name, _ in model.named_parameters(remove_duplicate=False)} - parameters.keys()
    shard: dict[str, torch.Size] = {}
    size = 0
    for name, tensor in model.state_dict().items():
        if name in tied:
            continue
        if name not in parameters:
            raise UserError(
                f"this architecture keeps {name} beside its weights, which can't be made up; it can't be previewed"
            )
        if shard and size + stored_bytes(tensor.numel()) > _SHARD:
            yield shard
            shard, size = {}, 0
        shard[name] = tensor.shape
        size += stored_bytes(tensor.numel())
    yield shard


def _drawn(name: str, shape: torch.Size) -> torch.Tensor:
    """bfloat16: norms start at one and biases at zero, all else is drawn."""
    if len(shape) < 2 and name.endswith("bias"):
        return torch.zeros(shape, dtype=torch.bfloat16)
    if len(shape) < 2 and name.endswith("weight"):
        return torch.ones(shape, dtype=torch.bfloat16)
    seed = int.from_bytes(hashlib.sha256(f"{SEED} {name}".encode()).digest()[:8], "little") >> 1
    generator = torch.Generator().manual_seed(seed)
    return torch.empty(shape, dtype=torch.bfloat16).normal_(0, _SPREAD, generator=generator)
