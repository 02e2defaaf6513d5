"""One server for a module's tests, the student it serves, and OpenAI's own client."""

from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from masters_edge.runtime import Student
from tests.export import bundles
from tests.serve.server import Server, serving


@pytest.fixture(scope="package")
def bundle() -> Path:
    return bundles.exported("smolvlm", "fp32", splitting=True)


@pytest.fixture(scope="package")
def student(bundle: Path) -> Student:
    return Student.load(bundle, backend="onnxruntime", threads=1)


@pytest.fixture(scope="package")
def server(bundle: Path) -> Iterator[Server]:
    with serving(bundle) as started:
        yield started


@pytest.fixture(scope="package")
def client(server: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=60) as made:
        yield made
