"""One runtime tried for a moment, in a process of its own: `python -m masters_edge.runtime.trial JOB`.

In: a bundle, a backend and the number of threads, as JSON. Out: a line of JSON with the median whole answer in
milliseconds, or with the sentence why there is none. What the runtime dies of stays in this process.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from masters_edge.common.errors import UserError
from masters_edge.runtime.backends._protocols import TOKENS
from masters_edge.runtime.student import Student

SIDES = (448, 224, 112, 56, 28)  # pixels of the made-up picture: the first one that leaves room for an answer
QUESTION = "what is in this image?"
MOST_ANSWERS = 20


def measure(
    folder: str, graphs: dict[str, str], target: str, backend: str, threads: int, exact: bool, budget_s: float
) -> dict[str, float]:
    """In this process: load, warm up, answer for `budget_s`, once in any case; the median whole answer in
    milliseconds."""
    student = Student(Path(folder), graphs, target, backend, threads, exact)
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (28, 28, 3), np.uint8))
    for side in SIDES:
        picture = noise.resize((side, side), Image.Resampling.BICUBIC)
        room = student.context - len(student.ask(picture, QUESTION).input_ids)
        if room >= TOKENS:
            break
    count = max(1, min(TOKENS, room))
    student.answer(picture, QUESTION, exactly=count)
    times: list[float] = []
    until = time.perf_counter() + budget_s
    while not times or (time.perf_counter() < until and len(times) < MOST_ANSWERS):
        times.append(student.answer(picture, QUESTION, exactly=count).total_ms)
    getattr(student.backend, "close", lambda: None)()
    return {"ms": sorted(times)[len(times) // 2], "answers": len(times)}


def main() -> None:
    try:
        found: dict[str, Any] = dict(measure(**json.loads(sys.argv[1])))
    except UserError as error:
        found = {"error": str(error)}
    print(json.dumps(found), flush=True)
    os._exit(0)  # some runtimes take long to clean up, and nothing of theirs is needed any more


if __name__ == "__main__":
    main()
