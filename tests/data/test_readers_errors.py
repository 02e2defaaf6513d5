"""Every mistake in users' data gives one sentence that names the file, the row, the key, and what to do."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from masters_edge.common.errors import UserError
from masters_edge.data import open_image, read, verify_images

from .conftest import png
from .test_readers import write_parquet

GOOD = {"image": "images/red.png", "question": "which colour?", "answer": "red"}


def jsonl(folder: Path, *rows, name: str = "q.jsonl") -> str:
    (folder / name).write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows), "utf-8")
    return name


def refused(source: str, base: Path, **options) -> str:
    with pytest.raises(UserError) as caught:
        read(source, base=base, **options)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 700
    return message


# In each: what is changed in the second row, and what the sentence must hold.
ROWS = [
    ({"question": None}, "q.jsonl, line 2: no question ('question' is empty); add it or leave the row out"),
    ({"question": 3}, "line 2: 'question' is 3 (int); expected the question as text"),
    ({"question": " "}, "line 2: 'question' is ' ' (str); expected the question as text"),
    ({"image": None}, "line 2: no image ('image' is empty); add it or leave the row out"),
    ({"image": ""}, "line 2, 'image': no image; expected a path, a data: URI or embedded bytes"),
    ({"image": {"bytes": None, "path": None}}, "line 2, 'image': no image; expected a path"),
    ({"image": 7}, "line 2, 'image': no image; expected a path"),
    ({"image": "images/rot.png"}, "line 2, 'image': there is no image file "),
    ({"image": "images"}, "line 2, 'image': there is no image file "),
    ({"image": "x" * 5000}, "line 2, 'image': there is no image file "),
    ({"image": "https://example.org/a.png"}, "line 2, 'image': the image is a web address (https://example.org/a.png)"),
    ({"image": ["a.png", "b.png"]}, "line 2, 'image': 2 images for one question; one is read"),
    ({"image": "data:image/png;base64,ab!?"}, "line 2: the image isn't valid base64"),
    (
        {"image": "data:image/svg+xml,<svg/>"},
        "line 2: expected 'data:image/png;base64,...', found 'data:image/svg+xml'",
    ),
    ({"answer": 2.5}, "line 2: 'answer' is 2.5 (float); expected text or a list of texts"),
    ({"answer": True}, "line 2: 'answer' is True (bool); expected text"),
    ({"answer": {"a": 1}}, "line 2: 'answer' is {'a': 1} (dict); expected text"),
    ({"answer": [1, "b"]}, "line 2: 'answer' is [1, 'b'] (list); expected text"),
    ({"id": 1.5}, "line 2: 'id' is 1.5 (float); expected text or a whole number"),
    ({"id": "same"}, "line 2: the id 'same' was used before "),
]


@pytest.mark.parametrize(("change", "expected"), ROWS)
def test_rows(pictures: Path, change: dict, expected: str):
    first = GOOD | ({"id": "same"} if "id" in change else {})
    assert expected in refused(jsonl(pictures, first, GOOD | change), pictures)


def test_invalid_lines(pictures: Path):
    assert "q.jsonl, line 3: not valid JSON (" in refused(jsonl(pictures, GOOD, "", '{"image": '), pictures)
    assert "q.jsonl, line 1: expected an object" in refused(jsonl(pictures, "[1]"), pictures)
    assert "line 1: the JSON is nested too deeply" in refused(jsonl(pictures, "[" * 200_000), pictures)
    (pictures / "q.jsonl").write_bytes(json.dumps(GOOD).encode() + b'\n{"question": "\xff"}\n')
    assert "q.jsonl, line 2: the text isn't UTF-8" in refused("q.jsonl", pictures)


def test_json_files(pictures: Path):
    def json_file(text: str) -> str:
        (pictures / "q.json").write_text(text)
        return refused("q.json", pictures)

    two = json.dumps(GOOD) + "\n" + json.dumps(GOOD)
    assert "q.json, line 2: expected one JSON list, found a second JSON value; " in json_file(two)
    assert "rename a file with one object a line to .jsonl" in json_file(two)
    assert "q.json: expected a list of objects with image and question, found dict" in json_file(json.dumps(GOOD))
    assert "q.json, item 1 (counting from 0): expected an object" in json_file(json.dumps([GOOD, 3]))
    assert "q.json, line 1: not valid JSON (" in json_file("[{]")


def test_csv_files(pictures: Path):
    def csv_file(text: str) -> str:
        (pictures / "q.csv").write_text(text)
        return refused("q.csv", pictures)

    assert "q.csv, line 3: 4 cells, but the header names 3 columns" in csv_file(
        "image,question,answer\nimages/red.png,a,b\nimages/red.png,what, exactly?,b\n"
    )
    assert "q.csv, line 1: the header names the column 'image' twice" in csv_file("image,image\n")
    assert "q.csv, line 2: no image ('image' is empty)" in csv_file("image,question\n,what?\n")


@pytest.mark.parametrize(
    ("name", "content"), [("q.jsonl", "\n"), ("q.json", "[]"), ("q.csv", "image,question\n"), ("q.csv", "")]
)
def test_empty_data_sets(tmp_path: Path, name: str, content: str):
    (tmp_path / name).write_text(content)
    assert f"{name} holds no questions; give a data set with at least one row" in refused(name, tmp_path)


def test_empty_parquet(tmp_path: Path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(
        pa.table({"image": pa.array([], pa.string()), "question": pa.array([], pa.string())}), tmp_path / "q.parquet"
    )
    assert "q.parquet holds no questions; " in refused("q.parquet", tmp_path)


def test_empty_saved_data_set(tmp_path: Path):
    import datasets

    datasets.Dataset.from_dict({"image": [], "question": []}).save_to_disk(tmp_path / "saved")
    assert "saved holds no questions, or one of its splits holds none; " in refused("saved", tmp_path)


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_missing_columns_name_the_nearest(pictures: Path, suffix: str):
    def source(row: dict) -> str:
        jsonl(pictures, row) if suffix == ".jsonl" else write_parquet(pictures / "q.parquet", [row])
        return f"q{suffix}"

    row = {"image": "images/red.png", "questions": "?", "label": "red"}
    message = refused(source(row), pictures)
    assert "there is no 'question' (did you mean 'questions'?), only: 'image', 'questions', 'label'; " in message
    assert "set `question_column` to the one that holds the question" in message
    row = {"img": "images/red.png", "question": "?"}
    message = refused(source(row), pictures)
    assert "there is no 'image' (did you mean 'img'?), only: 'img', 'question'; set `image_column`" in message
    row = {"image": "images/red.png", "question": "?", "label": "red"}
    message = refused(source(row), pictures, answer_column="lable")
    assert "has no column 'lable' (did you mean 'label'?); set `answer_column` to one of: label" in message
    row = {"image": "images/red.png", "question": "?", "answers": "red"}
    assert "has no column 'answer' (did you mean 'answers'?); set `answer_column`" in refused(source(row), pictures)


def test_missing_sources(pictures: Path):
    jsonl(pictures, GOOD)
    message = refused("p.jsonl", pictures)
    assert message.startswith("there is no data set ") and "p.jsonl (did you mean 'q.jsonl'?); mend `source`" in message
    assert "there is no folder" in refused("./no/where.jsonl", pictures)
    assert "there is no data set" in refused("a/b/c", pictures)
    (pictures / "q.txt").touch()
    assert "q.txt: the suffix '.txt' isn't read; expected one of: .jsonl, .json, .parquet, .csv" in refused(
        "q.txt", pictures
    )


def test_folders(pictures: Path):
    message = refused(".", pictures)
    assert "holds no questions; expected one of questions.jsonl, " in message and "save_to_disk" in message
    jsonl(pictures, GOOD, name="questions.jsonl")
    assert "holds questions.jsonl and no splits, but split 'test' is asked for; remove `split`" in refused(
        ".", pictures, split="test"
    )
    jsonl(pictures, GOOD, name="metadata.jsonl")
    assert "holds both questions.jsonl and metadata.jsonl; keep one" in refused(".", pictures)


def test_splits(pictures: Path):
    import datasets

    assert "easy-vqa needs a `split`; set it to one of: train, test" in refused("easy-vqa", pictures)
    assert "easy-VQA has no split 'dev'; use one of: train, test" in refused("easy-vqa", pictures, split="dev")
    name = jsonl(pictures, GOOD)
    assert "q.jsonl is one file without splits, but split 'train' is asked for; remove `split`" in refused(
        name, pictures, split="train"
    )
    for split in ("train", "dev"):
        (pictures / "parts" / split).mkdir(parents=True)
        jsonl(pictures / "parts" / split, GOOD, name="metadata.jsonl")
    assert "no `split` is given; set `split` to one of: dev, train" in refused("parts", pictures)
    assert "parts has no split 'test'; set `split` to one of: dev, train" in refused("parts", pictures, split="test")
    one = datasets.Dataset.from_list([GOOD])
    one.save_to_disk(pictures / "saved")
    datasets.DatasetDict({"train": one, "test": one}).save_to_disk(pictures / "both")
    assert "saved is one data set without splits, but split 'x'" in refused("saved", pictures, split="x")
    assert "several splits and no `split` is given; set `split` to one of: train, test" in refused("both", pictures)
    assert "both has no split 'dev'; set `split` to one of: train, test" in refused("both", pictures, split="dev")


def test_damaged_parquet(tmp_path: Path):
    (tmp_path / "q.parquet").write_bytes(b"PAR1 but no more")
    message = refused("q.parquet", tmp_path)
    assert message.startswith("the data set ") and "q.parquet can't be loaded: Parquet magic bytes not found" in message
    write_parquet(tmp_path / "r.parquet", [{"image": {"bytes": png("red"), "path": None}, "question": "?"}] * 500)
    whole = (tmp_path / "r.parquet").read_bytes()
    (tmp_path / "r.parquet").write_bytes(whole[:20] + b"\0" * 80 + whole[100:])
    assert "r.parquet can't be loaded: " in refused("r.parquet", tmp_path)


def test_hub_out_of_reach(tmp_path: Path):
    """The real library, told to be offline."""
    code = (
        "import sys; from pathlib import Path\n"
        "from masters_edge.data import read\nfrom masters_edge.common.errors import UserError\n"
        "try: read('nobody/nothing', split='train', base=Path(sys.argv[1]))\n"
        "except UserError as error: print(error)"
    )
    environment = {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(tmp_path),
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("the hub can't be reached for the data set 'nobody/nothing' (and there is no file")
    assert done.stdout.endswith("connect, or give a local file or folder as `source`\n")
    assert done.stdout.count("\n") == 1


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        ("DatasetNotFoundError", "there is no data set 'no/such' on the hub, or it is private"),
        ("ConnectionError", "the hub can't be reached for the data set 'no/such'"),
        ("ValueError", "the data set no/such can't be loaded: first line"),
        ("RuntimeError", "the data set no/such can't be loaded: first line"),
    ],
)
def test_what_the_hub_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: str, expected: str):
    import builtins

    import datasets

    kind = getattr(builtins, error, None) or getattr(datasets.exceptions, error)

    def load_dataset(*args, **options):
        raise kind("first line\nsecond line")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert expected in refused("no/such", tmp_path)


def test_without_the_datasets_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from masters_edge.data import sources

    monkeypatch.setattr(sources.importlib.util, "find_spec", lambda name: None)
    (tmp_path / "q.parquet").touch()
    assert "q.parquet needs the datasets library; run: pip install 'masters-edge[distill]'" in refused(
        "q.parquet", tmp_path
    )


def test_data_changed_after_reading(tmp_path: Path):
    import base64

    def row(colour: str, size: int) -> dict:
        return {"image": base64.b64encode(png(colour, size)).decode(), "question": "?"}

    questions = read(jsonl(tmp_path, row("red", 8), row("red", 8)), base=tmp_path)
    jsonl(tmp_path, row("red", 8), row("green", 80))
    with pytest.raises(UserError, match=r"line 2: the image is no longer the one read before"):
        open_image(questions[1])


def test_verify_images_names_five_and_counts_the_rest(pictures: Path):
    for number in range(7):
        (pictures / f"{number}.png").write_bytes(png("red")[: 20 + number])
    rows = [GOOD, GOOD, *({"image": f"{number}.png", "question": "?"} for number in range(7) for _ in range(3))]
    questions = read(jsonl(pictures, *rows), base=pictures)
    seen: list[tuple[int, int]] = []
    with pytest.raises(UserError) as caught:
        verify_images(questions, lambda done, total: seen.append((done, total)))
    assert seen == [(n, 8) for n in range(1, 9)]  # each distinct image once
    message = str(caught.value)
    assert message.startswith("7 of 8 images can't be used: question q/2: the image in ")
    assert "4.png" in message and "5.png" not in message and "; and 2 more; replace them with whole" in message


def test_a_metric_that_is_none(pictures: Path) -> None:
    def said(metric: object, **options: str) -> str:
        return refused(jsonl(pictures, GOOD | {"rule": "anls"}, GOOD | {"rule": metric}), pictures, **options)

    assert "q.jsonl, line 2: 'rule' is 'anl', which is no metric (did you mean 'anls'?)" in said(
        "anl", metric_column="rule"
    )
    assert "line 2: 'rule' is 'zzz', which is no metric; use one of: anls, " in said("zzz", metric_column="rule")
    assert "judge" in said("zzz", metric_column="rule")
    assert "line 2: 'rule' is 3 (int); expected the name of a metric: anls" in said(3, metric_column="rule")
    assert "has no column 'rul' (did you mean 'rule'?); set `metric_column`" in said("anls", metric_column="rul")
    assert "easy-vqa has no column 'rule'" in refused("easy-vqa", pictures, split="test", metric_column="rule")
