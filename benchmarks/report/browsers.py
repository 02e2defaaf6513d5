"""What a report says of a browser that measured: its name, its facts, and what spoils its figures.

In: entries. Out: plain text, which page and Markdown escape as each needs.
"""

from collections.abc import Sequence

from masters_edge.benchmarks.measure import HIDDEN_S
from masters_edge.benchmarks.report.entry import Entry
from masters_edge.benchmarks.results import Device, Measurement

PROTOCOL = (
    "In a browser, a Web Worker of its own stands for each process. Its cold start takes the student's files from the "
    "browser's cache. A browser tells no peak memory: where it counts its page's memory, that is what the page held "
    "after the latency sample. Its answers to the first questions are compared with those of the Python runtime on the "
    "host."
)


def label(device: Device) -> str:
    """What a figure was measured on: a browser's student may run on a processor or, with WebGPU, on its graphics."""
    assert device.browser is not None
    chip = f" ({device.cpu})" if device.kind == "adb" else ""
    return f"{device.model or device.name}{chip}, {' '.join(device.browser.name)}"


def facts(rows: Sequence[Entry]) -> list[tuple[str, str]]:
    """(what, value) for one device, where a browser measured; else nothing."""
    measured = [entry.m for entry in rows if entry.m.device.browser is not None]
    if not measured:
        return []
    found = measured[-1].device.browser
    assert found is not None
    system = " ".join(filter(None, (found.platform, found.platform_version)))
    return [
        (
            "browser",
            ", ".join(filter(None, (" ".join(found.name), system, "a phone or tablet" if found.mobile else ""))),
        ),
        ("user agent", found.user_agent),
        ("WebGPU adapter", found.webgpu or "none"),
        ("memory class", "not told" if found.memory_gib is None else f"{found.memory_gib:g} GiB or more"),
        ("screen", found.screen or "not told"),
        ("secure context", "yes" if found.secure_context else "no"),
        ("cross-origin isolated", "yes, so WASM has threads" if found.isolated else "no, so WASM has one thread"),
        ("page out of sight while measuring", "; ".join(dict.fromkeys(_hidden(m) for m in measured))),
        ("battery", "; ".join(dict.fromkeys(_battery(m) for m in measured))),
        *(("equal to the Python runtime", f"{e.name}: {same(e.m)}") for e in rows if e.m.python_runtime),
    ]


def same(m: Measurement) -> str:
    """How alike a browser's answers are to the Python runtime's, and what its pictures have to do with it."""
    found = m.python_runtime
    assert found is not None
    asked = found.asked
    return (
        f"{found.equal} of {asked} answers; pictures decoded to the same pixels: {found.pictures_equal} of {asked}; "
        f"preprocessed to the same values, bit for bit: {found.inputs_equal} of {asked}"
    )


def is_hidden(m: Measurement) -> bool:
    return (m.conditions.hidden_s or 0) >= HIDDEN_S


def hidden(rows: Sequence[Entry]) -> str | None:
    """A sentence where the page was out of sight while it measured: browsers slow such pages down."""
    some = [entry for entry in rows if is_hidden(entry.m)]
    if not some:
        return None
    longest = max(entry.m.conditions.hidden_s or 0 for entry in some)
    return f"The page was out of sight for up to {longest:,.0f} s while it measured: latencies are doubtful."


def _hidden(m: Measurement) -> str:
    hidden_s = m.conditions.hidden_s
    if hidden_s is None:
        return "not told"
    return f"{hidden_s:,.1f} s" if is_hidden(m) else "never"


def _battery(m: Measurement) -> str:
    before, after = m.conditions.battery_before, m.conditions.battery_after
    if before is None:
        return "not told"
    return f"{before:.0f}% before" + ("" if after is None else f", {after:.0f}% after")
