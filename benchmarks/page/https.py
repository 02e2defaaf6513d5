"""A certificate of this machine's own, so that a phone on the network gets the page over HTTPS (a secure context).

Nobody vouches for it: the phone warns once, and the person compares the fingerprint. It is kept in the user's cache
folder for 30 days, so that the phone's exception lasts, and made anew where this machine's addresses change.
"""

import datetime
import ipaddress
import os
import stat
from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from masters_edge.common.errors import UserError
from masters_edge.common.files import whole_file

DAYS = 30
_AT_LEAST = datetime.timedelta(days=1)  # that a kept certificate must still be good for
_FILE = "certificate.pem"


def folder() -> Path:
    """Where it is kept."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "masters-edge" / "page"


def certificate(names: Sequence[str], place: Path | None = None) -> tuple[Path, str]:
    """A PEM file (mode 0600) with key and certificate for these host names and addresses, and its fingerprint.

    The kept one where it fits and is nobody else's, else a new one.
    """
    path = (place or folder()) / _FILE
    kept = _kept(path, names)
    if kept is None:
        kept = _make(path, names)
    return path, fingerprint(kept)


def fingerprint(found: x509.Certificate) -> str:
    """SHA-256, as browsers show it."""
    return found.fingerprint(hashes.SHA256()).hex(":").upper()


def _kept(path: Path, names: Sequence[str]) -> x509.Certificate | None:
    """What is there, where it can be used on."""
    try:
        mode = path.lstat()
        if not stat.S_ISREG(mode.st_mode) or (os.name != "nt" and not _ours_alone(mode)):
            return None
        content = path.read_bytes()
        found = x509.load_pem_x509_certificate(content)
        key = serialization.load_pem_private_key(content, password=None)
        covered = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (OSError, ValueError, TypeError, x509.ExtensionNotFound):
        return None
    if not set(map(_general_name, names)) <= set(covered) or found.public_key() != key.public_key():
        return None
    now = datetime.datetime.now(datetime.timezone.utc)
    good = found.not_valid_before_utc <= now and found.not_valid_after_utc - now >= _AT_LEAST
    return found if good else None


def _ours_alone(mode: os.stat_result) -> bool:
    return mode.st_uid == os.getuid() and not mode.st_mode & 0o077


def _make(path: Path, names: Sequence[str]) -> x509.Certificate:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "masters-edge on this machine")])
    now = datetime.datetime.now(datetime.timezone.utc)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))  # a phone's clock may be slow
        .not_valid_after(now + datetime.timedelta(days=DAYS))
        .add_extension(x509.SubjectAlternativeName([_general_name(one) for one in names]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with whole_file(path) as temporary:
            temporary.unlink(missing_ok=True)
            with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(private + made.public_bytes(serialization.Encoding.PEM))
    except OSError as error:
        raise UserError(
            f"the certificate can't be kept in {path.parent} ({error.strerror or error}); set XDG_CACHE_HOME to a "
            "folder that can be written to, or leave HTTPS out"
        ) from None
    return made


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
