"""The command lines of `adb` (Android's debug bridge) that measuring needs, and what they answer, typed.

In: a phone's serial number, or None for the only phone there is. Out: what the phone says of itself and its battery, a
port of this machine that the phone reaches as its own localhost, a link opened in its browser. Nothing is installed on
the phone. What a phone says is cut to one printable line before anybody sees it.

How adb lists phones and what it complains of: `transport.cpp` of AOSP's packages/modules/adb (append_transport,
acquire_one_transport); tried with adb 1.0.41 without a phone.
"""

import errno
import re
import shlex
import shutil
import subprocess
import time
from dataclasses import dataclass, field

from masters_edge.common import child
from masters_edge.common.errors import UserError
from masters_edge.common.plain import line

CHROME = "com.android.chrome"
PATIENCE_S = 20.0  # for one command; `am start` on an old phone takes seconds
APPEARS_S = 4.0  # a phone is listed this long after its server was started
STAY_ON = "stay_on_while_plugged_in"
_ALWAYS_ON = "7"  # BatteryManager's plugged AC (1), USB (2) and wireless (4)
_LONGEST = 80  # characters of a property
MOST_SAID = 16 << 20  # bytes of one command; `dumpsys window` has about 200 KB

_STATES = (
    "device|offline|unauthorized|authorizing|connecting|detached|recovery|sideload|rescue|bootloader|host|no device"
)
# Wireless serials hold colons ("192.168.1.7:5555"), and spaces where two phones had one name
# ("adb-R5C-x (2)._adb-tls-connect._tcp"); what is behind the state is "key:value".
_LISTED = re.compile(rf"(?P<serial>\S.*?)\s+(?P<state>no permissions.*?|{_STATES})(?P<more>(?:\s+\w+:\S+)*)\s*")
_UNREACHABLE = re.compile(
    r"device '.*' not found|no devices/emulators found|device offline|device still (connecting|authorizing)"
    r"|device unauthorized|error: closed|protocol fault|connection reset|cannot connect to daemon",
    re.IGNORECASE,
)


class Unreachable(UserError):
    """adb doesn't reach the phone now: unplugged, switched off, or not allowed (any more)."""


@dataclass(frozen=True)
class Listed:
    """A line of `adb devices -l`. `transport` changes whenever the phone connects anew."""

    serial: str
    state: str
    model: str | None = None
    transport: str | None = None

    @property
    def ready(self) -> bool:
        return self.state == "device"


@dataclass(frozen=True)
class Battery:
    """Charge in per cent, temperature of the battery; None where the phone doesn't tell."""

    per_cent: float | None = None
    celsius: float | None = None
    charging: bool = False


