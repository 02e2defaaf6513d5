"""`masters-edge serve`: take the address, load the bundle, say what is served where, and answer until Ctrl-C."""

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import uvicorn

from masters_edge.bundle import manifest as manifests
from masters_edge.bundle.manifest import Manifest
from masters_edge.common.display import say
from masters_edge.common.errors import UserError
from masters_edge.runtime import Student
from masters_edge.serve.address import in_url, is_local, listen, reached_at
from masters_edge.serve.app import make_app
from masters_edge.serve.connections import Patience
from masters_edge.serve.question_queue import QuestionQueue


def serve(bundle: Path, host: str, port: int, threads: int | None, backend: str, api_key: str | None) -> None:
    """Serve a bundle until SIGINT or SIGTERM. Raises UserError for an address or a bundle that can't be used."""
    if api_key is not None and not api_key.strip():
        raise UserError("the API key is empty; give a longer one, or leave it out")
    with listen(host, port) as listener:
        address, port = listener.getsockname()[:2]
        student = Student.load(bundle, backend=backend, threads=threads)
        manifest = manifests.read(bundle)
        name = bundle.resolve().name
        queue = QuestionQueue(student)
        hosts = {"localhost", "127.0.0.1", "::1", host.lower(), address} if is_local(address) else None
        app = make_app(queue, _model(name, bundle, manifest, student), student.stop_ids, api_key, hosts)
        config = uvicorn.Config(
            app,
            http=Patience,
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="error",
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_graceful_shutdown=5,
        )

        def screen() -> None:
            say(f"student   {name}: {manifest.model_type} as {manifest.target}, {manifest.scheme}")
            say(f"size      {_size(manifest.bytes)}")
            say(f"runs on   {student.backend.name}, {student.threads} thread{'s' * (student.threads > 1)}")
            _say_where(address, port, api_key)
            say("Ctrl-C stops it.")

        _Server(config, queue, screen).run(sockets=[listener])
    say("stopped")
    if not queue.close():
        os._exit(0)  # inside the runtime's own code: an ordinary end would pull its memory from under it


def _model(name: str, bundle: Path, manifest: Manifest, student: Student) -> dict[str, Any]:
    """What GET /v1/models says; `masters_edge` is no part of OpenAI's format."""
    return {
        "id": name,
        "object": "model",
        "created": int((bundle / manifests.MANIFEST).stat().st_mtime),
        "owned_by": "masters-edge",
        "masters_edge": {
            "model_type": manifest.model_type,
            "target": manifest.target,
            "scheme": manifest.scheme,
            "bytes": manifest.bytes,
            "backend": student.backend.name,
            "threads": student.threads,
            "max_new_tokens": student.max_new_tokens,
        },
    }


def _say_where(address: str, port: int, api_key: str | None) -> None:
    first, *others = (f"http://{in_url(one)}:{port}" for one in reached_at(address))
    say(f"page      {first}/")
    say(f"endpoint  {first}/v1 (as OpenAI's chat completions)")
    if not is_local(address):
        for url in others:
            say(f"also at   {url}/")
        who = "who has the key" if api_key else "whoever reaches it; --api-key KEY asks for a key"
        say(f"open to   other machines: {who}")


class _Server(uvicorn.Server):
    """uvicorn that ends on a signal as on a wish: answers under way are refused, and the signal is not raised again."""

    def __init__(self, config: uvicorn.Config, queue: QuestionQueue, on_started: Callable[[], None]) -> None:
        super().__init__(config)
        self._queue, self._on_started = queue, on_started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_started()

    def handle_exit(self, sig: int, frame: object) -> None:
        self.force_exit = self.should_exit
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._queue.refuse_all()
        await super().shutdown(sockets)


def _size(size: int) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
