"""Our own bundles, answered by the torch-free runtime exactly as on a device."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from masters_edge.benchmarks import machine
from masters_edge.benchmarks.peers import Facts
from masters_edge.common import inside
from masters_edge.common.errors import UserError
from masters_edge.runtime import backends

COLD_STARTS = 3
CHOOSES = True
PACKAGES = ("masters-edge", "numpy", "pillow", "tokenizers")


def fingerprint(path: str) -> str:
    """sha256 over the names and bytes of all the bundle's files."""
    folder = Path(path)
    if not folder.is_dir():
        raise UserError(f"there is no bundle {folder}; make one with: masters-edge export")
    digest = hashlib.sha256()
    for name in sorted(map(Path, inside.files(folder))):
        digest.update(name.as_posix().encode() + b"\0")
        with inside.regular(folder, folder / name).open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def packages(path: str, backend: str = "auto") -> tuple[str, ...]:
    """What answering the bundle with this backend needs; with `auto`, what one backend for its target needs."""
    return (*PACKAGES, *runtimes(path, backend)[:1])


def runtimes(path: str, backend: str = "auto") -> tuple[str, ...]:
    """The package of the backend; with `auto`, of every backend that runs the bundle's target."""
    from masters_edge.bundle import manifest as manifests

    if backend != "auto":
        return (backends.package(backend),)
    target = manifests.read(Path(path)).target
    return tuple(module.PACKAGE for module in backends.modules().values() if target in module.AVAILABLE_FOR)


def choose(path: str, threads: int) -> tuple[str, str]:
    """The backend that `auto` takes on this machine, and why in one line. Measures where that isn't known yet."""
    from masters_edge.runtime import fastest

    choice = fastest.of_bundle(Path(path), threads)
    return choice.backend, choice.reason


class BundleAnswerer:
    """A `masters_edge.runtime.Student`, one question at a time."""

    batch_size = 1

    def __init__(self, path: str, threads: int, backend: str) -> None:
        from masters_edge.runtime import Student

        self.folder = Path(path)
        self.student = Student.load(self.folder, backend=backend, threads=threads)
        self.context = self.student.context

    @property
    def facts(self) -> Facts:
        from masters_edge.bundle import manifest as manifests

        manifest = manifests.read(self.folder)  # its hashes were checked when the student was loaded
        return Facts(
            target=manifest.target,
            runtime=self.student.backend.name,
            scheme=manifest.scheme,
            size_bytes=sum(file.stat().st_size for file in self.folder.rglob("*") if file.is_file()),
            weights=manifest.student.fingerprint,
            versions=machine.versions(*PACKAGES, backends.package(self.student.backend.name)),
        )

    def answer(self, image: Image.Image, question: str, exactly: int | None = None) -> Any:
        return self.student.answer(image, question, exactly=exactly)

    def answer_many(self, images: Sequence[Image.Image], questions: Sequence[str]) -> list[str]:
        return [self.answer(image, question).text for image, question in zip(images, questions)]

    def prompt_size(self, image: Image.Image, question: str) -> tuple[int, int]:
        ids = self.student.ask(image, question).input_ids
        return len(ids), ids.count(self.student.family.image_token_id)


def open_subject(path: str, threads: int, backend: str = "auto") -> BundleAnswerer:
    return BundleAnswerer(path, threads, backend)
