"""A stand-in for `adb` and for the phones behind it: an executable for PATH that speaks the real command lines.

As with the real one, the executable is a small client; what it asks is answered by a server, here in the test's own
process, which holds made-up phones: `StandIn(folder)` puts `folder/adb` there, `stand_in.plug(Phone("R5CT"))` connects
one. `adb reverse` is a real TCP forward: a phone's localhost:PORT is 127.0.0.1:`phone.ports[PORT]` here, closed as soon
as the phone is unplugged. `am start` hands the link to `phone.browser`. What adb and Android print was taken from
AOSP's sources, from adb 1.0.41 without a phone, and from people's phones in public; no phone was at hand.
"""

import json
import shlex
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

_CLIENT = """#!{python} -SE
import json, os, socket, sys
with socket.create_connection(("127.0.0.1", {port})) as server:
    server.sendall(json.dumps(sys.argv[1:]).encode() + b"\\n")
    answer = b"".join(iter(lambda: server.recv(65536), b""))
status, out, err = json.loads(answer)
for number, text in ((1, out), (2, err)):
    data = text.encode("utf-8", "surrogateescape")
    while data:
        data = data[os.write(number, data):]
os._exit(status)
"""

PIXEL = {
    "ro.product.manufacturer": "Google",
    "ro.product.model": "Pixel 8",
    "ro.product.cpu.abi": "arm64-v8a",
    "ro.soc.manufacturer": "Google",
    "ro.soc.model": "Tensor G3",
    "ro.board.platform": "zuma",
    "ro.hardware": "shiba",
    "ro.build.version.release": "15",
    "ro.build.version.sdk": "35",
}
UNAUTHORIZED = (
    "error: device unauthorized.\nThis adb server's $ADB_VENDOR_KEYS is not set\nTry 'adb kill-server' if that seems "
    "wrong.\nOtherwise check for a confirmation dialog on your device.\n"
)
NO_PERMISSIONS = (
    "no permissions (missing udev rules? user is in the plugdev group); see "
    "[http://developer.android.com/tools/device.html]"
)
Answer = tuple[int, str, str]  # exit status, stdout, stderr


