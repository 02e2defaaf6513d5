"""How far a browser's answers are those of the Python runtime on this machine, for the same bundle and pictures.

Out: `results.SameAsPython` as raw/python.json. Equal pixels and inputs are told by CRC-32: of the decoded RGB, and of
the preprocessed pixel values (float32, little endian).
"""

import time
import zlib
from collections.abc import Callable

from masters_edge.benchmarks import job as jobs
from masters_edge.benchmarks.page.handout import Handout
from masters_edge.benchmarks.page.record import HASHES
from masters_edge.data.records import open_image
from masters_edge.runtime import Student

LIMIT_S = 60.0


def same_as_python(handout: Handout, on_progress: Callable[[int, int], None]) -> None:
    """Answer the first questions here and write what is equal; at most for `LIMIT_S`. Raises UserError where the bundle
    can't be run here."""
    raw = handout.folder / jobs.RAW
    said = jobs.read_rows(raw / jobs.ANSWERS)[: handout.compared]
    if not said or (raw / jobs.PYTHON).exists():
        return
    hashes = {row["index"]: row for row in jobs.read_rows(raw / HASHES)}
    student = Student.load(handout.bundle, backend="onnxruntime")
    found = {"equal": 0, "asked": 0, "pictures_equal": 0, "inputs_equal": 0}
    until = time.monotonic() + LIMIT_S
    for number, (row, question) in enumerate(zip(said, handout.questions)):
        if number and time.monotonic() > until:
            break
        image = open_image(question)
        inputs = student.ask(image, question.text).seen.inputs["pixel_values"]
        told = hashes.get(number, {})
        found["asked"] += 1
        found["equal"] += student.answer(image, question.text).text == row["text"]
        found["pictures_equal"] += told.get("pixels_hash") == crc32(image.tobytes())
        found["inputs_equal"] += told.get("inputs_hash") == crc32(inputs.astype("<f4").tobytes())
        on_progress(number + 1, len(said))
    jobs.write_json(raw / jobs.PYTHON, found)


def crc32(data: bytes) -> str:
    """As the page writes it: eight hex digits."""
    return f"{zlib.crc32(data):08x}"
