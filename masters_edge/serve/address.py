"""The address of the server: a socket that listens, and the URLs it is reached at."""

import errno
import ipaddress
import os
import socket

import psutil

from masters_edge.common.errors import UserError


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens there already, so that a taken port is said before a large bundle is loaded."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise UserError(f"there is no address {host!r} to listen at ({error}); try 127.0.0.1 or 0.0.0.0") from None
    family, kind, protocol, _, address = found[0]
    listener = socket.socket(family, kind, protocol)
    try:
        if os.name != "nt":  # there it would let two programs share the port
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(128)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise UserError(
                f"port {port} of {host} is in use; choose another with --port, or stop what runs there"
            ) from None
        if error.errno == errno.EACCES:
            raise UserError(f"port {port} may not be used by this user; choose one above 1023 with --port") from None
        raise UserError(
            f"can't listen at {host}, port {port} ({error.strerror}); give an address of this machine"
        ) from None
    return listener


def reached_at(address: str) -> list[str]:
    """Addresses to type into a browser: the one listened at, or for all interfaces loopback and then each."""
    if not _ip(address).is_unspecified:
        return [address]
    kinds = (socket.AF_INET,) if "." in address else (socket.AF_INET, socket.AF_INET6)
    found = [one.address for many in psutil.net_if_addrs().values() for one in many if one.family in kinds]
    others = [one for one in found if "%" not in one and not is_local(one)]
    return ["127.0.0.1", *others]


def in_url(host: str) -> str:
    """As it is written between http:// and the port."""
    return f"[{host}]" if ":" in host else host


def is_local(address: str) -> bool:
    """Whether this machine alone reaches it."""
    return _ip(address).is_loopback


def _ip(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    return ipaddress.ip_address(address.partition("%")[0])
