"""Meters read off made-up file systems: what a laptop, a Jetson, a board and a virtual machine show."""

import itertools
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from masters_edge.benchmarks import meters, results

LINUX = "linux"


def put(root: Path, name: str, content: Any) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{content}\n")


def rapl(root: Path, packages: int = 2, start: int = 1000) -> None:
    put(root, "sys/class/powercap/intel-rapl:0:0/name", "core")
    put(root, "sys/class/powercap/intel-rapl:0:0/energy_uj", 7)
    put(root, "sys/class/powercap/intel-rapl:9/name", "psys")
    put(root, "sys/class/powercap/intel-rapl:9/energy_uj", 99)
    for number in range(packages):
        zone = f"sys/class/powercap/intel-rapl:{number}"
        put(root, f"{zone}/name", f"package-{number}")
        put(root, f"{zone}/energy_uj", start)
        put(root, f"{zone}/max_energy_range_uj", 262_143_328_850)


def test_rapl_counts_every_package_and_no_part_of_one_twice(tmp_path: Path) -> None:
    rapl(tmp_path)
    meter, reason = meters.find(tmp_path, LINUX)
    assert meter is not None and (meter.source, reason) == ("RAPL package", "")

    def work() -> None:
        put(tmp_path, "sys/class/powercap/intel-rapl:0/energy_uj", 1000 + 3_000_000)
        put(tmp_path, "sys/class/powercap/intel-rapl:1/energy_uj", 1000 + 500_000)
        time.sleep(0.05)

    joules, seconds = meter.measure(work)
    assert joules == pytest.approx(3.5) and seconds >= 0.05


def test_rapl_counts_on_where_its_counter_starts_again(tmp_path: Path) -> None:
    rapl(tmp_path, packages=1, start=262_143_328_850 - 1_000_000)
    meter, _ = meters.find(tmp_path, LINUX)
    assert meter is not None
    joules, _ = meter.measure(lambda: put(tmp_path, "sys/class/powercap/intel-rapl:0/energy_uj", 2_000_000))
    assert joules == pytest.approx(3.0)


def test_rapl_that_root_alone_may_read_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rapl(tmp_path)
    read = Path.read_text

    def forbidden(path: Path, *args: Any, **kwargs: Any) -> str:
        if path.name == "energy_uj":
            raise PermissionError(13, "Permission denied")
        return read(path, *args, **kwargs)

    monkeypatch.setattr(Path, "read_text", forbidden)
    meter, reason = meters.find(tmp_path, LINUX)
    assert meter is None and reason.startswith("energy: RAPL may be read by root alone (sudo chmod a+r ")


def ina3221(root: Path, chip: str, **rails: tuple[int, int]) -> None:
    put(root, f"sys/class/hwmon/{chip}/name", "ina3221")
    for number, (label, (millivolts, milliamperes)) in enumerate(rails.items(), start=1):
        put(root, f"sys/class/hwmon/{chip}/in{number}_label", label)
        put(root, f"sys/class/hwmon/{chip}/in{number}_input", millivolts)
        put(root, f"sys/class/hwmon/{chip}/curr{number}_input", milliamperes)


def test_a_jetsons_whole_board_rail_is_taken(tmp_path: Path) -> None:
    ina3221(tmp_path, "hwmon3", VDD_CPU_GPU_CV=(5000, 400), VDD_IN=(5000, 1200), VDD_SOC=(5000, 100))
    put(tmp_path, "sys/class/hwmon/hwmon3/in7_label", "sum of shunt voltages")
    put(tmp_path, "sys/class/hwmon/hwmon3/in7_input", 12)
    put(tmp_path, "sys/class/hwmon/hwmon3/curr7_input", 12)
    meter, _ = meters.find(tmp_path, LINUX)
    assert meter is not None and meter.source == "INA3221 VDD_IN"
    joules, seconds = meter.measure(lambda: time.sleep(0.3))
    assert joules is not None and joules / seconds == pytest.approx(6.0)


def test_a_jetson_without_one_gives_the_sum_of_its_rails(tmp_path: Path) -> None:
    ina3221(tmp_path, "hwmon1", VDD_GPU_SOC=(5000, 400), VDD_CPU_CV=(5000, 200))
    ina3221(tmp_path, "hwmon2", VIN_SYS_5V0=(5000, 600))
    meter, _ = meters.find(tmp_path, LINUX)
    assert meter is not None and meter.source == "INA3221 VDD_GPU_SOC + VDD_CPU_CV + VIN_SYS_5V0"
    joules, seconds = meter.measure(lambda: None)
    assert joules is not None and joules / seconds == pytest.approx(6.0)


def battery(root: Path, **values: Any) -> None:
    for name, value in {"type": "Battery", "status": "Discharging", **values}.items():
        put(root, f"sys/class/power_supply/BAT0/{name}", value)


@pytest.mark.parametrize(
    "values",
    [{"power_now": 8_000_000}, {"power_now": -8_000_000}, {"current_now": 1_000_000, "voltage_now": 8_000_000}],
    ids=["power", "power, signed", "current and voltage"],
)
def test_a_discharging_battery_tells_watts(tmp_path: Path, values: dict[str, int]) -> None:
    put(tmp_path, "sys/class/power_supply/AC/type", "Mains")
    battery(tmp_path, **values)
    meter, _ = meters.find(tmp_path, LINUX)
    assert meter is not None and meter.source == "battery"
    joules, seconds = meter.measure(lambda: time.sleep(0.05))
    assert joules is not None and joules / seconds == pytest.approx(8.0)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"status": "Charging", "power_now": 8_000_000}, "the battery is charging; unplug the charger"),
        ({"status": "Full", "power_now": 0}, "the battery is full; unplug the charger"),
        ({"capacity": 50}, "the battery tells neither power nor current"),
        ({"scope": "Device", "power_now": 5}, "this device has no meter (RAPL, INA3221, battery)"),
    ],
)
def test_a_battery_that_says_nothing_of_the_work_is_not_read(tmp_path: Path, values: dict[str, Any], said: str) -> None:
    battery(tmp_path, **values)
    assert meters.find(tmp_path, LINUX) == (None, f"energy: {said}")


