"""A real `masters-edge serve` process on a free loopback port, and requests to it."""

import base64
import io
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from tests.hostile.command_line import Said

QUESTION = "what is in this image?"


@dataclass
class Server:
    """Where it listens, its process, and, once it has ended, what it said since it listened."""

    url: str
    model: str
    process: subprocess.Popen
    said: str | None = None

    def stop(self, sent: int = signal.SIGINT) -> tuple[int, str]:
        """End it by a signal; its exit status, and what it wrote since it listened."""
        self.process.send_signal(sent)
        self.said, _ = self.process.communicate(timeout=30)
        return self.process.returncode, self.said


@contextmanager
def serving(bundle: Path, *options: str, environment: dict[str, str] | None = None) -> Iterator[Server]:
    """Started, and killed at the end where it still runs. Whatever it was asked, it has said no traceback."""
    command = [sys.executable, "-m", "masters_edge", "serve", str(bundle), "--port", "0", "--threads", "1"]
    command += ["--backend", "onnxruntime", *options]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, bufsize=1, env=environment
    )
    watchdog = threading.Timer(120, process.kill)
    watchdog.start()
    try:
        said = []
        assert process.stdout
        for line in process.stdout:
            said.append(line)
            if line.startswith("Ctrl-C"):
                break
        else:
            raise AssertionError("".join(said))
        watchdog.cancel()
        url = re.search(r"http://\S+?:\d+", "".join(said))
        assert url
        server = Server(url[0], bundle.name, process)
        yield server
        if server.said is None:
            server.stop(signal.SIGKILL)
        Said(0, server.said or "", "").clean()
    finally:
        watchdog.cancel()
        process.kill()
        process.wait()


def png(image: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


def data_url(data: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def messages(image: Image.Image | bytes, question: str = QUESTION) -> list[Any]:
    """One user message with a picture and a question."""
    data = image if isinstance(image, bytes) else png(image)
    parts = [{"type": "image_url", "image_url": {"url": data_url(data)}}, {"type": "text", "text": question}]
    return [{"role": "user", "content": parts}]
