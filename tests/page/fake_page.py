"""A page without a browser: it speaks the page's side over real HTTP, and Python's runtime gives its answers.

`Host` is the other end: `bench(device="browser")` in a thread, with its link, notes, steps and outcome to look at.
"""

import functools
import io
import json
import re
import threading
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2 as httpx
from PIL import Image

from masters_edge.benchmarks import Settings, Subject, bench
from masters_edge.benchmarks.page import assets
from masters_edge.benchmarks.results import STAGES, Measurement
from masters_edge.benchmarks.suites import Suite, from_questions
from masters_edge.data.records import Question
from masters_edge.runtime import Student
from tests import tiny
from tests.export import bundles

FACTS: dict[str, Any] = {
    "user_agent": "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/150.0.0.0",
    "brands": [{"brand": "Chromium", "version": "150"}, {"brand": "Not)A;Brand", "version": "8"}],
    "platform": "Linux",
    "platform_version": "6.1.0",
    "architecture": "x86",
    "model": "",
    "mobile": False,
    "cores": 4,
    "memory_gib": 8,
    "webgpu": None,
    "secure_context": True,
    "isolated": True,
    "screen": "360x640 at 2",
}
VERSIONS = assets.versions()


class Vanished(Exception):
    """The page is closed here."""


class FakePage:
    """`vanish(kind, index)` is asked before each upload of raw rows; where it says True the page is closed there."""

    def __init__(self, url: str, student: Student | None = None, verify: Any = True, **facts: Any) -> None:
        self.origin, _, self.token = url.partition("/#t=")
        self.student, self.facts = student, FACTS | facts
        self.http = httpx.Client(base_url=self.origin, verify=verify, timeout=20, trust_env=False)
        self.vanish: Callable[[str, int], bool] = lambda kind, index: False
        self.said: dict[str, Any] = {}  # what /api/raw answered last
        self.hidden_s = 0.0

    def __enter__(self) -> "FakePage":
        return self

    def __exit__(self, *_: object) -> None:
        self.http.close()

    def post(self, path: str, body: Any, **headers: str) -> httpx.Response:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.http.post(path, content=content, headers={"Content-Type": "application/json"} | headers)

    def claim(self, token: str | None = "") -> httpx.Response:
        """With the link's token unless another is given; None for none."""
        return self.post("/api/claim", {"token": self.token if token == "" else token, "facts": self.facts})

    def state(self, after: int = -1) -> dict[str, Any]:
        return self.get(f"/api/state?after={after}").json()

    def get(self, path: str) -> httpx.Response:
        response = self.http.get(path)
        assert response.status_code == 200, response.text
        return response

    def job(self) -> dict[str, Any]:
        """The next job, as soon as there is one."""
        return self.until(lambda state: "job" in state)["job"]

    def until(self, true: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        state, deadline = self.state(), time.monotonic() + 20
        while not true(state):
            assert time.monotonic() < deadline, state
            state = self.state(state["n"])
        return state

    def raw(self, job: str, kind: str, index: int, value: Any) -> httpx.Response:
        if self.vanish(kind, index):
            raise Vanished
        response = self.post("/api/raw", {"job": job, "kind": kind, "index": index, "value": value})
        if response.status_code == 200:
            self.said = response.json()
        return response

    def send(self, job: dict[str, Any], kind: str, index: int, value: Any) -> None:
        response = self.raw(job["id"], kind, index, value)
        assert response.status_code == 200, response.text

    def download(self, job: dict[str, Any], folder: Path) -> None:
        """The bundle's files, the first of them in two ranges, as a page does that goes on with half a file."""
        for number, file in enumerate(job["bundle"]["files"]):
            url = job["bundle"]["url"] + file["path"]
            if number:
                content = self.get(url).content
            else:
                half = file["bytes"] // 2
                parts = [
                    self.http.get(url, headers={"Range": f"bytes={span}"}) for span in (f"0-{half - 1}", f"{half}-")
                ]
                assert [part.status_code for part in parts] == [206, 206]
                content = b"".join(part.content for part in parts)
            assert len(content) == file["bytes"]
            path = folder / file["path"]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)

    def answers(self, job: dict[str, Any], start: int, count: int) -> list[dict[str, str]]:
        """The student's answers to these questions, with hashes of what is compared."""
        assert self.student is not None
        asked = self.get(f"/api/questions?job={job['id']}&from={start}&count={count}").json()["questions"]
        rows = []
        for number, question in enumerate(asked, start=start):
            assert set(question) == {"text", "image"}
            image = Image.open(io.BytesIO(self.get(question["image"]).content)).convert("RGB")
            row = {"text": self.student.answer(image, question["text"], exactly=job["exactly"]).text}
            if number < job["compared"]:
                inputs = self.student.ask(image, question["text"]).seen.inputs["pixel_values"]
                row["pixels_hash"] = f"{zlib.crc32(image.tobytes()):08x}"
                row["inputs_hash"] = f"{zlib.crc32(inputs.tobytes()):08x}"
            rows.append(row)
        return rows

    def measure(self, job: dict[str, Any]) -> None:
        """The whole job, from where it is."""
        done, latency_count = job["done"], job["latency_count"]
        self.progress(job, "download", job["bundle"]["bytes"], job["bundle"]["bytes"])
        if job["choose"] and done["choice"] is None:
            self.send(job, "choice", 0, {"backend": "wasm", "reason": "this browser has no WebGPU: WASM is left"})
        for k in range(done["cold"], job["cold_starts"]):
            self.send(job, "cold", k, {"cold_start_ms": 100.0 + k})
        if not done["facts"]:
            self.send(job, "facts", 0, {"backend": "wasm", "threads": job["threads"], "versions": VERSIONS})
        if not done["latency"]:
            sample = self.answers(job, 0, latency_count) if job["scored"] else []
            value = {"stages": stages(latency_count), "page_memory_mib": 80.5, "hidden_s": self.hidden_s}
            self.send(job, "latency", 0, value)
            if sample:
                self.send(job, "answers", 0, sample)
        for k in range(done["cases"], len(job["cases"])):
            self.send(job, "case", k, self.case(job["cases"][k], skipped=k == 1))
        if job["sustain_s"] and not done["sustained"]:
            rows = [{"at_s": 5.0, "answers": 10, "total_ms": 10.0}, {"at_s": 10.5, "answers": 9, "total_ms": 12.5}]
            self.send(job, "sustained", 0, rows)
        self.progress(job, "accuracy", done["answers"], job["questions"])
        if job["scored"]:
            at = self.said["asked"] if self.said else done["answers"]
            while at < job["questions"]:
                rows = self.answers(job, at, 4)
                self.send(job, "answers", at, rows)
                at += len(rows)
        self.send(job, "done", 0, {"hidden_s": self.hidden_s})

    def case(self, case: dict[str, Any], skipped: bool) -> dict[str, Any]:
        assert Image.open(io.BytesIO(self.get(case["image"]).content)).size == (
            case["image_width"],
            case["image_height"],
        )
        row = {"name": case["name"], "prompt_tokens": 30, "image_tokens": 16, "stages": stages(2), "skipped": None}
        return row | ({"stages": None, "skipped": "the student has room for 20 tokens"} if skipped else {})

    def progress(self, job: dict[str, Any], phase: str, done: float, total: float) -> httpx.Response:
        body = {"job": job["id"], "phase": phase, "done": done, "total": total, "hidden_s": self.hidden_s}
        return self.post("/api/progress", body)