def test_a_sampled_meter_follows_the_course(tmp_path: Path) -> None:
    """Watts go up during the work; the mean lies between, and readings stop when it does."""
    watts = itertools.chain([10.0], itertools.repeat(20.0))
    threads = threading.active_count()
    joules, seconds = meters.Sampled("made up", lambda: next(watts), 1.0).measure(lambda: time.sleep(0.7))
    assert joules is not None and 15 < joules / seconds < 20 and threading.active_count() == threads
    assert meters.Sampled("dead", lambda: None, 1.0).measure(lambda: None)[0] is None


def test_a_meter_stops_when_the_work_fails() -> None:
    def fail() -> None:
        raise RuntimeError

    threads = threading.active_count()
    with pytest.raises(RuntimeError):
        meters.Sampled("made up", lambda: 1.0, 1.0).measure(fail)
    assert threading.active_count() == threads


POWERMETRICS = """#!/bin/sh
trap 'exit 0' TERM
while true; do
echo '*** Sampled system activity ***'
echo 'CPU Power: 3000 mW'
echo 'Combined Power (CPU + GPU + ANE): 4500 mW'
sleep 0.1
done
"""


@pytest.mark.skipif(sys.platform == "win32", reason="a shell script")
def test_powermetrics_is_read_where_root_may(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert meters.find(tmp_path, "darwin") == (None, "energy: there is no powermetrics here")
    tool = tmp_path / "powermetrics"
    tool.write_text(POWERMETRICS)
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(os, "geteuid", lambda: 501)
    assert meters.find(tmp_path, "darwin")[1] == "energy: powermetrics needs root (sudo masters-edge bench)"
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    meter, _ = meters.find(tmp_path, "darwin")
    assert meter is not None
    joules, seconds = meter.measure(lambda: time.sleep(0.5))
    assert joules is not None and joules / seconds == pytest.approx(4.5)


def test_the_processors_hottest_sensor_and_fastest_core_are_read(tmp_path: Path) -> None:
    for number, (kind, value) in enumerate([("iwlwifi_1", 90_000), ("x86_pkg_temp", 61_000), ("cpu-thermal", 64_500)]):
        put(tmp_path, f"sys/class/thermal/thermal_zone{number}/type", kind)
        put(tmp_path, f"sys/class/thermal/thermal_zone{number}/temp", value)
    put(tmp_path, "sys/class/hwmon/hwmon0/name", "k10temp")
    put(tmp_path, "sys/class/hwmon/hwmon0/temp1_input", 65_250)
    put(tmp_path, "sys/class/hwmon/hwmon1/name", "nvme")
    put(tmp_path, "sys/class/hwmon/hwmon1/temp1_input", 80_000)
    for number, khz in enumerate([600_000, 2_400_000, 1_500_000]):
        put(tmp_path, f"sys/devices/system/cpu/cpu{number}/cpufreq/scaling_cur_freq", khz)
        put(tmp_path, f"sys/devices/system/cpu/cpu{number}/cpufreq/scaling_governor", "ondemand")
    sensors = meters.Sensors(tmp_path, LINUX)
    assert (sensors.celsius(), sensors.mhz(), sensors.governor()) == (65.25, 2400, "ondemand")


def test_zones_without_a_processors_name_are_better_than_none(tmp_path: Path) -> None:
    put(tmp_path, "sys/class/thermal/thermal_zone0/type", "acpitz")
    put(tmp_path, "sys/class/thermal/thermal_zone0/temp", 40_000)
    put(tmp_path, "sys/class/thermal/thermal_zone1/type", "cpu-thermal")  # a zone that is switched off has no value
    assert meters.Sensors(tmp_path, LINUX).celsius() == 40


def test_what_a_device_cannot_tell_is_none_with_a_sentence(tmp_path: Path) -> None:
    put(tmp_path, "proc/cpuinfo", "processor : 0\nflags : fpu hypervisor lahf_lm")
    watch = meters.Watch(tmp_path, LINUX)
    conditions = results.Conditions(**watch.end())
    assert (conditions.celsius_before, conditions.mhz_after, conditions.governor) == (None, None, None)
    assert watch.unmeasured == [
        "energy: this device has no meter (RAPL, INA3221, battery)",
        "temperature: this device tells none (it is a virtual machine)",
        "clock: this device tells none (it is a virtual machine)",
    ]
    elsewhere = meters.Watch(tmp_path, "win32").unmeasured
    assert elsewhere[0] == "energy: this operating system has no meter that masters-edge reads" and len(elsewhere) == 3


def test_other_programs_work_is_seen_and_ones_own_is_not() -> None:
    import subprocess

    def busy(seconds: float) -> None:
        end = time.process_time() + seconds
        while time.process_time() < end:
            pass

    watch = meters.Watch(Path("/nowhere"), LINUX)
    busy(0.5)
    own = watch.end()["other_cores"]
    code = "import time\nend = time.process_time() + 1.5\nwhile time.process_time() < end: pass"
    watch = meters.Watch(Path("/nowhere"), LINUX)
    started = time.monotonic()
    subprocess.run([sys.executable, "-c", code], check=True)
    least = 1.2 / (time.monotonic() - started)
    other = watch.end()["other_cores"]
    assert own is not None and other is not None and other > least
    assert meters.Watch(Path("/nowhere"), LINUX).end()["other_cores"] is None  # too short to tell
