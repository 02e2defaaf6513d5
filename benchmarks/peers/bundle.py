"""Our own bundles, answered by the torch-free runtime exactly as on a device."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from masters_edge.benchmarks import machine
from masters_edge.benchmarks.peers import Facts
from masters_edge.errors import UserError
from masters_edge.runtime import backends

COLD_STARTS = 3
PACKAGES = ("masters-edge", "numpy", "pillow", "tokenizers")


def fingerprint(path: str) -> str:
    """sha256 over the names and bytes of all the bundle's files."""
    folder = Path(path)
    if not folder.is_dir():
        raise UserError(f"there is no bundle {folder}; make one with: masters-edge export")
    digest = hashlib.sha256()
    for file in sorted(file for file in folder.rglob("*") if file.is_file()):
        digest.update(file.relative_to(folder).as_posix().encode() + b"\0")
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


class BundleAnswerer:
    """A `masters_edge.runtime.Student`, one question at a time."""

    batch_size = 1

    def __init__(self, path: str, threads: int) -> None:
        from masters_edge.runtime import Student

        self.folder = Path(path)
        self.student = Student.load(self.folder, threads=threads)

    @property
    def facts(self) -> Facts:
        from masters_edge import bundle

        manifest = bundle.read(self.folder)  # its hashes were checked when the student was loaded
        return Facts(
            target=manifest.target,
            runtime=self.student.backend.name,
            scheme=manifest.scheme,
            size_bytes=sum(file.stat().st_size for file in self.folder.rglob("*") if file.is_file()),
            versions=machine.versions(*PACKAGES, backends.package(self.student.backend.name)),
        )

    def answer(self, image: Image.Image, question: str) -> Any:
        return self.student.answer(image, question)

    def answer_many(self, images: Sequence[Image.Image], questions: Sequence[str]) -> list[str]:
        return [self.answer(image, question).text for image, question in zip(images, questions)]


def open_subject(path: str, threads: int) -> BundleAnswerer:
    return BundleAnswerer(path, threads)
