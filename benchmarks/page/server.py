"""The page's server: a socket, HTTPS where the network needs it, and a thread that answers until the measuring ends.

In: who may reach it (`devices.Wanted`). Out: the `Desk` where the host meets the page, and the `Link` to open.
"""

import asyncio
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import uvicorn

from masters_edge.benchmarks.devices import Wanted
from masters_edge.benchmarks.page import assets
from masters_edge.benchmarks.page.app import make_app
from masters_edge.benchmarks.page.desk import Desk
from masters_edge.benchmarks.page.https import certificate
from masters_edge.benchmarks.page.link import LOOPBACK, Link, addresses, host_names, names, origin
from masters_edge.common.errors import UserError
from masters_edge.serve.address import listen
from masters_edge.serve.connections import Patience

PORT = 8770  # always the same: a browser keeps what it has downloaded by origin
FAREWELL_S = 1.0  # for answers under way, when it ends


@contextmanager
def serving(
    name: str | None, wanted: Wanted, *, hosts: Sequence[str] = (), port: int | None = None
) -> Iterator[tuple[Desk, Link]]:
    """A running server, and the link to open; it ends with the block.

    `name`: what the page calls the device. `hosts`: names that requests may be addressed to, beyond this machine's own.
    `port`, else `wanted.port`, else `PORT`; 0 for any. `wanted.https` holds for the network alone: loopback is a secure
    context by itself.

    Raises:
        UserError: the port is taken, there is no network, or the page's files were never fetched.
    """
    if not assets.ready():
        raise UserError(assets.missing())
    asked = next(one for one in (port, wanted.port, PORT) if one is not None)
    with listen("0.0.0.0" if wanted.lan else "127.0.0.1", asked) as listener:
        where, port = listener.getsockname()[:2]
        found = addresses(where)
        if wanted.lan and found[0] in LOOPBACK:
            raise UserError(
                "this machine is in no network that a device could reach it by; join one, or leave --lan out"
            )
        scheme = "https" if wanted.lan and wanted.https else "http"
        known = names([*found, *LOOPBACK, *hosts, *(host_names() if wanted.lan else ())])
        pem, fingerprint = certificate(known) if scheme == "https" else (None, None)
        desk = Desk(wanted.on_note)
        desk.device_name = name
        config = uvicorn.Config(
            make_app(desk, scheme, known, port),
            http=_Patience,
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="error",
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=30,
            timeout_graceful_shutdown=10,
            ssl_certfile=pem,
            ssl_keyfile=pem,
        )
        link = Link(tuple(origin(scheme, one, port) for one in found), port, desk.token, fingerprint, wanted.lan)
        server = uvicorn.Server(config)
        thread = _started(server, listener)
        try:
            yield desk, link
        finally:
            desk.close()
            server.should_exit = True
            thread.join(FAREWELL_S)
            server.force_exit = True  # browsers keep connections open that nobody needs
            thread.join(10)


def _started(server: uvicorn.Server, listener: Any) -> threading.Thread:
    """The thread that the server runs in; back when it answers."""
    failed: list[BaseException] = []
    settled = threading.Event()

    async def run() -> None:
        task = asyncio.ensure_future(server.serve(sockets=[listener]))
        while not (server.started or task.done()):
            await asyncio.sleep(0.005)
        settled.set()
        await task

    def main() -> None:
        try:
            asyncio.run(run())
        except BaseException as error:  # said by the thread that waits
            failed.append(error)
        finally:
            settled.set()

    thread = threading.Thread(target=main, name="page server", daemon=True)
    thread.start()
    settled.wait()
    if failed:
        raise failed[0]
    return thread


class _Patience(Patience):
    MOST, OF_ONE_CLIENT = 128, 48