@dataclass
class Phone:
    """A phone that adb reaches, by its serial number."""

    serial: str
    _kept: list[str] = field(default_factory=list)  # the setting that was changed, as it was

    def listed(self) -> Listed | None:
        """How adb lists it now; None where it doesn't."""
        return next((found for found in devices() if found.serial == self.serial), None)

    def shell(self, *words: str, patience_s: float = PATIENCE_S) -> str:
        """What a command prints on the phone, errors included: old phones give exit status 0 for everything.

        Raises:
            Unreachable: the phone is gone.
        """
        # adb joins the words with spaces and gives them to the phone's shell.
        return _adb("-s", self.serial, "shell", shlex.join(words), patience_s=patience_s, check=False).replace("\r", "")

    def properties(self) -> dict[str, str]:
        """All properties ("ro.product.model"), one printable line each."""
        listed = self.shell("getprop")
        found = re.findall(r"^\[([\w.-]+)\]: \[(.*?)\]$", listed, re.MULTILINE | re.DOTALL)
        return {name: plain(value) for name, value in found}

    def ram_mib(self) -> int | None:
        found = re.search(r"^MemTotal:\s+(\d{1,15}) kB", self.shell("cat", "/proc/meminfo"), re.MULTILINE)
        return round(int(found[1]) / 1024) or None if found else None

    def cores(self) -> int | None:
        """How many processor cores it has, sleeping ones included."""
        ranges = re.findall(r"(\d{1,6})(?:-(\d{1,6}))?", self.shell("cat", "/sys/devices/system/cpu/possible").strip())
        count = sum(int(last or first) - int(first) + 1 for first, last in ranges)
        if not 0 < count <= 1024:
            said = self.shell("nproc").strip()
            count = int(said) if said.isdecimal() and len(said) < 6 else 0
        return count if 0 < count <= 1024 else None

    def battery(self) -> Battery:
        return battery(self.shell("dumpsys", "battery"))

    def throttling(self) -> str | None:
        """How hard the phone says that it throttles for heat ("light" to "shutdown"); None for not at all, and before
        Android 10, which has no thermal service."""
        found = re.search(r"^\s*Thermal Status: (\d{1,3})", self.shell("dumpsys", "thermalservice"), re.MULTILINE)
        # android.os.Temperature's constants
        levels = ("", "light", "moderate", "severe", "critical", "emergency", "shutdown")
        level = int(found[1]) if found else 0
        return levels[min(level, 6)] or None

    def wake(self) -> None:
        """Screen on, and a lock screen that asks for nothing away."""
        self.shell("input", "keyevent", "KEYCODE_WAKEUP")
        self.shell("wm", "dismiss-keyguard")  # since Android 8; elsewhere an unknown command

    def locked(self) -> bool:
        """Whether the lock screen is in front, as far as the phone tells (the words: appium-adb's lockmgmt.ts)."""
        said = self.shell("dumpsys", "window")
        showing = re.search(r"m(?:ShowingLockscreen|DreamingLockscreen)=true|isKeyguardShowing=true", said)
        monitored = re.search(r"KeyguardStateMonitor\s+mIsShowing=true", said)
        return bool(showing or (monitored and re.search(r"\bmInputRestricted=true", said)))

    def open(self, url: str) -> None:
        """The link in Chrome, or else in the phone's default browser.

        Raises:
            UserError: no browser took it.
        """
        said = ""
        for package in (CHROME, None):
            # The id lets a browser take the tab of the time before, in place of one more.
            options = ["-a", "android.intent.action.VIEW", "-d", url, "--es", "com.android.browser.application_id"]
            options += ["masters-edge", *(["-p", package] if package else [])]
            said = self.shell("am", "start", *options)
            # "Error: Activity not started, unable to resolve Intent" comes with exit status 0 before Android 10 or so;
            # "Warning: Activity not started, its current task has been brought to the front" is a success.
            if not re.search(r"^(Error|Exception|java\.lang\.|Security exception)", said, re.MULTILINE):
                return
        wrong = [line for line in said.splitlines() if line.startswith(("Error", "Exception", "java.", "Security"))]
        raise UserError(
            f"no browser on the phone {self.serial} opened the link ({plain(wrong[0].partition('{')[0])}); "
            "install Chrome there, and try again"
        )

    def stay_awake(self) -> bool:
        """The screen stays on while the phone is plugged in, until `restore`; False where it doesn't allow that."""
        before = self.shell("settings", "get", "global", STAY_ON).strip()
        if not re.fullmatch(r"\d+|null", before):
            return False
        self._kept = [before]
        self.shell("settings", "put", "global", STAY_ON, _ALWAYS_ON)
        if self.shell("settings", "get", "global", STAY_ON).strip() == _ALWAYS_ON:
            return True
        self._kept = []  # some makers allow it only with a second switch, "USB debugging (Security settings)"
        return False

    def restore(self) -> None:
        """What `stay_awake` changed is as it was. Raises Unreachable where the phone is gone; it can be tried again."""
        for before in self._kept:
            words = ("delete", "global", STAY_ON) if before == "null" else ("put", "global", STAY_ON, before)
            self.shell("settings", *words)
        self._kept = []

    def reverse(self, port: int) -> None:
        """The phone's localhost:port is ours from now on.

        Raises:
            UserError: the phone doesn't forward it.
        """
        try:
            _adb("-s", self.serial, "reverse", f"tcp:{port}", f"tcp:{port}")
        except _Failed as failed:
            # adbd before Android 9 can't over Wi-Fi, and complains of "more than one device/emulator".
            wireless = "more than one device" in failed.said
            advice = (
                "over Wi-Fi it takes Android 9: use the cable" if wireless else "adb reverse takes Android 5 or newer"
            )
            raise UserError(
                f"the phone {self.serial} doesn't forward a port to this machine ({failed.line}); {advice}, "
                "or measure over the network with --device browser --lan"
            ) from None

    def unreverse(self, port: int) -> None:
        """Undo `reverse`; fine where it is undone already."""
        _adb("-s", self.serial, "reverse", "--remove", f"tcp:{port}", check=False)


def phone(serial: str | None = None) -> Phone:
    """The phone with this serial number; without one, the only phone.

    Raises:
        UserError: adb isn't installed, there is no such phone or more than one, or it doesn't allow debugging yet, each
            with what to do.
    """
    _adb("start-server")
    end = time.monotonic() + APPEARS_S
    while True:
        all_of_them = devices()
        found = [one for one in all_of_them if serial in (None, one.serial)]
        if (found and found[0].state not in ("offline", "connecting", "authorizing")) or time.monotonic() > end:
            break
        time.sleep(0.3)  # it was plugged in, or the server started, a moment ago
    if not found and serial is not None:
        others = f"adb lists {_named(all_of_them)}" if all_of_them else "adb lists no phone at all"
        connect = f", or adb connect {serial}" if ":" in serial else ""
        raise UserError(f"there is no phone {serial!r}; {others}; check the number and the cable{connect}")
    if not found:
        raise UserError(
            "no phone is connected; switch on USB debugging under the phone's developer options, connect it with a "
            "cable that carries data, and accept this computer's key on its screen"
        )
    if len(found) > 1:
        raise UserError(f"several phones are connected: {_named(found)}; choose with --device adb:{found[0].serial}")
    if not found[0].ready:
        raise Unreachable(_not_ready(found[0]))
    return Phone(found[0].serial)


