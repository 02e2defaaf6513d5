"""The quantities that a plot's axis, a tooltip, a budget and a comparison speak of, each in one place.

A `Quantity` knows its title with unit, how to read it off a measurement (None where it wasn't measured), and which way
is better.
"""

from collections.abc import Callable
from dataclasses import dataclass

from masters_edge.benchmarks.results import Latency, Measurement, Stage


@dataclass(frozen=True)
class Quantity:
    """`unit` is what the value is in; `short` fits a narrow plot."""

    key: str
    title: str
    short: str
    unit: str
    read: Callable[[Measurement], float | None]
    higher_is_better: bool = False


def stage(name: str) -> Callable[[Measurement], float | None]:
    def read(m: Measurement) -> float | None:
        return median(m.latency, name)

    return read


def median(latency: Latency, name: str) -> float | None:
    found: Stage | None = getattr(latency, name)
    return None if found is None else found.median


ANSWER = Quantity("answer", "latency of a whole answer", "whole answer", "ms", stage("total_ms"))
TTFT = Quantity("ttft", "time to first token", "time to first token", "ms", stage("ttft_ms"))
SIZE = Quantity("size", "file size", "file size", "MB", lambda m: m.size_bytes / 1e6)
MEMORY = Quantity("memory", "peak memory", "peak memory", "MiB", lambda m: m.peak_rss_mib)
ENERGY = Quantity(
    "energy", "energy of an answer", "energy", "J", lambda m: m.energy.joules_per_answer if m.energy else None
)
ACCURACY = Quantity(
    "accuracy", "accuracy", "accuracy", "%", lambda m: m.accuracy.per_cent if m.accuracy else None, True
)
TOKENS = Quantity("tokens", "decode speed", "decode", "tokens/s", stage("decode_tokens_per_s"), True)
COLD = Quantity("cold", "cold start", "cold start", "ms", stage("cold_start_ms"))

SMALLEST = 1e-9  # in any of these units; nothing that was measured is less
# What the horizontal axis can show, the first one first.
HORIZONTAL = (ANSWER, TTFT, SIZE, MEMORY, ENERGY)


def positive(quantity: Quantity, m: Measurement) -> float | None:
    """The value where a log axis can show it."""
    value = quantity.read(m)
    return value if value is not None and value > SMALLEST else None
