import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from masters_edge.benchmarks import suites
from masters_edge.benchmarks.suites import Suite
from masters_edge.common.errors import UserError


def test_easy_vqa_is_the_official_test_split() -> None:
    pytest.importorskip("easy_vqa")
    suite = suites.load("easy-vqa")
    assert (suite.name, suite.metric, len(suite.questions)) == ("easy-vqa", "exact_match", 9673)
    assert len({q.answer for q in suite.questions}) == 13


def test_take_is_the_same_every_time_and_in_order(suite: Suite) -> None:
    taken = suite.take(7)
    assert taken == suite.take(7) and len(taken.questions) == 7
    assert [q.id for q in taken.questions] == [q.id for q in suite.questions if q in taken.questions]
    assert suite.take(None) is suite and suite.take(99) is suite
    assert suite.take(7).sha256 != suite.sha256
    with pytest.raises(UserError, match="at least 1"):
        suite.take(0)


def test_fingerprint_follows_everything_that_is_asked(suite: Suite, tmp_path: Path) -> None:
    first, *rest = suite.questions
    variants = [
        replace(suite, questions=(replace(first, answers=("red", "crimson")), *rest)),
        replace(suite, metric="anls"),
        replace(suite, questions=(replace(first, text="other"), *rest)),
        replace(suite, questions=(replace(first, answer="other"), *rest)),
        replace(suite, questions=(replace(first, image=b"other"), *rest)),
        replace(suite, questions=tuple(rest)),
        replace(suite, questions=(*rest, first)),
    ]
    image = tmp_path / "a.png"
    image.write_bytes(b"1")
    on_disk = replace(suite, questions=(replace(first, image=image), *rest))
    variants.append(on_disk)
    digests = {variant.sha256 for variant in variants} | {suite.sha256}
    assert len(digests) == len(variants) + 1
    image.write_bytes(b"12")
    assert replace(on_disk, name="colours").sha256 not in digests


def test_own_questions_are_checked(suite: Suite) -> None:
    questions = suite.questions
    with pytest.raises(UserError, match="1 of 20 questions have no answer .the first is q0"):
        suites.from_questions([questions[0].without_answer(), *questions[1:]], "exact_match")
    with pytest.raises(UserError, match="two questions share an id"):
        suites.from_questions([questions[0], questions[0]], "exact_match")
    with pytest.raises(UserError, match="no questions"):
        suites.from_questions([], "exact_match")
    with pytest.raises(UserError, match="did you mean 'anls'"):
        suites.from_questions(questions, "ansl")
    with pytest.raises(UserError, match="did you mean 'easy-vqa'"):
        suites.load("easy-vaq")


def jsonl(folder: Path, count: int = 3, **changes: Any) -> Path:
    from PIL import Image

    Image.new("RGB", (8, 8), "red").save(folder / "red.png")
    rows = [{"image": "red.png", "question": f"what? {n}", "answer": "red"} | changes for n in range(count)]
    path = folder / "own.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_own_files_are_suites(tmp_path: Path) -> None:
    path = jsonl(tmp_path)
    suite = suites.open_suite(str(path), metric="anls")
    assert (suite.name, suite.metric, len(suite.questions)) == ("own", "anls", 3)
    assert suites.open_suite("own.jsonl", base=tmp_path, name="mine").name == "mine"
    assert suites.open_suite("own.jsonl", base=tmp_path).metric == "exact_match"
    folder = tmp_path / "data" / "test"
    folder.mkdir(parents=True)
    jsonl(folder).rename(folder / "questions.jsonl")
    assert suites.open_suite(str(tmp_path / "data"), split="test").name == "data test"


def test_columns_of_own_files_can_be_named(tmp_path: Path) -> None:
    path = jsonl(tmp_path)
    path.write_text(json.dumps({"picture": "red.png", "query": "what?", "label": "red"}) + "\n")
    with pytest.raises(UserError, match="question"):
        suites.open_suite(str(path))
    suite = suites.open_suite(str(path), image_column="picture", question_column="query", answer_column="label")
    assert suite.questions[0].accepted == ("red",)


def test_parquet_and_saved_data_sets_are_suites(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    from PIL import Image

    rows = {"image": [Image.new("RGB", (8, 8), c) for c in ("red", "blue")], "question": ["a?", "b?"]}
    made = datasets.Dataset.from_dict(
        rows | {"answer": [["red", "crimson"], ["blue"]]},
        features=datasets.Features(
            image=datasets.Image(), question=datasets.Value("string"), answer=datasets.List(datasets.Value("string"))
        ),
    )
    made.to_parquet(tmp_path / "own.parquet")
    datasets.DatasetDict(test=made).save_to_disk(tmp_path / "saved")
    for source in ("own.parquet", "saved"):
        suite = suites.open_suite(source, metric="relaxed_accuracy", base=tmp_path)
        assert [q.accepted for q in suite.questions] == [("red", "crimson"), ("blue",)]
    with pytest.raises(UserError, match="no split 'train'.*: test"):
        suites.open_suite("saved", split="train", base=tmp_path)


def test_what_is_no_suite_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no suite 'easy-vaq', nor a file .*; did you mean 'easy-vqa'"):
        suites.open_suite("easy-vaq")
    with pytest.raises(UserError, match="no metric 'ansl'; did you mean 'anls'"):
        suites.open_suite("nothing-is-read.jsonl", metric="ansl")
    with pytest.raises(UserError, match="no suite 'gone.jsonl', nor a file or folder of that name; suites are: easy-"):
        suites.open_suite("gone.jsonl", base=tmp_path)
    with pytest.raises(UserError, match="no suite 'owm.json', nor .*; did you mean 'own.jsonl'"):
        suites.open_suite("owm.json", base=jsonl(tmp_path).parent)
    with pytest.raises(UserError, match="is built in"):
        suites.open_suite("easy-vqa", split="train")
    with pytest.raises(UserError, match="have no answer"):
        suites.open_suite(str(jsonl(tmp_path, answer=None)))


def test_json_lines_need_nothing_beyond_the_base_installation(tmp_path: Path) -> None:
    """What the extras bring can't be imported here."""
    path = jsonl(tmp_path)
    code = (
        "import sys\n"
        "for name in ('datasets', 'pyarrow', 'pandas', 'torch', 'transformers', 'easy_vqa'):\n"
        "    sys.modules[name] = None\n"
        "from masters_edge.benchmarks import suites\n"
        "from masters_edge.data import open_image\n"
        f"suite = suites.open_suite({str(path)!r}, metric='anls')\n"
        "print(len(suite.questions), open_image(suite.questions[0]).size)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout
    assert out.strip() == "3 (8, 8)"


def test_questions_may_have_a_metric_of_their_own(suite: Suite) -> None:
    first, second, *rest = suite.questions
    mixed = suites.from_questions(
        [replace(first, metric="anls"), replace(second, metric="exact_match"), *rest], "exact_match"
    )
    assert mixed.scored_by == "anls (1), exact_match (19)" and suite.scored_by == suite.metric
    assert (
        mixed.sha256
        != suites.from_questions([first, replace(second, metric="exact_match"), *rest], "exact_match").sha256
    )
    with pytest.raises(UserError, match="question q0 asks for a judge, but bench scores by rules alone"):
        suites.from_questions([replace(first, metric="judge"), second], "exact_match")
