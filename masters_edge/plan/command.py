"""What `masters-edge plan` does with its options: plan, show, write."""

from collections.abc import Sequence
from pathlib import Path
from typing import cast, get_args

from masters_edge.common.display import console, say
from masters_edge.common.errors import UserError
from masters_edge.common.files import write_json
from masters_edge.common.quiet import hush_transformers
from masters_edge.plan import PlanOptions, plan, screen
from masters_edge.plan.memory import Sharding


def show(
    recipe: Path,
    overrides: Sequence[str],
    *,
    gpus: int | None,
    gpu_memory: str | None,
    shard: str,
    rate: Path | None,
    measure: bool,
    rate_out: Path | None,
    prompt_tokens: int | None,
    response_tokens: float | None,
    config_of: Sequence[str],
    out: Path | None,
) -> None:
    """Plan and print; `out` gets the plan as JSON, `rate_out` the rates that were measured.

    Raises:
        UserError: an option that can't be read, or as `plan`.
    """
    hush_transformers()
    if shard not in get_args(Sharding):
        raise UserError(f"--shard {shard}: expected one of {', '.join(get_args(Sharding))}")
    if rate is not None and measure:
        raise UserError("--rate and --measure both say how fast it goes; give one of them")
    if rate_out and not measure and not rate:
        raise UserError(f"--rate-out {rate_out}: there are no rates to write; add --measure")
    asked = PlanOptions(
        gpus=gpus,
        gpu_bytes=None if gpu_memory is None else _bytes(gpu_memory),
        sharding=cast(Sharding, shard),
        rate=rate,
        measure=measure,
        prompt_tokens=prompt_tokens,
        response_tokens=response_tokens,
        configs=dict(_pair(text) for text in config_of),
    )
    if measure:
        say("running the recipe's models on a few of its questions, for their rates ...")
    made = plan(recipe, overrides, asked)
    for part in screen.parts(made):
        console.print(part)
    if out:
        write_json(out, made.as_dict())
    if rate_out and made.rates:
        made.rates.save(rate_out)


def _bytes(text: str) -> int:
    from accelerate.utils.modeling import convert_file_size_to_int

    try:
        size = int(convert_file_size_to_int(text.strip()))
    except ValueError:
        size = 0
    if size <= 0:
        raise UserError(f"--gpu-memory {text}: expected a size such as 80GiB or 24GB")
    return size


def _pair(text: str) -> tuple[str, str]:
    name, sign, config = text.partition("=")
    if not (name and sign and config):
        raise UserError(f"--config-of {text}: expected NAME=PATH, such as Qwen/Qwen3-VL-8B-Instruct=config.json")
    return name, config
