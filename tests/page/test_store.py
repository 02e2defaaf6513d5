"""`web/store.js` in a real browser: pieces, what is half there, what arrives damaged, and where nothing can be kept."""

import hashlib
import random
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from masters_edge.benchmarks import page
from tests.http_server import QuietServer
from tests.page.driver import Browser, chromium, needs_browser

pytestmark = needs_browser

WEB = Path(page.__file__).parent / "web"
PIECE = 10_000
CONTENT = {"config.json": b'{"of": "it"}', "onnx/a b.onnx": random.Random(0).randbytes(35_000), "empty.txt": b""}
READER = """
  import { open } from "/web/store.js";
  self.onmessage = async ({ data }) => postMessage((await (await open(...data)).text()).length);
"""


class Server:
    """The page's files, and one bundle whose answers can go wrong. `asked` holds each file's ranges."""

    def __init__(self) -> None:
        outer, self.asked, self.left, self.damage = self, [], -1, 0  # type: ignore[var-annotated]

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                path = self.path.replace("%20", " ")
                if path.startswith("/bundle/"):
                    self.piece(path.split("/", 3)[3])
                elif path.startswith("/web/") and (WEB / path[5:]).is_file():
                    self.say((WEB / path[5:]).read_bytes(), "text/javascript")
                elif path == "/reader.js":
                    self.say(READER.encode(), "text/javascript")
                else:
                    self.say(b"<!doctype html><title>store</title><link rel=icon href='data:,'>", "text/html")

            def piece(self, name: str) -> None:
                if outer.left == 0:
                    self.close_connection = True  # nobody answers
                    return
                outer.left -= 1
                content, wanted = CONTENT[name], self.headers["Range"]
                outer.asked.append(f"{name} {wanted}")
                if wanted is None:
                    self.say(content, "application/octet-stream")
                    return
                first, last = map(int, wanted.removeprefix("bytes=").split("-"))
                part = bytearray(content[first : last + 1])
                if outer.damage and first:
                    outer.damage, part[0] = outer.damage - 1, part[0] ^ 1
                self.say(bytes(part), "application/octet-stream", 206)

            def say(self, content: bytes, kind: str, status: int = 200) -> None:
                self.send_response(status)
                self.send_header("content-type", kind)
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *args: Any) -> None:
                pass

        self.server = QuietServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def port(self) -> int:
        return self.server.server_port


@pytest.fixture(scope="module")
def chrome() -> Iterator[Browser]:
    with chromium() as started:
        yield started


@pytest.fixture
def server(chrome: Browser) -> Iterator[Server]:
    made = Server()
    chrome.driver.get(f"http://127.0.0.1:{made.port}/")
    yield made
    made.server.shutdown()
    made.server.server_close()


