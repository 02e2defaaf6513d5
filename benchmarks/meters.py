"""What a device's own meters tell while it answers: energy, temperature, clock, and how busy other programs kept it.

Readers take the root of the file system, so that they can be shown a made-up one. What a device can't tell is None,
with a sentence that says why; never 0.
"""

import os
import re
import shutil
import subprocess
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import psutil

_SAMPLE_S = 0.2
# Rails and zones that stand for the whole board or for the processor, as vendors spell them.
_WHOLE_BOARD = re.compile(r"^(VDD_IN|POM_5V_IN|VIN|VDD_TOTAL)$", re.IGNORECASE)
_PROCESSOR_ZONE = re.compile(r"cpu|soc|pkg|package|tcpu|bcm|big|little", re.IGNORECASE)
_PROCESSOR_CHIPS = ("coretemp", "k10temp", "zenpower", "cpu_thermal", "soc_thermal")


class Meter(Protocol):
    """Something that measures energy. `seconds`: how long it must watch for its figure to mean something."""

    source: str
    seconds: float

    def measure(self, work: Callable[[], None]) -> tuple[float | None, float]:
        """Joules taken while `work` ran (None where the meter gave no reading), and how many seconds that was."""

    def idle(self) -> float | None:
        """Watts while nothing is asked."""


class _Idle(ABC):
    seconds: float

    @abstractmethod
    def measure(self, work: Callable[[], None]) -> tuple[float | None, float]:
        """As `Meter.measure`."""

    def idle(self) -> float | None:
        joules, seconds = self.measure(lambda: time.sleep(self.seconds / 2))
        return None if joules is None else joules / seconds


class Rapl(_Idle):
    """Intel's and AMD's energy counters of the processor packages, in microjoules; each starts again at its end."""

    source = "RAPL package"
    seconds = 2.0

    def __init__(self, packages: list[Path]) -> None:
        self.packages = packages

    def measure(self, work: Callable[[], None]) -> tuple[float | None, float]:
        before, started = [_number(package / "energy_uj") for package in self.packages], time.monotonic()
        work()
        seconds = time.monotonic() - started
        total = 0.0
        for package, start in zip(self.packages, before):
            end = _number(package / "energy_uj")
            if start is None or end is None:
                return None, seconds
            if end < start:  # once round; it takes minutes, and a measurement seconds
                end += _number(package / "max_energy_range_uj") or 0
            total += max(0.0, end - start)
        return total / 1e6, seconds


class Sampled(_Idle):
    """A meter that tells watts: read five times a second, the mean times the seconds."""

    def __init__(self, source: str, watts: Callable[[], float | None], seconds: float) -> None:
        self.source, self.watts, self.seconds = source, watts, seconds

    def measure(self, work: Callable[[], None]) -> tuple[float | None, float]:
        readings: list[float] = []
        over = threading.Event()

        def read() -> None:
            while True:
                if (watts := self.watts()) is not None:
                    readings.append(watts)
                if over.wait(_SAMPLE_S):
                    return

        reader = threading.Thread(target=read, daemon=True)
        started = time.monotonic()
        reader.start()
        try:
            work()
        finally:
            over.set()
            reader.join()
        seconds = time.monotonic() - started
        return (sum(readings) / len(readings) * seconds if readings else None), seconds


