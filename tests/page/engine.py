"""The page's engine alone in a browser: its worker, a bundle and the packages from npm, behind the real page's headers.

The real server and page are tested elsewhere; here a call goes straight to `web/worker.js`.
"""

import base64
import http.server
import io
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from masters_edge.benchmarks.page import assets
from masters_edge.bundle import manifest as manifests
from tests.http_server import QuietServer
from tests.page.driver import Browser

WEB = Path(assets.__file__).parent / "web"
POLICY = (
    "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; worker-src 'self'; connect-src 'self'; "
    "img-src 'self' blob: data:; media-src blob:; style-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
ISOLATION = {"Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Embedder-Policy": "require-corp"}
TYPES = {".js": "text/javascript", ".mjs": "text/javascript", ".wasm": "application/wasm", ".html": "text/html"}
needs_assets = pytest.mark.skipif(not assets.ready(), reason=f"needs what npm has: {assets.COMMAND}")

_CALL = """
  const [sha256, call, args] = given;
  const worker = window.engines.get(sha256);
  window.calls = (window.calls ?? 0) + 1;
  const id = window.calls;
  if (args.picture) {
    const bytes = Uint8Array.from(atob(args.picture), (c) => c.charCodeAt(0));
    args.picture = new Blob([bytes], {type: args.type ?? "image/png"});
  }
  return new Promise((resolve, reject) => {
    worker.addEventListener("message", function hear({data}) {
      if (data.id === undefined) (window.events ??= []).push(data);
      if (data.id !== id) return;
      worker.removeEventListener("message", hear);
      resolve(data);
    });
    worker.addEventListener("error", (event) => reject(new Error(event.message)), {once: true});
    worker.postMessage({id, call, ...args});
  });
"""
_START = """
  const [bundle] = given;
  const store = await import("/web/x/store.js");
  await store.download(bundle);
  window.engines ??= new Map();
  window.engines.get(bundle.sha256)?.terminate();
  window.engines.set(bundle.sha256, new Worker("/web/x/worker.js", {type: "module"}));
"""


class Refused(Exception):
    """The worker's sentence."""


class Engine:
    """A worker with one bundle. The page of `server` is open in `browser`."""

    def __init__(
        self, browser: Browser, server: "Server", folder: Path, backend: str = "wasm", threads: int | None = 1
    ) -> None:
        self.browser = browser
        self.sha256 = server.offer(folder)
        files = [file.model_dump() for file in manifests.read(folder).files]
        self.bundle = {"sha256": self.sha256, "url": f"/bundle/{self.sha256}/", "files": files}
        browser.wait_js(_START, self.bundle)
        urls = {name: f"/assets/x/{name}" for name in assets.files()}
        wasm = [url for name, url in urls.items() if name.startswith("ort-")]
        wanted = {"transformers": urls["transformers.min.js"], "wasm": wasm}
        self.facts = self.call("load", bundle=self.bundle, backend=backend, threads=threads, urls=wanted)

    def call(self, name: str, **args: Any) -> Any:
        if isinstance(args.get("picture"), Image.Image):
            args["picture"] = png(args["picture"])
        if isinstance(args.get("picture"), bytes):
            args["picture"] = base64.b64encode(args["picture"]).decode()
        said = self.browser.wait_js(_CALL, self.sha256, name, args, seconds=600)
        if "error" in said:
            raise Refused(said["error"])
        return said["result"]

    def answer(self, picture: Image.Image | bytes, question: str, exactly: int | None = None, **rest: Any) -> Any:
        return self.call("answer", picture=picture, question=question, exactly=exactly, hashes=True, **rest)

    def close(self) -> None:
        self.browser.js("window.engines.get(arguments[0]).terminate()", self.sha256)


class Server:
    """Serves the page's modules, npm's files and the bundles that were offered; says what was asked for."""

    def __init__(self, isolated: bool = True) -> None:
        self.bundles: dict[str, Path] = {}
        self.asked: list[str] = []
        self.headers = {"Content-Security-Policy": POLICY, "Cross-Origin-Resource-Policy": "same-origin"}
        self.headers |= {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}
        self.headers |= ISOLATION if isolated else {}
        self._http = QuietServer(("127.0.0.1", 0), self._handler())
        threading.Thread(target=self._http.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._http.server_port}"

    def offer(self, folder: Path) -> str:
        sha256 = f"{len(self.bundles):064x}"
        self.bundles[sha256] = folder
        return sha256

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()

    def find(self, path: str) -> Path | bytes | None:
        first, _, rest = path.lstrip("/").partition("/")
        if not first:
            return b"<!doctype html><title>engine</title><link rel=icon href=data:,>"
        lock, _, name = rest.partition("/")
        if first == "web":
            return WEB / name
        if first == "assets":
            return assets.files().get(name)
        return self.bundles[lock] / name if lock in self.bundles else None

    def _handler(self) -> type[http.server.BaseHTTPRequestHandler]:
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.asked.append(self.path)
                found = server.find(self.path)
                if isinstance(found, Path):
                    kind, found = TYPES.get(found.suffix), found.read_bytes() if found.is_file() else None
                else:
                    kind = "text/html"
                self.send_response(404 if found is None else 200)
                for name, value in server.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Type", kind or "application/octet-stream")
                self.send_header("Content-Length", str(len(found or b"")))
                self.end_headers()
                self.wfile.write(found or b"")

            def log_message(self, *_: Any) -> None:
                pass

        return Handler


@contextmanager
def serving(isolated: bool = True) -> Iterator[Server]:
    server = Server(isolated)
    try:
        yield server
    finally:
        server.close()


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def complaints(browser: Browser) -> list[str]:
    """The console's errors; what onnxruntime warns of isn't one."""
    entries = browser.driver.get_log("browser")
    return [json.dumps(entry["message"]) for entry in entries if entry["level"] == "SEVERE"]