def devices() -> list[Listed]:
    """What `adb devices -l` lists."""
    return parse_devices(_adb("devices", "-l"))


def parse_devices(said: str) -> list[Listed]:
    """The lines of `adb devices -l`. What stands before its heading is about the server ("* daemon started")."""
    found = []
    for one in said.replace("\r", "").rpartition("List of devices attached")[2].splitlines():
        match = _LISTED.fullmatch(one)
        if match is not None and one.isprintable():  # a serial number comes from the device, and goes to a terminal
            more = dict(word.split(":", 1) for word in match["more"].split())
            model = more.get("model")
            serial, state = match["serial"], match["state"]
            found.append(Listed(serial, state, plain(model) if model else None, more.get("transport_id")))
    return found


def battery(said: str) -> Battery:
    """What `dumpsys battery` says (BatteryService.java): level of scale, tenths of a degree, what powers it."""

    def value(name: str) -> str | None:
        found = re.search(rf"^\s*{name}: (\S+)", said, re.MULTILINE)
        return found[1] if found else None

    def number(name: str) -> float | None:
        text = value(name) or ""
        return float(text) if re.fullmatch(r"-?\d{1,9}", text) else None

    # "UPDATES STOPPED": somebody has set the values by hand.
    if value("present") == "false" or "UPDATES STOPPED" in said:
        return Battery()
    level, scale, tenths = number("level"), number("scale") or 100, number("temperature")
    per_cent = 100 * level / scale if level is not None and 0 <= level <= scale else None
    celsius = tenths / 10 if tenths is not None and -400 < tenths < 1200 else None
    plugged = any(value(f"{source} powered") == "true" for source in ("AC", "USB", "Wireless", "Dock"))
    return Battery(per_cent, celsius, plugged and value("status") != "3")  # 3: discharging all the same


def plain(text: str) -> str:
    """One printable line of it, not too long: a phone's words go to a terminal and into results."""
    return line(text, _LONGEST)


class _Failed(UserError):
    """adb ended with an error that isn't about reaching the phone."""

    def __init__(self, said: str, command: str) -> None:
        lines = [line for line in said.splitlines() if line.strip() and not line.startswith("* daemon")]
        self.said, self.line = said, plain(lines[-1]) if lines else "it said nothing"
        super().__init__(f"adb {command} failed ({self.line}); try it by hand")


def _adb(*words: str, patience_s: float = PATIENCE_S, check: bool = True) -> str:
    """stdout and stderr of adb with these words; `check`: an exit status other than 0 is an error."""
    program = shutil.which("adb")
    if program is None:
        raise UserError(
            "measuring over adb needs the program adb; install Android's platform tools, such as with: "
            "sudo apt install adb (Mac: brew install android-platform-tools)"
        )
    command = words[2] if words[0] == "-s" else words[0]
    try:
        # A session of its own: Ctrl-C is for us, who have to put the phone's settings back.
        status, *said = child.output([program, *words], patience_s, MOST_SAID)
    except subprocess.TimeoutExpired:
        raise Unreachable(
            f"adb {command} had no answer within {patience_s:.0f} s; unplug the phone and plug it in again, or restart "
            "adb with: adb kill-server"
        ) from None
    except OSError as error:
        if error.errno == errno.EFBIG:
            raise UserError(f"adb {command} brings far more than a phone has to say; is it your phone?") from None
        raise UserError(f"{program} can't be run ({error.strerror or error}); install adb anew") from None
    out, err = (text.decode("utf-8", "replace") for text in said)
    if status and (not out.strip() or check) and _UNREACHABLE.search(err):
        raise Unreachable(f"adb doesn't reach the phone ({_Failed(err, command).line}); check the cable")
    if status and check:
        raise _Failed(err or out, command)
    return out + err


def _named(found: list[Listed]) -> str:
    """ "R5CT (Pixel_8), R5CX (unauthorized)" """
    said = (one.model if one.ready else one.state.partition("(")[0].strip() for one in found)
    return ", ".join(f"{one.serial} ({what})" if what else one.serial for one, what in zip(found, said))


def _not_ready(found: Listed) -> str:
    """One sentence for a phone that is there and can't be used."""
    if found.state in ("unauthorized", "authorizing"):
        return (
            f"the phone {found.serial} doesn't allow debugging from this computer yet; unlock it and accept the key on "
            "its screen (where it doesn't ask: revoke USB debugging authorizations there, and plug it in again)"
        )
    if found.state.startswith("no permissions"):
        return (
            f"this user may not use the phone {found.serial} over USB (no permissions); install the udev rules, such "
            "as with: sudo apt install android-sdk-platform-tools-common, then plug it in again"
        )
    if found.state in ("offline", "connecting"):
        return (
            f"the phone {found.serial} is connected but doesn't answer ({found.state}); unlock it, and unplug it and "
            "plug it in again, or: adb reconnect offline"
        )
    return f"the phone {found.serial} is in the state {found.state!r}; start Android on it, and try again"
