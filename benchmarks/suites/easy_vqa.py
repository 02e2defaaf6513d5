"""easy-VQA's official test questions, 9,673 of them, scored by exact match (13 possible answers)."""

from masters_edge.benchmarks.suites import Suite, from_questions
from masters_edge.data import easy_vqa


def load() -> Suite:
    return from_questions(easy_vqa.read("test"), metric="exact_match", name="easy-vqa")
