"""What the page is handed of one job: the questions without their labels, the pictures, the bundle's files.

All of it is looked up in tables made here from the job folder and the bundle's manifest; nothing that a request says
becomes a path.
"""

import io
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from masters_edge.benchmarks import job as jobs
from masters_edge.benchmarks.page import messages
from masters_edge.bundle import manifest as manifests
from masters_edge.common import inside
from masters_edge.data.records import Question, open_image

COMPARED = 50  # of the first questions' answers are compared with those of Python's runtime
# What browsers show, by Pillow's names; whatever else is sent as PNG.
_SHOWN = {"PNG": "image/png", "JPEG": "image/jpeg", "MPO": "image/jpeg", "WEBP": "image/webp", "GIF": "image/gif"}


class Handout:
    """One job as the page sees it. Raises UserError where the bundle's folder is not what its manifest says."""

    def __init__(self, folder: Path, bundle: Path, name: str, sha256: str) -> None:
        self.id = secrets.token_hex(8)
        self.folder, self.bundle, self.name, self.sha256 = folder, bundle, name, sha256
        self.asked: dict[str, Any] = jobs.read_json(folder / jobs.JOB)
        self.manifest = manifests.read(bundle)
        self.questions = list(_questions(folder))
        self.scored = self.asked["metric"] is not None
        self.compared = min(COMPARED, len(self.questions)) if self.scored else 0
        self._files = _files(bundle, self.manifest)
        images = [_path(question) for question in self.questions]
        images += [folder / case["image"] for case in self.asked["cases"]]
        self._images = {path: number for number, path in enumerate(dict.fromkeys(images))}
        self._by_number = list(self._images)

    def job(self, done: messages.Done) -> messages.Job:
        asked = self.asked
        listed = tuple(
            messages.BundleFile(path=file.path, bytes=file.bytes, sha256=file.sha256) for file in self.manifest.files
        )
        bundle = messages.Bundle(
            sha256=self.sha256, url=f"/bundle/{self.sha256}/", bytes=self.manifest.bytes, files=listed
        )
        return messages.Job(
            id=self.id,
            name=self.name,
            bundle=bundle,
            threads=asked["threads"],
            backend=asked["backend"],
            choose=asked["choose"],
            scored=self.scored,
            exactly=asked["exactly"],
            warm_up=asked["warm_up"],
            latency_count=asked["latency_count"],
            cold_starts=asked["cold_starts"],
            cases=tuple(
                messages.CaseToMeasure(**case | {"image": self._url(self.folder / case["image"])})
                for case in asked["cases"]
            ),
            sustain_s=asked["sustain_s"],
            questions=len(self.questions),
            compared=self.compared,
            done=done,
        )

    def asked_from(self, start: int, count: int) -> list[dict[str, str]]:
        """So many questions, without their labels."""
        return [
            {"text": question.text, "image": self._url(_path(question))}
            for question in self.questions[start : start + count]
        ]

    def file(self, path: str) -> Path | None:
        """A file that the manifest names, where it is still what it was; None for anything else."""
        known = self._files.get(path)
        if known is None or not known.is_file() or known.resolve() != known:
            return None
        return known

    def picture(self, number: int) -> tuple[bytes, str] | None:
        """The bytes as they lie there, or as PNG where no browser reads them, and their media type."""
        if not 0 <= number < len(self._by_number):
            return None
        path = self._by_number[number]
        content = path.read_bytes()
        try:
            with Image.open(io.BytesIO(content)) as image:
                kind = _SHOWN.get(image.format or "")
        except (OSError, ValueError, Image.DecompressionBombError):
            kind = None
        if kind is not None:
            return content, kind
        out = io.BytesIO()
        open_image(Question(path.name, "", path, path.name)).save(out, "PNG")
        return out.getvalue(), "image/png"

    def _url(self, path: Path) -> str:
        return f"/images/{self.id}/{self._images[path]}"


def _files(folder: Path, manifest: manifests.Manifest) -> dict[str, Path]:
    """The manifest's files by name; a name or a link that leads out of the folder is no file of a bundle."""
    return {file.path: inside.place(folder, file.path) for file in manifest.files}


def _questions(folder: Path) -> Iterator[Question]:
    for row in jobs.read_rows(folder / jobs.QUESTIONS):
        image, answers = folder / row["image"], tuple(row["answers"])
        yield Question(row["id"], row["text"], image, row["image_id"], answers=answers, metric=row.get("metric"))


def _path(question: Question) -> Path:
    assert isinstance(question.image, Path)
    return question.image