class PowerMetrics(_Idle):
    """macOS's own tool, which root alone may run: "Combined Power (CPU + GPU + ANE): 4321 mW" twice a second."""

    source = "powermetrics"
    seconds = 4.0
    command = ("powermetrics", "--samplers", "cpu_power", "-i", "500")
    _POWER = re.compile(r"^Combined Power.*?:\s*(\d+) mW|^Package Power:\s*([\d.]+) ?W", re.MULTILINE)

    def measure(self, work: Callable[[], None]) -> tuple[float | None, float]:
        started = time.monotonic()
        try:
            process = subprocess.Popen(self.command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        except OSError:
            work()
            return None, time.monotonic() - started
        try:
            work()
        finally:
            seconds = time.monotonic() - started
            process.terminate()
            said, _ = process.communicate()
        watts = [float(mw) / 1000 if mw else float(w) for mw, w in self._POWER.findall(said)]
        return (sum(watts) / len(watts) * seconds if watts else None), seconds


def find(root: Path = Path("/"), platform: str = sys.platform) -> tuple[Meter | None, str]:
    """The meter to use here, or None and why there is none."""
    if platform == "darwin":
        if shutil.which(PowerMetrics.command[0]) is None:
            return None, "energy: there is no powermetrics here"
        if os.geteuid() != 0:
            return None, "energy: powermetrics needs root (sudo masters-edge bench)"
        return PowerMetrics(), ""
    if platform != "linux":
        return None, "energy: this operating system has no meter that masters-edge reads"
    reasons = []
    for look in (_rapl, _rails, _battery):
        meter, reason = look(root)
        if meter is not None:
            return meter, ""
        if reason:
            reasons.append(reason)
    return None, "energy: " + ("; ".join(reasons) or "this device has no meter (RAPL, INA3221, battery)")


def _rapl(root: Path) -> tuple[Meter | None, str]:
    zones = sorted((root / "sys/class/powercap").glob("intel-rapl:*"))
    packages = [zone for zone in zones if _text(zone / "name").startswith("package")]
    if not packages:
        return None, ""
    if any(_number(package / "energy_uj") is None for package in packages):
        return None, "RAPL may be read by root alone (sudo chmod a+r /sys/class/powercap/intel-rapl*/energy_uj)"
    return Rapl(packages), ""


def _rails(root: Path) -> tuple[Meter | None, str]:
    """A Jetson's INA3221: the rail of the whole board, or all rails where none is."""
    rails: dict[str, Callable[[], float | None]] = {}
    for chip in sorted((root / "sys/class/hwmon").glob("hwmon*")):
        if not _text(chip / "name").startswith("ina3221"):
            continue
        for current in sorted(chip.glob("curr*_input")):
            number = current.name[len("curr") : -len("_input")]
            voltage = chip / f"in{number}_input"
            label = _text(chip / f"in{number}_label") or f"rail {number} of {chip.name}"
            if _number(current) is not None and _number(voltage) is not None and "sum of shunt" not in label:
                rails[label] = _product(current, voltage, 1e-6)  # milliamperes, millivolts
    if not rails:
        return None, ""
    chosen = [label for label in rails if _WHOLE_BOARD.match(label)][:1] or list(rails)
    return Sampled(f"INA3221 {' + '.join(chosen)}", _sum([rails[label] for label in chosen]), 4.0), ""


def _battery(root: Path) -> tuple[Meter | None, str]:
    for supply in sorted((root / "sys/class/power_supply").glob("*")):
        # The battery of a mouse or a phone in reach says so with its scope.
        if _text(supply / "type") != "Battery" or _text(supply / "scope") == "Device":
            continue
        status = _text(supply / "status")
        if status != "Discharging":
            return None, f"the battery is {status.lower() or 'in an unknown state'}; unplug the charger"
        if _number(supply / "power_now") is not None:
            return Sampled("battery", _scaled(supply / "power_now", 1e-6), 10.0), ""
        if _number(supply / "current_now") is not None and _number(supply / "voltage_now") is not None:
            return Sampled("battery", _product(supply / "current_now", supply / "voltage_now", 1e-12), 10.0), ""
        return None, "the battery tells neither power nor current"
    return None, ""


class Sensors:
    """Temperature and clock of the processor now; None where this device can't tell."""

    def __init__(self, root: Path = Path("/"), platform: str = sys.platform) -> None:
        linux = platform == "linux"
        self._temperatures = _thermal(root) if linux else []
        self._clocks = sorted((root / "sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq/scaling_cur_freq"))
        self._governors = sorted((root / "sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq/scaling_governor"))
        if not linux:
            self._clocks = self._governors = []

    def celsius(self) -> float | None:
        """The hottest of the processor's sensors."""
        read = [value / 1000 for file in self._temperatures if (value := _number(file)) is not None]
        return max(read) if read else None

    def mhz(self) -> float | None:
        """The fastest core's clock: throttling slows it, idle cores don't."""
        read = [value / 1000 for file in self._clocks if (value := _number(file))]
        return max(read) if read else None

    def governor(self) -> str | None:
        return ", ".join(sorted({text for file in self._governors if (text := _text(file))})) or None


def _thermal(root: Path) -> list[Path]:
    """The files of the processor's temperature in thousandths of a degree; all zones' where none is the processor's."""
    zones = {zone / "temp": _text(zone / "type") for zone in sorted((root / "sys/class/thermal").glob("thermal_zone*"))}
    readable = [file for file in zones if _number(file) is not None]
    processor = [file for file in readable if _PROCESSOR_ZONE.search(zones[file])]
    for chip in sorted((root / "sys/class/hwmon").glob("hwmon*")):
        if _text(chip / "name") in _PROCESSOR_CHIPS:
            processor += [file for file in sorted(chip.glob("temp*_input")) if _number(file) is not None]
    return processor or readable


class Watch:
    """From the moment it is made to `end()`: temperature, clock, governor, and other programs' work."""

    def __init__(self, root: Path = Path("/"), platform: str = sys.platform) -> None:
        self.sensors = Sensors(root, platform)
        self.meter, reason = find(root, platform)
        self.unmeasured = [reason] if reason else []
        load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
        self._before = {
            "load_before": load,
            "celsius_before": self.sensors.celsius(),
            "mhz_before": self.sensors.mhz(),
            "governor": self.sensors.governor(),
        }
        if self._before["celsius_before"] is None:
            self.unmeasured.append("temperature: this device tells none" + _virtual(root))
        if self._before["mhz_before"] is None:
            self.unmeasured.append("clock: this device tells none" + _virtual(root))
        self._start = _Work()

    def end(self) -> dict[str, Any]:
        """The fields of `results.Conditions`."""
        other_cores = _Work().others_since(self._start)
        after = {"celsius_after": self.sensors.celsius(), "mhz_after": self.sensors.mhz()}
        return self._before | after | {"other_cores": other_cores}


class _Work:
    """Seconds that all processors have worked so far, and those that this process has."""

    def __init__(self) -> None:
        self.at = time.monotonic()
        times = psutil.cpu_times()
        self.all = sum(getattr(times, name, 0.0) for name in ("user", "nice", "system", "irq", "softirq", "steal"))
        self.own = time.process_time()

    def others_since(self, before: "_Work") -> float | None:
        """Cores' worth of work that others did; None where too little time went by for the system's clock ticks."""
        seconds = self.at - before.at
        if seconds < 0.2:
            return None
        return max(0.0, (self.all - before.all) - (self.own - before.own)) / seconds


def _virtual(root: Path) -> str:
    hypervisor = " hypervisor " in _text(root / "proc/cpuinfo").replace("\n", " ")
    return " (it is a virtual machine)" if hypervisor else ""


def _sum(parts: list[Callable[[], float | None]]) -> Callable[[], float | None]:
    def total() -> float | None:
        values = [part() for part in parts]
        return None if None in values else sum(value for value in values if value is not None)

    return total


def _product(first: Path, second: Path, scale: float) -> Callable[[], float | None]:
    def watts() -> float | None:
        a, b = _number(first), _number(second)
        return None if a is None or b is None else abs(a * b) * scale  # some batteries count discharge as negative

    return watts


def _scaled(file: Path, scale: float) -> Callable[[], float | None]:
    def watts() -> float | None:
        value = _number(file)
        return None if value is None else abs(value) * scale

    return watts


def _number(file: Path) -> float | None:
    try:
        return float(file.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
