"""This machine."""

from masters_edge.benchmarks import machine
from masters_edge.benchmarks.progress import OnProgress
from masters_edge.benchmarks.protocol import Options, Subject, measure_here
from masters_edge.benchmarks.results import Device, Measurement
from masters_edge.benchmarks.suites import Suite


def describe(address: str = "local") -> Device:
    return Device(kind="local", **machine.describe())


def usable_threads(address: str = "local") -> int:
    return machine.usable_cores()


def measure(
    subject: Subject, suite: Suite, options: Options, on_progress: OnProgress | None = None, *, sha256: str
) -> Measurement:
    return measure_here(subject, suite, options, on_progress, sha256=sha256)
