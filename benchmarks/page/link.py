"""The link that a person opens on the device: where the server is reached, the one-time token, a QR code, what follows.

The token stands behind the `#`, which browsers never send: no log and no other page sees it.
"""

import shutil
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import segno

from masters_edge.serve.address import in_url, reached_at

LOOPBACK = ("127.0.0.1", "localhost", "::1")
# Black on white whatever the terminal's own colours are: many cameras don't read white on black.
_INK, _PLAIN = "\x1b[38;5;16;48;5;231m", "\x1b[0m"
_QUIET_ZONE = 4  # modules of white around a QR code (ISO/IEC 18004)
_HALVES = {(0, 0): " ", (1, 0): "▀", (0, 1): "▄", (1, 1): "█"}


@dataclass(frozen=True)
class Link:
    """`origins`: every address the server answers at ("https://192.168.1.5:8770"), the one to open first.

    `fingerprint` is the certificate's, None without HTTPS; `lan` says whether other machines reach it.
    """

    origins: tuple[str, ...]
    port: int
    token: str
    fingerprint: str | None
    lan: bool

    @property
    def url(self) -> str:
        return self.at(self.origins[0])

    def at(self, origin: str) -> str:
        return f"{origin}/#t={self.token}"

    def said(self) -> list[str]:
        """What to tell the person at the terminal, a note each."""
        found = [f"Open this link on the device that is to measure; it works for one device:\n\n  {self.url}\n"]
        if self.lan and sys.stdout.isatty() and (code := qr(self.url)):
            found.append(code)
        if not self.lan:
            found.append("This machine alone reaches it; --lan lets the devices of your network in.")
        elif self.fingerprint is None:
            found.append(
                "Without HTTPS whoever listens on this network can read along, and the browser allows the page one "
                "thread, no WebGPU, and pictures by the file picker alone."
            )
        else:
            found.append(
                "The device warns that it doesn't know the certificate: that is expected, this machine made it itself. "
                f"It is the right one where its SHA-256 fingerprint is\n\n{halves(self.fingerprint)}\n\n"
                "Go on with Advanced, then Continue or Proceed (Chrome, Edge, Firefox), or with Show Details, then "
                "visit this website (Safari)."
            )
        others = [origin for origin in self.origins[1:] if not _is_loopback(origin)]
        if self.lan and others:
            found.append(f"Also reached at {', '.join(others)} (with the same #t= at the end).")
        return found


def addresses(listening: str) -> list[str]:
    """Where a server that listens there is reached: of all interfaces the one that leads to the network first."""
    found = reached_at(listening)
    first = _towards_network()
    others = [one for one in found if one not in LOOPBACK]
    return sorted(others, key=lambda one: one != first) + [one for one in found if one in LOOPBACK]


def host_names() -> list[str]:
    """By which names others may call this machine."""
    name = socket.gethostname().lower()
    return [name, f"{name}.local"] if name and "." not in name else [name] if name else []


def origin(scheme: str, host: str, port: int) -> str:
    usual = {"http": 80, "https": 443}[scheme] == port
    return f"{scheme}://{in_url(host)}" + ("" if usual else f":{port}")


def qr(text: str, columns: int | None = None) -> str:
    """A QR code for the terminal, two rows of modules in a line; empty where the terminal is too narrow for it."""
    modules = matrix(text)
    width = len(modules[0])
    if (columns or shutil.get_terminal_size().columns) < width + len(_INK) + len(_PLAIN):
        return ""
    modules = [*modules, [0] * width] if len(modules) % 2 else modules
    lines = ["".join(_HALVES[pair] for pair in zip(*two)) for two in zip(modules[::2], modules[1::2])]
    return "\n".join(f"{_INK}{line}{_PLAIN}" for line in lines)


def matrix(text: str) -> list[list[int]]:
    """1 for dark, with the white around it."""
    code = segno.make(text, micro=False, error="m")
    return [[int(module) for module in row] for row in code.matrix_iter(border=_QUIET_ZONE)]


def halves(fingerprint: str) -> str:
    """A fingerprint in two lines. Without colons: between two of them the terminal would see the name of an emoji."""
    pairs = fingerprint.split(":")
    middle = len(pairs) // 2
    return "\n".join("  " + " ".join(part) for part in (pairs[:middle], pairs[middle:]))


def _is_loopback(where: str) -> bool:
    return any(f"//{in_url(host)}" in where for host in LOOPBACK)


def _towards_network() -> str | None:
    """This machine's address on the way out. Nothing is sent: connecting a UDP socket only looks up the route."""
    with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))  # set aside for documentation (RFC 5737)
        return str(probe.getsockname()[0])
    return None


def names(addresses: Sequence[str]) -> tuple[str, ...]:
    """Without repeats, in lower case."""
    return tuple(dict.fromkeys(one.lower() for one in addresses))
