"""Which measurements a report is about: several results.json merged, and the runs they lie in.

In: files or folders. Out: a `Gathered`: entries (a measurement with the number it has in every picture), and where each
came from.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from masters_edge.benchmarks import results as results_file
from masters_edge.benchmarks.report import browsers
from masters_edge.benchmarks.report.entry import Entry
from masters_edge.benchmarks.results import Device, Measurement, Results
from masters_edge.common.errors import UserError
from masters_edge.common.plain import line

LONGEST_NAME = 100  # characters
PREVIEW = "no questions asked"


@dataclass(frozen=True)
class Gathered:
    """`entries` in the files' order; `runs`: the run folders that the results files lie in."""

    entries: tuple[Entry, ...]
    files: tuple[Path, ...]
    runs: tuple[Path, ...]

    @property
    def results(self) -> Results:
        return Results(measurements=tuple(entry.m for entry in self.entries))


def results_of(place: Path) -> Path:
    """The results file that `place` stands for: itself, or the one of a run folder or of a folder that holds one."""
    if not place.is_dir():
        return place
    for candidate in (place / "bench" / "results.json", place / "results.json"):
        if candidate.is_file():
            return candidate
    raise UserError(f"{place} holds no results.json (nor bench/results.json); make one with: masters-edge bench")


def gather(places: Sequence[Path]) -> Gathered:
    """Read and merge; of the same slot (name, suite, device, runtime, threads) measured twice, the newer stays.

    Raises:
        UserError: a file is missing, damaged or of another version, or there is no measurement at all.
    """
    files = list(dict.fromkeys(results_of(Path(place)) for place in places))
    newest: dict[tuple, tuple[Measurement, Path]] = {}
    for file in files:
        for m in results_file.read(file).measurements:
            slot = slot_of(m)
            if slot not in newest or m.ended > newest[slot][0].ended:
                newest[slot] = (m, file.parent)
    if not newest:
        raise UserError(f"{', '.join(map(str, files))} holds no measurement yet; make one with: masters-edge bench")
    runs = [folder for file in files if (folder := run_of(file)) is not None]
    return Gathered(_numbered(list(newest.values())), tuple(files), tuple(dict.fromkeys(runs)))


def slot_of(m: Measurement) -> tuple[str | int, ...]:
    """What makes two measurements the same one, measured twice."""
    device = m.device
    where = device.kind, device.name, device.browser.name[0] if device.browser else ""
    return m.name, m.suite.name if m.suite else "", *where, m.runtime, m.threads


def run_of(file: Path) -> Path | None:
    """The run folder whose bench/ the results file lies in."""
    home = file.resolve().parent.parent
    return home if file.resolve().parent.name == "bench" and (home / "run.json").is_file() else None


def _numbered(found: Sequence[tuple[Measurement, Path]]) -> tuple[Entry, ...]:
    """Numbers by name; a name measured with several runtimes or threads on one device says which."""
    variants: dict[tuple, set] = {}
    for m, _ in found:
        variants.setdefault((m.name, *device_key(m.device), suite_key(m)), set()).add((m.runtime, m.threads))
    several = {key[0] for key, ways in variants.items() if len(ways) > 1}
    numbers: dict[str, int] = {}
    entries = []
    for m, folder in found:
        name = m.name
        if name in several:
            ways = {way for key, some in variants.items() if key[0] == name for way in some}
            said = [m.runtime] if len({runtime for runtime, _ in ways}) > 1 else []
            said += [threads(m)] if len({count for _, count in ways}) > 1 else []
            name = f"{name} ({', '.join(said)})"
        entries.append(Entry(numbers.setdefault(name, len(numbers) + 1), line(name, LONGEST_NAME), m, folder))
    return tuple(entries)


def suite_key(m: Measurement) -> tuple[str, str] | None:
    """Measurements may stand in one picture where the same questions were asked."""
    return (m.suite.name, m.suite.sha256) if m.suite is not None and m.accuracy is not None else None


def by_suite(entries: Sequence[Entry]) -> dict[str, list[Entry]]:
    """Entries under the name of what they were asked; those without accuracy (previews) last, under `PREVIEW`."""
    groups: dict[tuple[str, str] | None, list[Entry]] = {}
    for entry in entries:
        groups.setdefault(suite_key(entry.m), []).append(entry)
    without = groups.pop(None, [])
    names = [key[0] for key in groups if key]
    named: dict[str, list[Entry]] = {}
    for key, rows in groups.items():
        assert key is not None and rows[0].m.accuracy is not None
        name = f"{key[0]}: {rows[0].m.accuracy.asked:,} questions"
        named[name if names.count(key[0]) == 1 else f"{name} ({key[1][:8]})"] = rows
    return named | ({PREVIEW: without} if without else {})


def device_key(device: Device) -> tuple[str, ...]:
    """One panel each; an update of the system or of the browser doesn't make another device."""
    browser = device.browser.name[0] if device.browser else ""
    return device.kind, device.name, device.model or "", device.cpu, browser


def by_device(entries: Sequence[Entry]) -> list[tuple[str, list[Entry]]]:
    """Entries under their device's label, the device with the most first."""
    groups: dict[tuple[str, ...], list[Entry]] = {}
    for entry in entries:
        groups.setdefault(device_key(entry.m.device), []).append(entry)
    labels = [label(rows[0].m.device) for rows in groups.values()]
    named = []
    for text, rows in zip(labels, groups.values()):
        if labels.count(text) > 1:
            text = f"{text}, {rows[0].m.device.name}"
        used = sorted({row.m.threads for row in rows})
        named.append((f"{text}, {' or '.join(map(str, used))} thread{'s' * (used != [1])}", rows))
    return sorted(named, key=lambda pair: -len(pair[1]))


def label(device: Device) -> str:
    """What a figure was measured on, in the device's own words, and that it was its CPU.

    "host CPU" stands before a CPU of this machine, and of any machine that doesn't say what board it is.
    """
    if device.browser is not None:
        return f"{browsers.label(device)}, over {device.kind}" if device.kind != "browser" else browsers.label(device)
    if device.kind == "local" or device.model is None:
        text = f"host CPU {device.cpu}" + (f" ({device.model})" if device.model else "")
    else:
        told = not device.cpu.startswith(device.architecture)  # ARM boards often tell numbers alone
        text = f"{device.model}, CPU" + (f" {device.cpu}" if told else "")
    return text if device.kind == "local" else f"{text}, over {device.kind}"


def threads(m: Measurement) -> str:
    return f"{m.threads} thread{'s' * (m.threads > 1)}"
