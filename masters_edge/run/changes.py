"""What may change in a recipe between two calls that fill the same run folder.

In: the recipe that the run began with, the one it is to go on with, and what models and data are known by. Out: which
keys are others, and which of them stand in the way. What only concerns memory, speed or what is told may change; where
sums then come out in another order, the student is the same but for rounding, which is said.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Any

from masters_edge.recipe import Recipe

# Sections that change what is trained; the others may change between `distill` and `export` or `bench`.
_TRAINED_BY = ("student", "teachers", "data", "mask", "responses", "reward", "train", "seed", "quantize.qat")

_SAME_STUDENT = (
    "data.test*",  # never read while training
    "responses.batch_size",
    "responses.*_engine.api_key_env",
    "responses.*_engine.concurrency",
    "responses.*_engine.retries",
    "responses.*_engine.timeout_s",
    "reward.judge.api_key_env",
    "reward.judge.batch_size",
    "reward.judge.concurrency",
    "reward.judge.retries",
    "reward.judge.timeout_s",
    "train.gradient_checkpointing",
    "train.log_every",
    "train.eval_every",
    "train.save_every",
    "train.trackers*",
)
_SAME_BUT_FOR_ROUNDING = ("responses.vllm.*", "train.questions_per_device", "train.liger", "train.threads")
_TOLD_BY_FINGERPRINTS = ("student", "teachers*", "data.train.source", "data.train.image_root")  # moved is not changed


@dataclass(frozen=True, slots=True)
class Changes:
    """Keys of the recipe that are others than before: those that train another student, those that round otherwise,
    and those that the student doesn't depend on."""

    refused: list[str]
    rounding: list[str]
    harmless: list[str]


def between(before: Recipe, now: Recipe, known: dict[str, Any], known_now: dict[str, Any]) -> Changes:
    """What changed, as far as training is concerned. `known`: fingerprints by what they are of, then and now."""
    changed = Changes([], [], [])
    for key in _differences(before.model_dump(), now.model_dump()):
        if not any(key == section or key.startswith(f"{section}.") for section in _TRAINED_BY):
            continue
        if any(fnmatch(key, glob) for glob in _SAME_STUDENT):
            changed.harmless.append(key)
        elif any(fnmatch(key, glob) for glob in _SAME_BUT_FOR_ROUNDING):
            changed.rounding.append(key)
        elif not any(fnmatch(key, glob) for glob in _TOLD_BY_FINGERPRINTS):
            changed.refused.append(key)
    changed.refused.extend(name for name, value in known_now.items() if known.get(name) != value)
    return changed


def _differences(before: Any, now: Any, key: str = "") -> Iterator[str]:
    """Keys, dotted as overrides write them, whose values are others."""
    if isinstance(before, dict) and isinstance(now, dict):
        for name in dict.fromkeys([*before, *now]):
            yield from _differences(before.get(name), now.get(name), f"{key}.{name}" if key else name)
    elif isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        for place, (old, new) in enumerate(zip(before, now)):
            yield from _differences(old, new, f"{key}.{place}")
    elif before != now:
        yield key
