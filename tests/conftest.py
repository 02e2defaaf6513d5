"""Shared by all tests: one tiny student and teacher of one family, and a recipe that distils them in seconds."""

import atexit
import os
import shutil
import tempfile
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"
if "MASTERS_EDGE_CACHE" not in os.environ:  # inherited by the tests' processes
    os.environ["MASTERS_EDGE_CACHE"] = tempfile.mkdtemp(prefix="masters-edge-tests-")
    atexit.register(shutil.rmtree, os.environ["MASTERS_EDGE_CACHE"], ignore_errors=True)

TINY_RECIPE = """\
student: ./student
teachers: [./teacher]
data:
  train: {source: easy-vqa, split: train}
  test: {source: easy-vqa, split: test}
  labels: 20
  held_out: 12
  limit: 60
responses: {max_new_tokens: 4, batch_size: 32, questions_per_shard: 8}
train:
  phases: [{objective: joint, steps: 10}]
  questions_per_step: 4
  learning_rate: 1.0e-3
  log_every: 1
  eval_every: 5
  save_every: 2
  threads: 1
"""


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `student` and `teacher`, tiny SmolVLM checkpoints with one tokenizer."""
    from tests import tiny

    folder = tmp_path_factory.mktemp("models")
    tiny.smolvlm(folder / "student", seed=1)
    tiny.smolvlm(folder / "teacher", seed=2)
    return folder


@pytest.fixture
def tiny_recipe(models: Path, tmp_path: Path) -> Path:
    """A recipe file beside links to the tiny checkpoints; runs go to `runs/` of the same folder."""
    for name in ("student", "teacher"):
        (tmp_path / name).symlink_to(models / name, target_is_directory=True)
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY_RECIPE)
    return path
