"""What the page's server keeps out: other devices, other sites, other files, and whatever is too large or too slow."""

import contextlib
import http.client
import select
import shutil
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from masters_edge.benchmarks.devices import Wanted
from masters_edge.benchmarks.page import app, desk, gate, server
from masters_edge.common.errors import UserError
from tests.page.fake_page import FACTS, VERSIONS, FakePage, Host, bundle, stages, student, suite


@pytest.fixture(autouse=True)
def no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desk, "LOOK_S", 0.02)
    monkeypatch.setattr(desk, "FAREWELL_S", 0.05)
    monkeypatch.setattr(app, "WRONG_TOKEN_S", 0.05)


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy, which a test may change while other processes read the bundle that they share."""
    return shutil.copytree(bundle(), tmp_path_factory.mktemp("own") / "bundle")


@pytest.fixture(scope="module")
def measured(own: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Host, FakePage, dict[str, Any]]]:
    """A job that is handed out and not begun: what is refused leaves it so."""
    at = Host(own, suite(), tmp_path_factory.mktemp("refuses") / "results.json", cases=True, sustain_s=10)
    with FakePage(at.url, student()) as page:
        assert page.claim().status_code == 200
        job = page.job()
        yield at, page, job
        page.post("/api/stop", {"job": job["id"]})
        page.until(lambda state: state["phase"] == "ended")
    at.ended()


Measured = tuple[Host, FakePage, dict[str, Any]]


def test_a_wrong_token_waits_for_its_no(measured: Measured, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "WRONG_TOKEN_S", 0.3)
    at, page, _ = measured
    for token in ("", "x", page.token[:-1], page.token + "x", "ü" * 20, None):
        with FakePage(at.url) as stranger:
            stranger.token = token or ""
            began = time.monotonic()
            response = stranger.claim(token if token != "" else " ")
            assert response.status_code == 403 and "not valid" in response.json()["error"]
            assert time.monotonic() - began > 0.25 and not stranger.http.cookies


def test_many_wrong_tokens_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "WRONG_TOKEN_S", 0.0)
    notes: list[str] = []
    with server.serving(None, Wanted(on_note=notes.append, port=0)) as (_, link), FakePage(link.url) as page:
        for _ in range(desk.MANY_WRONG):
            assert page.claim("guess").status_code == 403
        assert notes == [f"somebody tried {desk.MANY_WRONG} wrong links; none of them was let in"]
        assert page.claim().status_code == 200


def test_a_second_device_is_told_why(measured: Measured) -> None:
    at, page, _ = measured
    with FakePage(at.url) as second:
        response = second.claim()
        assert response.status_code == 409 and "another device already" in response.json()["error"]
        assert not second.http.cookies and second.http.get("/api/state").status_code == 401
    assert page.claim().status_code == page.claim(None).status_code == page.claim("wrong").status_code == 200


def test_the_cookie_is_this_pages_alone() -> None:
    with server.serving(None, Wanted(port=0)) as (_, link), FakePage(link.url) as page:
        (said,) = page.claim().headers.get_list("set-cookie")
        assert said.split("=")[0] == f"masters-edge-{link.port}"
        attributes = {part.strip().lower() for part in said.split(";")[1:]}
        assert attributes == {"httponly", "samesite=strict", "path=/"}  # and Secure under HTTPS


def test_without_the_cookie_there_is_only_the_page(measured: Measured) -> None:
    at, page, job = measured
    with FakePage(at.url) as stranger:
        for cookie in ("", "x", list(page.http.cookies.values())[0][:-1]):
            stranger.http.cookies.set(list(page.http.cookies)[0], cookie)
            for path in ("/api/state", f"/api/questions?job={job['id']}", f"/images/{job['id']}/0",
                         job["bundle"]["url"] + "config.json"):  # fmt: skip
                assert stranger.http.get(path).status_code == 401
            for path in ("progress", "raw", "stop", "failed"):
                assert stranger.post(f"/api/{path}", {"job": job["id"]}).status_code == 401
        html = stranger.get("/").text
    assert page.token not in html and job["id"] not in html and "{lock}" not in html and "{assets}" not in html


def test_the_page_and_its_files_come_with_types_and_may_be_kept(measured: Measured) -> None:
    page = measured[1]
    html = page.get("/").text
    assert page.get("/").headers["cache-control"] == "no-store"
    paths = [part.split('"')[0] for part in html.split('"/web/')[1:]]
    assert len(paths) >= 2
    for path in paths:
        found = page.get(f"/web/{path}")
        assert found.headers["content-type"].partition(";")[0] in ("text/javascript", "text/css")
        assert "immutable" in found.headers["cache-control"] and found.content
        assert page.http.get(f"/web/{'0' * 12}/{path.split('/')[1]}").status_code == 404
    assert page.http.get(f"/web/{paths[0].split('/')[0]}/index.html").status_code == 404
    assets = html.split('content="/assets/')[1].split('"')[0]
    wasm = page.http.head(f"/assets/{assets}ort-wasm-simd-threaded.wasm")
    assert (wasm.status_code, wasm.headers["content-type"]) == (200, "application/wasm")
    assert page.http.head(f"/assets/{assets}lock.txt").status_code == 404


def test_every_answer_carries_the_policies(measured: Measured) -> None:
    _, page, job = measured
    responses = [
        page.http.get("/"),
        page.http.get("/nothing"),
        page.http.get("/api/state"),
        page.http.get(job["bundle"]["url"] + "config.json"),
        page.http.get(f"/images/{job['id']}/0"),
        page.http.get("/api/claim"),
        page.http.get("/api/state", headers={"Host": "elsewhere.example"}),
        page.post("/api/raw", {}),
        page.post("/api/raw", b"x" * (gate.MAX_BODY + 1)),
        FakePage(measured[0].url).http.get("/api/state"),
    ]
    assert [response.status_code for response in responses] == [200, 404, 200, 200, 200, 405, 421, 422, 413, 401]
    for response in responses:
        for name, value in gate.HEADERS.items():
            assert response.headers[name] == value
        assert response.headers["cache-control"] == "no-store" and "server" not in response.headers
        assert response.status_code == 200 or response.json()["error"]
    policy = gate.HEADERS["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe-inline" not in policy and "http" not in policy


def test_only_this_machines_names_are_answered_to(measured: Measured) -> None:
    page = measured[1]
    for host in ("evil.example", "127.0.0.1.evil.example", "", "[", "localhost@evil.example:80x"):
        assert _sent(page, f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n") in (400, 421)
    assert _sent(page, "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n") == 200
    assert _sent(page, "GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n") in (400, 421)


def test_other_sites_and_other_types_are_refused(measured: Measured) -> None:
    _, page, job = measured
    body = {"job": job["id"], "phase": "latency", "done": 1, "total": 2}
    port = page.origin.rpartition(":")[2]
    for origin in (
        "http://evil.example",
        f"http://evil.example:{port}",
        "null",
        f"https://127.0.0.1:{port}",
        "http://127.0.0.1:1",
        "http://[",
    ):
        assert page.post("/api/progress", body, Origin=origin).status_code == 403
    assert page.post("/api/progress", body, **{"Sec-Fetch-Site": "cross-site"}).status_code == 403
    assert page.post("/api/progress", body, Origin=page.origin, **{"Sec-Fetch-Site": "same-origin"}).status_code == 200
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""):
        assert page.post("/api/progress", body, **{"Content-Type": kind}).status_code == 415


OUTSIDE = [
    "../manifest.json", "../../../../etc/passwd", "..%2f..%2f..%2fetc/passwd", "%2e%2e/%2e%2e/etc/passwd",
    "..%252f..%252fetc/passwd", "/etc/passwd", "%2fetc%2fpasswd", "//etc/passwd", "..\\..\\etc\\passwd", "..%5c..%5c",
    "onnx/../config.json", "onnx/./../config.json", "./config.json", "onnx//../config.json", "config.json/",
    "config.json/..",
    "config.json%00", "%00", "CONFIG.JSON", "manifest.json", "", ".", "..", "onnx", "onnx/", "file:///etc/passwd",
    "config.json;/etc/passwd", "..;/config.json", "%c0%ae%c0%ae/etc/passwd", "~root/.profile", "C:/Windows/win.ini",
]  # fmt: skip


@pytest.mark.parametrize("path", OUTSIDE)
def test_no_file_outside_the_bundle(measured: Measured, path: str) -> None:
    """Sent as it stands: an HTTP client would tidy it up."""
    _, page, job = measured
    cookie = "; ".join(f"{name}={value}" for name, value in page.http.cookies.items())
    for before in (job["bundle"]["url"], "/bundle/", "/images/", f"/images/{job['id']}/", "/web/", "/assets/", "/"):
        if (before, path) == ("/", ""):
            continue  # the page itself
        target = f"GET {before}{path} HTTP/1.1\r\nHost: 127.0.0.1\r\nCookie: {cookie}\r\n\r\n"
        assert _sent(page, target) in (400, 404, 409), before


def test_a_link_out_of_the_bundle_is_not_followed(measured: Measured, own: Path, tmp_path: Path) -> None:
    _, page, job = measured
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    known = next(file for file in job["bundle"]["files"] if file["path"].endswith("generation_config.json"))
    place = own / known["path"]
    kept = place.read_bytes()
    place.unlink()
    try:
        place.symlink_to(secret)
        assert page.http.get(job["bundle"]["url"] + known["path"]).status_code == 404
        again = Host(own, suite(), tmp_path / "results.json")
        with FakePage(again.url) as other:
            other.claim()
            assert "is a link out of the folder" in str(again.ended())
    finally:
        place.unlink()
        place.write_bytes(kept)
    assert page.get(job["bundle"]["url"] + known["path"]).content == kept
    assert page.http.get(f"/bundle/{'0' * 64}/{known['path']}").status_code == 404


def test_ranges_are_answered_and_bad_ones_refused(measured: Measured) -> None:
    _, page, job = measured
    file = max(job["bundle"]["files"], key=lambda one: one["bytes"])
    url, size = job["bundle"]["url"] + file["path"], file["bytes"]
    tail = page.http.get(url, headers={"Range": f"bytes={size - 10}-"})
    assert tail.status_code == 206 and tail.headers["content-range"] == f"bytes {size - 10}-{size - 1}/{size}"
    assert tail.content == page.get(url).content[-10:]
    assert page.http.get(url, headers={"Range": f"bytes={size}-"}).status_code == 416


@pytest.mark.parametrize("told", [True, False], ids=["with its length", "chunked"])
def test_a_hundred_megabytes_are_refused_and_never_held(measured: Measured, told: bool) -> None:
    page = measured[1]
    process, most = psutil.Process(), 0
    before = process.memory_info().rss

    def pieces() -> Iterator[bytes]:
        nonlocal most
        for _ in range(400):
            most = max(most, process.memory_info().rss)
            yield b" " * 2**18

    headers = {"Content-Type": "application/json"} | ({"Content-Length": str(400 * 2**18)} if told else {})
    response = page.http.post("/api/raw", content=pieces(), headers=headers)
    assert response.status_code == 413 and "1 MiB" in response.json()["error"]
    assert most - before < 24 * 2**20
    assert page.http.get("/api/state").status_code == 200


def test_an_upload_that_dawdles_is_ended(measured: Measured, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "READ_S", 0.3)
    _, page, _ = measured
    cookie = "; ".join(f"{name}={value}" for name, value in page.http.cookies.items())
    start = f"POST /api/raw HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nCookie: {cookie}\r\n"
    began = time.monotonic()
    assert _sent(page, f"{start}Content-Length: 100\r\n\r\n{{") == 408
    assert time.monotonic() - began < 5


def test_headers_that_dawdle_and_crowds_are_hung_up_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server._Patience, "HEADERS_S", 0.4)
    monkeypatch.setattr(server._Patience, "OF_ONE_CLIENT", 6)
    with server.serving(None, Wanted(port=0)) as (_, link):
        crowd = [socket.create_connection(("127.0.0.1", link.port)) for _ in range(10)]
        time.sleep(0.1)
        crowd[9].sendall(b"GET / HTTP/1.1\r\nHost: ")
        hung_up_on = select.select(crowd, [], [], 0.1)[0]
        assert set(hung_up_on) == set(crowd[:4]), "who has said nothing for longest gives way"
        for one in crowd:
            one.settimeout(5)
            with contextlib.suppress(ConnectionError):
                assert one.recv(1) == b""
            one.close()
        with FakePage(link.url) as page:
            assert page.claim().status_code == 200


DAMAGED: list[tuple[str, Any, str]] = [
    ("cold", {"cold_start_ms": -1}, "greater than or equal to 0"),
    ("cold", {"cold_start_ms": float("nan")}, "finite"),
    ("cold", {"cold_start_ms": float("inf")}, "finite"),
    ("cold", {"cold_start_ms": "12"}, "valid number"),
    ("cold", {"cold_start_ms": True}, "valid number"),
    ("cold", {"cold_start_ms": 1, "extra": 1}, "not permitted"),
    ("cold", [], "object"),
    ("choice", {"backend": "cuda", "reason": ""}, "'wasm' or 'webgpu'"),
    ("choice", {"backend": "wasm", "reason": "x" * 501}, "at most 500"),
    ("facts", {"backend": "wasm", "threads": 0, "versions": {}}, "greater than or equal to 1"),
    ("facts", {"backend": "wasm", "threads": 1, "versions": {str(k): "1" for k in range(21)}}, "at most 20"),
    ("latency", {"stages": {"lunch_ms": [1.0]}, "hidden_s": 0.0}, "preprocess_ms"),
    ("latency", {"stages": {"total_ms": [1e300]}, "hidden_s": 0.0}, "less than or equal"),
    ("case", {"name": "x"}, "either stages or skipped"),
    ("case", {"name": "x", "stages": {}, "skipped": "why"}, "either stages or skipped"),
    ("sustained", [], "at least 1"),
    ("sustained", [{"at_s": 2.0, "answers": 1, "total_ms": 1.0}] * 2, "at_s must grow"),
    ("answers", [{"text": "x"}] * 201, "at most 200"),
    ("answers", [{"text": "x" * 20_001}], "at most 20000"),
    ("answers", [{"text": "x", "pixels_hash": "DEADBEEF"}], "pattern"),
    ("answers", [{"text": "x", "score": 1.0}], "not permitted"),
    ("done", {}, "required"),
    ("everything", {}, "expected tags"),
]


@pytest.mark.parametrize("kind, value, sentence", DAMAGED, ids=lambda value: str(value)[:40])
def test_damaged_values_are_refused_with_a_sentence(measured: Measured, kind: str, value: Any, sentence: str) -> None:
    _, page, job = measured
    response = page.raw(job["id"], kind, 0, value)
    assert response.status_code == 422 and sentence in response.json()["error"], response.text
    assert len(response.text) < 500 and "xxxx" not in response.text
    assert page.state()["job"]["done"] == job["done"]


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"null", b'{"job": "\\ud800"}', b"\xff\xfe", b"[" * 100_000, b'{"a":' * 50_000, b"1" * 5000],
)
def test_what_is_no_json_is_refused(measured: Measured, body: bytes) -> None:
    for path in ("raw", "progress", "stop", "failed", "claim"):
        assert measured[1].post(f"/api/{path}", body).status_code == 422


EARLY = [
    ("cold", 1, {"cold_start_ms": 1.0}, "cold start 1 is not the next"),
    ("facts", 0, {"backend": "wasm", "threads": 1, "versions": VERSIONS}, "facts can't come before cold starts"),
    ("latency", 0, {"stages": stages(3), "hidden_s": 0.0}, "latency can't come before facts"),
    ("case", 0, {"name": "256x256, short prompt", "stages": stages(2)}, "a case can't come before latency"),
    ("case", 9, {"name": "256x256, short prompt", "stages": stages(2)}, "case 9 is not the next"),
    ("sustained", 0, [{"at_s": 2.0, "answers": 1, "total_ms": 1.0}], "sustained loop can't come before latency"),
    ("answers", 0, [{"text": "x"}], "answers can't come before latency"),
    ("done", 0, {"hidden_s": 0.0}, "the end can't come before latency"),
]


@pytest.mark.parametrize("kind, index, value, sentence", EARLY, ids=lambda value: str(value)[:20])
def test_what_comes_too_early_is_refused_with_the_state_of_things(
    measured: Measured, kind: str, index: int, value: Any, sentence: str
) -> None:
    _, page, job = measured
    response = page.raw(job["id"], kind, index, value)
    assert response.status_code == 409 and sentence in response.json()["error"]
    assert response.json()["done"] == job["done"]


def test_what_does_not_fit_the_job_is_refused(tmp_path: Path) -> None:
    at = Host(bundle(), suite(), tmp_path / "results.json", backend="wasm", cases=True)
    with FakePage(at.url, student()) as page:
        page.claim()
        job = page.job()
        assert (job["backend"], job["choose"]) == ("wasm", False)
        for k in range(3):
            page.send(job, "cold", k, {"cold_start_ms": 1.0})
        assert "too many" not in page.raw(job["id"], "cold", 3, {"cold_start_ms": 1.0}).json()["error"]
        ran = {"backend": "webgpu", "threads": job["threads"], "versions": VERSIONS}
        assert "not on webgpu" in page.raw(job["id"], "facts", 0, ran).json()["error"]
        page.send(job, "facts", 0, ran | {"backend": "wasm"})
        for wrong in (stages(2), stages(4), {"total_ms": [1.0] * 3, "vision_ms": [1.0] * 4}):
            said = page.raw(job["id"], "latency", 0, {"stages": wrong, "hidden_s": 0.0})
            assert said.status_code == 422 and "all 3 questions" in said.json()["error"]
        page.send(job, "latency", 0, {"stages": stages(3), "hidden_s": 0.0})
        page.send(job, "answers", 0, [{"text": "a"}] * 3)
        late = page.raw(job["id"], "answers", 3, [{"text": "a"}])
        assert late.status_code == 409 and "before cases" in late.json()["error"]
        assert page.raw(job["id"], "case", 0, {"name": "another", "stages": stages(2)}).status_code == 422
        for k, case in enumerate(job["cases"]):
            page.send(job, "case", k, {"name": case["name"], "stages": stages(2)})
        assert page.raw(job["id"], "answers", 3, [{"text": "a"}] * 8).status_code == 409  # there are ten
        assert page.raw("another job", "answers", 3, [{"text": "a"}]).status_code == 409
        page.post("/api/failed", {"job": job["id"], "message": "enough"})
        page.until(lambda state: state["phase"] == "ended")
        assert page.raw(job["id"], "answers", 3, [{"text": "a"}]).status_code == 409
    at.ended()


def test_damaged_facts_are_refused_and_names_are_plain(measured: Measured) -> None:
    with server.serving("kitchen", Wanted(port=0)) as (at, link), FakePage(link.url) as page:
        for wrong in ({"cores": 0}, {"cores": 2.5}, {"memory_gib": float("nan")}, {"brands": [{"brand": "x"}]},
                      {"user_agent": "x" * 1001}, {"isolated": 1}, {"model": "x" * 201}, {"serial": "1"}):  # fmt: skip
            said = page.post("/api/claim", {"token": page.token, "facts": FACTS | wrong})
            assert said.status_code == 422 and next(iter(wrong)) in said.json()["error"], said.text
        assert at.facts is None
        page.facts |= {"model": "Pix\x1b[2Jel\n9\u202e", "platform": "\x07"}
        assert page.claim().json() == {"device": "kitchen"}
        facts = at.wait_for_claim()
        assert (facts.model, facts.platform) == ("Pix [2Jel 9", None)


def test_a_taken_port_names_the_option() -> None:
    with (
        server.serving(None, Wanted(port=0)) as (_, link),
        pytest.raises(UserError, match="--port"),
        server.serving(None, Wanted(port=link.port)),
    ):
        pass


def _sent(page: FakePage, request: str) -> int:
    """The status that a request gets when it is sent letter by letter as it stands here."""
    port = int(page.origin.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(request.encode())
        response = http.client.HTTPResponse(connection)
        response.begin()
        if response.status != 200:
            assert response.getheader("location") is None
        return response.status