def stages(count: int) -> dict[str, list[float]]:
    """Made-up times: 1, 2, 3 ... of every stage."""
    return {name: [float(k + 1) for k in range(count)] for name in STAGES}


class Host:
    """The measuring end, in a thread; `result` is its results or what it raised."""

    def __init__(self, bundle: Path, suite: Suite | None, out: Path, device: str = "browser", **settings: Any) -> None:
        self.notes: list[str] = []
        self.steps: list[Any] = []
        self.result: Any = None
        wanted = Settings(**{"latency_questions": 3, "cases": False, "port": 0} | settings)
        subjects = [Subject("tiny", "exported", bundle)]

        def run() -> None:
            try:
                self.result = bench(
                    subjects,
                    suite,
                    wanted,
                    device=device,
                    out=out,
                    on_note=self.notes.append,
                    on_progress=self.steps.append,
                )
            except BaseException as error:
                self.result = error

        self.thread = threading.Thread(target=run, daemon=True)
        self.thread.start()

    @property
    def url(self) -> str:
        """The link, as soon as it is printed."""
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline and self.result is None:
            for note in list(self.notes):
                if found := re.search(r"https?://\S+/#t=\S+", note):
                    return found[0]
            time.sleep(0.01)
        raise AssertionError(f"no link: {self.notes}, {self.result!r}")

    def ended(self) -> Any:
        self.thread.join(30)
        assert not self.thread.is_alive()
        return self.result

    def measurement(self) -> Measurement:
        result = self.ended()
        if isinstance(result, BaseException):
            raise result
        return result.measurements[-1]


@functools.lru_cache
def student() -> Student:
    return Student.load(bundle(), backend="onnxruntime", threads=1)


def bundle() -> Path:
    """The tiny student that `serve` is tested with too."""
    return bundles.exported("smolvlm", "fp32", splitting=True)


@functools.lru_cache
def suite() -> Suite:
    """Ten questions about three pictures; every other label is what the student says."""
    questions = []
    for k in range(10):
        picture, file, text = tiny.picture(40 + k % 3, 30, seed=k % 3), io.BytesIO(), f"what is in image {k}?"
        picture.save(file, "PNG")
        label = student().answer(picture, text).text if k % 2 else "no such thing"
        questions.append(Question(f"q{k}", text, file.getvalue(), f"image-{k % 3}", label))
    return from_questions(questions, "exact_match", name="tiny questions")
