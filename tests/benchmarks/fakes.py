"""A stand-in for a student: it looks at a picture's first pixel and says its colour. Its folder says how it behaves."""

import json
import os
import signal
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from masters_edge.benchmarks import meters, phases
from masters_edge.benchmarks.peers import Facts
from masters_edge.common.errors import UserError

COLD_STARTS = 2
CHOOSES = True
COLOURS = {"red": (255, 0, 0), "green": (0, 128, 0), "blue": (0, 0, 255), "yellow": (255, 255, 0)}


def make(folder: Path, **behaviour: Any) -> Path:
    """A subject's folder; `behaviour` is read by `Fake`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "behaviour.json").write_text(json.dumps(behaviour), encoding="utf-8")
    return folder


def fingerprint(path: str) -> str:
    from masters_edge.benchmarks.peers import bundle

    return bundle.fingerprint(path)


def packages(path: str, backend: str) -> tuple[str, ...]:
    return ("numpy",)


def runtimes(path: str, backend: str) -> tuple[str, ...]:
    return ("numpy",) if backend == "auto" else ()


def choose(path: str, threads: int) -> tuple[str, str]:
    with (Path(path) / "chosen.txt").open("a") as log:
        log.write("chosen\n")
    time.sleep(json.loads((Path(path) / "behaviour.json").read_text(encoding="utf-8")).get("choose_s", 0))
    return "fake", "fake, the fastest here"


class Fake:
    def __init__(self, path: str, threads: int, backend: str) -> None:
        self.behaviour = json.loads((Path(path) / "behaviour.json").read_text(encoding="utf-8"))
        time.sleep(self.behaviour.get("load_s", 0))
        self.context = self.behaviour.get("context", 1000)
        if "stretch_s" in self.behaviour:
            phases.STRETCH_S = self.behaviour["stretch_s"]
        if "root" in self.behaviour:  # of a made-up file system with meters in it
            root = Path(self.behaviour["root"])
            watch, sensors = meters.Watch, meters.Sensors
            meters.Watch = lambda: watch(root, "linux")  # type: ignore
            meters.Sensors = lambda *_: sensors(root, "linux")  # type: ignore
            found = meters.find

            def quick(*where: Any) -> Any:
                meter, reason = found(*where)
                meter.seconds = self.behaviour["meter_s"]
                return meter, reason

            meters.find = quick
        self.batch_size = self.behaviour.get("batch_size", 1)
        versions = {"numpy": "0.0"} if "old_numpy" in path else {}
        assert backend != "auto"
        self.facts = Facts("onnx", backend, "int4", 5678, 1234, self.behaviour.get("weights"), versions)
        self.asked = 0
        self.log = Path(path) / "asked.txt"

    def prompt_size(self, image: Any, question: str) -> tuple[int, int]:
        if image.width > self.behaviour.get("widest", 1 << 30):
            raise UserError(f"this bundle reads at most {self.behaviour['widest']} pixels")
        return len(question.split()) + 64, 64

    def answer(self, image: Any, question: str, exactly: int | None = None) -> Any:
        self.asked += 1
        with self.log.open("a") as log:
            log.write(question + (f" exactly {exactly}" if exactly is not None else "") + "\n")
        time.sleep(self.behaviour.get("pause_s", 0))
        if self.asked >= self.behaviour.get("die_after", 1 << 30):
            self.die()
        if "print" in self.behaviour:
            print(self.behaviour["print"], flush=True)
            os.write(1, b'{"event": "error", "message": "not mine"}\n')
        return SimpleNamespace(
            text=self.look(image),
            preprocess_ms=1.0,
            vision_ms=None,
            prefill_ms=3.0,
            ttft_ms=4.0,
            decode_tokens_per_s=None if self.asked % 2 else 50.0,
            total_ms=float(self.asked),
        )

    def answer_many(self, images: Any, questions: Any) -> list[str]:
        ballast = b"x" * (self.behaviour.get("batch_mib", 0) << 20)
        with self.log.open("a") as log:
            log.write(f"batch of {len(questions)}\n")
        assert len(images) == len(questions) <= self.batch_size and ballast is not None
        return [self.look(image) for image in images]

    def look(self, image: Any) -> str:
        pixel = image.getpixel((0, 0))
        name = next((name for name, colour in COLOURS.items() if colour == pixel), "none")
        return self.behaviour.get("says", f"{name.upper()}.")

    def die(self) -> None:
        how = self.behaviour.get("how", "raise")
        if how == "user error":
            raise UserError("the bundle has a changed byte in decoder.onnx; copy it again")
        if how == "signal":
            os.kill(os.getpid(), signal.SIGKILL)
        if how == "sleep":
            time.sleep(600)
        raise RuntimeError("out of ideas")


def open_subject(path: str, threads: int, backend: str = "auto") -> Fake:
    return Fake(path, threads, backend)