@dataclass
class Phone:
    """A made-up phone. `browser(url)` is what its browsers do with a link; without one, nothing takes links."""

    serial: str
    state: str = "device"
    properties: dict[str, str] = field(default_factory=lambda: dict(PIXEL))
    settings: dict[str, str] = field(default_factory=lambda: {"stay_on_while_plugged_in": "0"})
    settings_locked: bool = False  # as some makers have it
    packages: tuple[str, ...] = ("com.android.chrome",)
    browser: Callable[[str], None] | None = None
    battery_level: int = 83
    battery_tenths: int = 312
    usb_powered: bool = True
    thermal_status: int = 0
    locked: bool = False
    secure: bool = False  # the lock screen asks for a PIN
    opened: list[str] = field(default_factory=list)
    ports: dict[int, int] = field(default_factory=dict)  # the phone's localhost ports, as ports of 127.0.0.1 here
    transport: int = 0

    def shell(self, line: str) -> Answer:
        """What the phone's shell does with a line; words that it wouldn't take for one are an error."""
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.commenters = ""
        lexer.wordchars += "#:=?%@!^,+"  # mid-word they mean nothing
        words = list(lexer)
        if any(set(word) <= set("();<>|&") for word in words):
            return 1, "", f"sh: syntax error: not quoted: {line}\n"
        command, rest = words[0], words[1:]
        if command == "getprop":
            return 0, "".join(f"[{name}]: [{value}]\n" for name, value in sorted(self.properties.items())), ""
        if words == ["cat", "/proc/meminfo"]:
            return 0, "MemTotal:        7751028 kB\nMemFree:          211432 kB\nMemAvailable:    3021876 kB\n", ""
        if words == ["cat", "/sys/devices/system/cpu/possible"]:
            return 0, "0-8\n", ""
        if command == "dumpsys":
            return self._dumpsys(rest)
        if command == "settings" and rest[1:3] == ["global", "stay_on_while_plugged_in"]:
            return self._settings(rest[0], rest[2], rest[3:])
        if words == ["input", "keyevent", "KEYCODE_WAKEUP"]:
            return 0, "", ""
        if words == ["wm", "dismiss-keyguard"]:
            self.locked = self.locked and self.secure
            return 0, "", ""
        if words[:2] == ["am", "start"]:
            return self._start(rest[1:])
        return 127, "", f"/system/bin/sh: {command}: inaccessible or not found\n"

    def _dumpsys(self, service: list[str]) -> Answer:
        if service == ["battery"]:
            said = {
                "AC powered": "false",
                "USB powered": str(self.usb_powered).lower(),
                "Wireless powered": "false",
                "Dock powered": "false",
                "Max charging current": 500000,
                "Max charging voltage": 5000000,
                "Charge counter": 3312000,
                "status": 2 if self.usb_powered else 3,
                "health": 2,
                "present": "true",
                "level": self.battery_level,
                "scale": 100,
                "voltage": 4163,
                "temperature": self.battery_tenths,
                "technology": "Li-ion",
            }
            lines = "".join(f"  {name}: {value}\n" for name, value in said.items())
            return 0, "Current Battery Service state:\n" + lines, ""
        if service == ["thermalservice"]:
            temperature = self.battery_tenths / 10
            return (
                0,
                (
                    f"IsStatusOverride: false\nThermal Status: {self.thermal_status}\nCached temperatures:\n"
                    f"\tTemperature{{mValue={temperature}, mType=2, mName=BAT, mStatus=0}}\nHAL Ready: true\n"
                ),
                "",
            )
        if service == ["window"]:
            return (
                0,
                (
                    "WINDOW MANAGER LAST ANR (dumpsys window lastanr)\n  <no ANR has occurred since boot>\n"
                    f"  mShowingDream=false mDreamingLockscreen={str(self.locked).lower()}\n"
                    "  mCurrentFocus=Window{af1b3c u0 NotificationShade}\n"
                ),
                "",
            )
        return 0, "", f"Can't find service: {' '.join(service)}\n"

    def _settings(self, verb: str, name: str, value: list[str]) -> Answer:
        if verb == "get":
            return 0, self.settings.get(name, "null") + "\n", ""
        if self.settings_locked:
            return (
                255,
                "",
                "Exception occurred while executing 'put':\njava.lang.SecurityException: Permission denial\n",
            )
        if verb == "delete":
            return 0, f"Deleted {int(self.settings.pop(name, None) is not None)} rows\n", ""
        self.settings[name] = value[0]
        return 0, "", ""

    def _start(self, options: list[str]) -> Answer:
        given: dict[str, str] = {}
        while options:
            count = 3 if options[0] == "--es" else 2
            given[options[0]] = options[count - 1]
            options = options[count:]
        url, package = given["-d"], given.get("-p")
        shown = f"act={given['-a']} dat={url.partition('#')[0]}{'...' if '#' in url else ''}"
        shown += f" pkg={package}" if package else ""
        said = f"Starting: Intent {{ {shown} (has extras) }}\n"
        if self.browser is None or (package is not None and package not in self.packages):
            # On stdout or stderr, with exit status 0 or 1, as the version pleases.
            return 0, said, f"Error: Activity not started, unable to resolve Intent {{ {shown} flg=0x10000000 }}\n"
        self.opened.append(url)
        threading.Thread(target=self.browser, args=(url,), daemon=True).start()
        return 0, said, ""


