"""The certificate that a phone is asked to accept, and the link over it."""

import datetime
import hashlib
import ssl
import stat
from collections.abc import Iterator
from pathlib import Path

import httpx2 as httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from masters_edge.benchmarks.devices import Wanted
from masters_edge.benchmarks.page import https, link, server
from masters_edge.common.errors import UserError
from tests.page.fake_page import FakePage

NAMES = ("192.168.1.5", "fe80::1", "kitchen.local", "localhost")


def read(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def test_a_certificate_says_what_browsers_look_for(tmp_path: Path) -> None:
    path, fingerprint = https.certificate(NAMES, tmp_path / "page")
    found = read(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600 and stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(one) for one in names.get_values_for_type(x509.IPAddress)] == ["192.168.1.5", "fe80::1"]
    assert names.get_values_for_type(x509.DNSName) == ["kitchen.local", "localhost"]
    assert isinstance(found.public_key(), ec.EllipticCurvePublicKey)
    assert not found.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    lasts = found.not_valid_after_utc - datetime.datetime.now(datetime.timezone.utc)
    assert datetime.timedelta(days=29) < lasts <= datetime.timedelta(days=30)
    seen = ssl.PEM_cert_to_DER_cert("-----BEGIN CERT" + path.read_text().split("-----BEGIN CERT")[1])
    assert fingerprint.replace(":", "").lower() == hashlib.sha256(seen).hexdigest()


def test_it_is_kept_as_long_as_it_fits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, first = https.certificate(NAMES, tmp_path)
    assert https.certificate(NAMES[:2], tmp_path)[1] == first == https.certificate(NAMES, tmp_path)[1]
    assert https.certificate((*NAMES, "10.0.0.7"), tmp_path)[1] != first
    path, kept = https.certificate(NAMES, tmp_path)
    monkeypatch.setattr(https, "_AT_LEAST", datetime.timedelta(days=31))
    assert https.certificate(NAMES, tmp_path)[1] != kept


@pytest.mark.parametrize("harm", ["readable", "damaged", "other key", "link"])
def test_one_that_others_may_have_touched_is_made_anew(tmp_path: Path, harm: str) -> None:
    path, first = https.certificate(NAMES, tmp_path / "a")
    if harm == "readable":
        path.chmod(0o644)
    elif harm == "damaged":
        path.write_bytes(path.read_bytes()[:-40])
    elif harm == "other key":
        other, _ = https.certificate(NAMES, tmp_path / "b")
        key, marker = other.read_text().split("-----BEGIN CERT")[0], "-----BEGIN CERT"
        path.write_text(key + marker + path.read_text().split(marker)[1])
    else:
        path.rename(tmp_path / "elsewhere.pem")
        path.symlink_to(tmp_path / "elsewhere.pem")
    again, second = https.certificate(NAMES, tmp_path / "a")
    assert second != first and not again.is_symlink() and stat.S_IMODE(again.stat().st_mode) == 0o600


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="can't be kept in .*XDG_CACHE_HOME"):
        https.certificate(NAMES, tmp_path / "file" / "page")


@pytest.fixture
def network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An address that isn't loopback's own, and is there on every machine that tests run on."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(server, "addresses", lambda where: ["127.0.0.2", "127.0.0.1"])
    yield "127.0.0.2"


def test_on_the_network_the_page_comes_over_https(network: str, tmp_path: Path) -> None:
    with server.serving(None, Wanted(lan=True, port=0)) as (_, at):
        assert at.url.startswith(f"https://{network}:{at.port}/#t=") and at.fingerprint is not None
        pem = tmp_path / "masters-edge" / "page" / "certificate.pem"
        trusted = ssl.create_default_context(cafile=str(pem))
        with FakePage(at.url, verify=trusted) as page:
            claimed = page.claim()
            assert claimed.status_code == 200
            assert {"secure", "httponly"} <= {part.strip().lower() for part in claimed.headers["set-cookie"].split(";")}
            assert claimed.headers["set-cookie"].startswith("__Host-")
            assert page.state()["phase"] == "waiting"
            for origin, status in ((page.origin, 422), (page.origin.replace("https", "http"), 403)):
                assert page.post("/api/stop", {}, Origin=origin).status_code == status
        with pytest.raises(httpx.ConnectError), FakePage(at.url) as stranger:
            stranger.claim()
        seen = ssl.get_server_certificate((network, at.port))
        assert https.fingerprint(x509.load_pem_x509_certificate(seen.encode())) == at.fingerprint
        notes = " ".join(at.said())
        assert at.fingerprint[:47].replace(":", " ") in notes and "Advanced" in notes and "Show Details" in notes


def test_without_https_the_network_is_told_what_it_costs(network: str) -> None:
    with server.serving(None, Wanted(lan=True, https=False, port=0)) as (_, at), FakePage(at.url) as page:
        assert at.url.startswith("http://127.0.0.2:") and page.claim().status_code == 200
        assert any("one thread" in note and "read along" in note for note in at.said())


def test_loopback_lets_nobody_else_in() -> None:
    with server.serving(None, Wanted(port=0)) as (_, at):
        assert at.url.startswith("http://127.0.0.1:") and at.fingerprint is None
        with pytest.raises(httpx.ConnectError), FakePage(at.url.replace("127.0.0.1", "127.0.0.2")) as page:
            page.claim()
        assert any("--lan" in note for note in at.said())


def test_a_machine_without_a_network_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "addresses", lambda where: ["127.0.0.1"])
    with pytest.raises(UserError, match="in no network"), server.serving(None, Wanted(lan=True, port=0)):
        pass


def test_the_qr_code_in_the_terminal_is_the_link_in_black_on_white() -> None:
    text = "https://192.168.1.5:8770/#t=abcdefghijklmnopqrstuv"
    shown = link.qr(text, columns=100).splitlines()
    ink, plain = "\x1b[38;5;16;48;5;231m", "\x1b[0m"
    assert all(line.startswith(ink) and line.endswith(plain) for line in shown)
    dark = {" ": (0, 0), "▀": (1, 0), "▄": (0, 1), "█": (1, 1)}
    read = [[dark[one][half] for one in line[len(ink) : -len(plain)]] for line in shown for half in (0, 1)]
    modules = link.matrix(text)
    assert read[: len(modules)] == modules and not any(map(any, read[len(modules) :]))
    assert len(modules) == len(modules[0]) == 41 and not any(map(any, modules[:4])) and modules[4][4] == 1
    assert link.qr(text, columns=60) == ""