def bundle(sha256: str = "a" * 64) -> dict[str, Any]:
    files = [
        {"path": path, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for path, content in CONTENT.items()
    ]
    return {"sha256": sha256, "url": f"/bundle/{sha256}/", "files": files}


def download(chrome: Browser, given: dict[str, Any]) -> list[list[int]]:
    """What `onBytes` heard."""
    return chrome.wait_js(
        f"""const {{ download }} = await import("/web/store.js");
        const heard = [];
        const onBytes = (...at) => {{ heard.push(at); }};
        await download(given[0], {{ onBytes, pieceBytes: {PIECE} }});
        return heard;""",
        given,
    )


def in_worker(chrome: Browser, sha256: str, path: str) -> int:
    """The length that a worker reads."""
    return chrome.wait_js(
        """const worker = new Worker("/reader.js", { type: "module" });
        worker.postMessage(given);
        return new Promise((done, fail) => {
          worker.onmessage = ({ data }) => done(data);
          worker.onerror = (event) => fail(new Error(event.message));
        });""",
        sha256,
        path,
    )


@pytest.mark.wide
def test_in_pieces_and_never_twice(chrome: Browser, server: Server) -> None:
    given, total = bundle(), sum(map(len, CONTENT.values()))
    heard = download(chrome, given)
    assert heard[-1] == [total, total] and heard == sorted(heard)
    ranges = [one.rpartition("=")[2] for one in server.asked if one.startswith("onnx")]
    assert ranges == ["0-9999", "10000-19999", "20000-29999", "30000-34999"]
    server.asked.clear()
    chrome.driver.refresh()
    assert download(chrome, given)[-1] == [total, total]
    assert [in_worker(chrome, given["sha256"], path) for path in ("config.json", "empty.txt")] == [12, 0]
    digest = """const { open } = await import("/web/store.js");
        const bytes = await (await open(given[0], "onnx/a b.onnx")).arrayBuffer();
        return [...new Uint8Array(await crypto.subtle.digest("SHA-256", bytes))];"""
    assert bytes(chrome.wait_js(digest, given["sha256"])).hex() == given["files"][1]["sha256"]
    assert not server.asked  # all of it came from the cache
    assert in_worker(chrome, "c" * 64, "config.json") == 12 and server.asked == ["config.json None"]


def test_half_there_after_a_reload(chrome: Browser, server: Server) -> None:
    given = bundle()
    with pytest.raises(AssertionError, match="AbortError"):
        chrome.wait_js(
            f"""const {{ download }} = await import("/web/store.js");
            const ending = new AbortController();
            const onBytes = (here) => here > 25000 && ending.abort();
            await download(given[0], {{ onBytes, pieceBytes: {PIECE}, signal: ending.signal }});""",
            given,
        )
    before = list(server.asked)
    assert "onnx/a b.onnx bytes=10000-19999" in before and "onnx/a b.onnx bytes=30000-34999" not in before
    chrome.driver.refresh()
    download(chrome, given)
    again = server.asked[len(before) :]
    assert again[-1] == "onnx/a b.onnx bytes=30000-34999"
    assert len(set(before) & set(again)) <= 1  # at most the piece that was on its way
    assert in_worker(chrome, given["sha256"], "onnx/a b.onnx") > 0


@pytest.mark.wide
def test_nobody_answers_for_a_while(chrome: Browser, server: Server) -> None:
    given = bundle()
    server.left = 2
    timer = threading.Timer(1.0, lambda: setattr(server, "left", -1))
    timer.start()
    heard = chrome.wait_js(
        f"""const {{ download }} = await import("/web/store.js");
        const {{ watchConnection }} = await import("/web/calls.js");
        const heard = [];
        watchConnection((lost) => heard.push(lost));
        await download(given[0], {{ pieceBytes: {PIECE} }});
        return heard;""",
        given,
    )
    assert heard == [True, False] and len(set(server.asked)) == len(server.asked) == 5


def test_damaged_on_the_way(chrome: Browser, server: Server) -> None:
    server.damage = 1
    download(chrome, bundle())
    assert len(server.asked) == 1 + 2 * 4  # the file came twice
    server.damage = 1000
    other = bundle("b" * 64)
    with pytest.raises(AssertionError, match="a b.onnx arrived damaged twice: its sha256 is not the one"):
        download(chrome, other)
    names = chrome.wait_js("return caches.keys()")
    assert [name[-64:] for name in names] == ["b" * 64]  # the older student made room
    assert not chrome.wait_js("return caches.match('/kept/' + given[0] + '/whole/onnx/a%20b.onnx')", "b" * 64)


@pytest.mark.wide
def test_no_room_on_the_device(chrome: Browser, server: Server) -> None:
    given = bundle()
    origin = f"http://127.0.0.1:{server.port}"
    chrome.command("Storage.overrideQuotaForOrigin", {"origin": origin, "quotaSize": 20_000})
    download(chrome, given)
    why = chrome.wait_js("""const { kept } = await import("/web/store.js"); return [kept.inMemory, kept.why]""")
    assert why[0] and "storage for pages is full" in why[1]
    before = len(server.asked)
    assert in_worker(chrome, given["sha256"], "config.json") == 12  # from the page's memory, or the cache
    assert in_worker(chrome, given["sha256"], "onnx/a b.onnx") > 0 and len(server.asked) == before
    about = {"name": "student", "bundle": {"sha256": given["sha256"]}, "examples": [{"text": "what?"}]}
    found = chrome.wait_js(
        """const store = await import("/web/store.js");
        await store.remember(given[0].bundle.sha256, given[0], [new Blob(["picture"])]);
        const { pictures, ...about } = await store.remembered();
        const said = [about, await pictures[0].text()];
        await store.forget();
        return [...said, await store.remembered(), await caches.keys()];""",
        about,
    )
    assert found == [about, "picture", None, []]


@pytest.mark.wide
def test_not_a_secure_context(server: Server) -> None:
    """Plain HTTP on the network: no Cache API, no hashes of the browser; the page's memory has to do."""
    given = bundle()
    with chromium("--host-resolver-rules=MAP page.test 127.0.0.1") as plain:
        plain.driver.get(f"http://page.test:{server.port}/")
        assert plain.js("return [isSecureContext, typeof caches]") == [False, "undefined"]
        download(plain, given)
        why = plain.wait_js("""return (await import("/web/store.js")).kept.why""")
        assert "not HTTPS" in why
        before = len(server.asked)
        assert in_worker(plain, given["sha256"], "onnx/a b.onnx") > 0 and len(server.asked) == before
        assert not plain.complaints()