class StandIn:
    """The server behind the executable `folder/adb`. `asked`: every command line so far, without `-s SERIAL`."""

    def __init__(self, folder: Path) -> None:
        self.phones: list[Phone] = []
        self.asked: list[str] = []
        self.started = False  # the first client starts the real server, and says so
        self._transports = 0
        self._forwards: dict[tuple[str, int], Forward] = {}
        self._listener = socket.create_server(("127.0.0.1", 0))
        client = folder / "adb"
        client.write_text(_CLIENT.format(python=sys.executable, port=self._listener.getsockname()[1]), encoding="utf-8")
        client.chmod(0o755)
        threading.Thread(target=self._serve, daemon=True).start()

    def plug(self, phone: Phone) -> Phone:
        """Connect a phone, for the first time or again: adb knows nothing of its forwards then."""
        self._transports += 1
        phone.transport = self._transports
        self.phones.append(phone)
        return phone

    def unplug(self, phone: Phone) -> None:
        self.phones.remove(phone)
        for serial, port in list(self._forwards):
            if serial == phone.serial:
                self._forwards.pop((serial, port)).close()

    def reversed_ports(self, phone: Phone) -> list[int]:
        """The phone's ports that are forwarded now."""
        return [port for serial, port in self._forwards if serial == phone.serial]

    def close(self) -> None:
        self._listener.close()
        for forward in self._forwards.values():
            forward.close()

    def _serve(self) -> None:
        with suppress(OSError):  # closed
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._answer, args=(client,), daemon=True).start()

    def _answer(self, client: socket.socket) -> None:
        with client, suppress(ConnectionError), client.makefile("rb") as asked:
            words = json.loads(asked.readline())
            begun = (
                ""
                if self.started
                else "* daemon not running; starting now at tcp:5037\n* daemon started successfully\n"
            )
            self.started = True
            try:
                status, out, err = self._command(words)
            except Exception as error:  # a command line that no version of adb takes
                status, out, err = 1, "", f"adb: usage: {words} ({error!r})\n"
            client.sendall(json.dumps((status, out, begun + err)).encode())

    def _command(self, words: list[str]) -> Answer:
        serial = None
        if words[0] == "-s":
            serial, words = words[1], words[2:]
        self.asked.append(" ".join(words))
        if words == ["start-server"]:
            return 0, "", ""
        if words == ["devices", "-l"]:
            return 0, "List of devices attached\n" + "".join(map(self._listed, self.phones)) + "\n", ""
        prefix = "" if words[0] == "shell" else "adb: "
        found = [phone for phone in self.phones if serial in (None, phone.serial)]
        if len(found) != 1:
            wrong = f"device '{serial}' not found" if serial else "no devices/emulators found"
            return 1, "", f"{prefix}error: {'more than one device/emulator' if found else wrong}\n"
        phone = found[0]
        if phone.state == "unauthorized":
            return 1, "", prefix + UNAUTHORIZED
        if phone.state != "device":
            return 1, "", f"{prefix}error: device {phone.state}\n"
        if words[0] == "shell":
            return phone.shell(" ".join(words[1:]))
        if words[0] == "reverse":
            return self._reverse(phone, words[1:])
        raise ValueError("unknown command")

    def _listed(self, phone: Phone) -> str:
        model = "".join(
            char if char.isalnum() and char.isascii() else "_" for char in phone.properties["ro.product.model"]
        )
        more = f" product:shiba model:{model} device:shiba" if phone.state == "device" else ""
        return f"{phone.serial:<22} {phone.state}{more} transport_id:{phone.transport}\n"

    def _reverse(self, phone: Phone, words: list[str]) -> Answer:
        ports = [int(word.removeprefix("tcp:")) for word in words if word != "--remove"]
        there = (phone.serial, ports[0])
        old = self._forwards.pop(there, None)
        if old is not None:
            old.close()
        if words[0] == "--remove":
            return (0, "", "") if old else (1, "", f"adb: error: listener 'tcp:{ports[0]}' not found\n")
        self._forwards[there] = Forward(phone.ports.setdefault(ports[0], _free_port()), ports[1])
        return 0, "", ""


class Forward:
    """127.0.0.1:`port` is 127.0.0.1:`target`, until closed; then what went through breaks off."""

    def __init__(self, port: int, target: int) -> None:
        self.target = target
        self._open: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", port))
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        for one in (self._listener, *self._open):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                try:
                    far = socket.create_connection(("127.0.0.1", self.target))
                except OSError:  # nobody listens there
                    near.close()
                    continue
                self._open |= {near, far}
                for source, sink in ((near, far), (far, near)):
                    threading.Thread(target=self._pump, args=(source, sink), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
        with suppress(OSError):
            sink.shutdown(socket.SHUT_WR)
        if source.fileno() < 0 or sink.fileno() < 0:
            self._open -= {source, sink}


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


@contextmanager
def standing_in(folder: Path) -> Iterator[StandIn]:
    """A stand-in whose executable lies in `folder`, to be put on PATH."""
    stand_in = StandIn(folder)
    try:
        yield stand_in
    finally:
        stand_in.close()
