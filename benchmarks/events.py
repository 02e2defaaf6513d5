"""What a measuring process says while it works: JSON lines, which `protocol.follow` reads."""

import json
from typing import IO, Any


class Events:
    """Writes events to the real stdout, which is theirs alone."""

    def __init__(self, stream: IO[str]) -> None:
        self.stream = stream

    def __call__(self, event: str, **fields: Any) -> None:
        self.stream.write(json.dumps({"event": event, **fields}) + "\n")
        self.stream.flush()

    def progress(self, phase: str, done: float, total: float, right: float | None = None) -> None:
        self("progress", phase=phase, done=done, total=total, right=right)
