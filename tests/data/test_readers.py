"""Round trips: every kind of source, written as users write it, gives the same three questions."""

import base64
import csv
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from masters_edge.data import Question, easy_vqa, open_image, read, verify_images
from masters_edge.data.images import StoredImage
from tests import wide

from .conftest import png

ROWS = [("red", "which colour?", "red"), ("red", "is it round?", None), ("green", "which colour?", "green")]


def check(questions: list[Question], first_id: str | None = None) -> None:
    assert [(q.text, q.answer) for q in questions] == [(text, answer) for _, text, answer in ROWS]
    same = [q.image_id for q in questions]
    assert same[0] == same[1] != same[2]
    expected = {"red": (255, 0, 0), "green": (0, 128, 0)}
    assert [open_image(q).getpixel((0, 0)) for q in questions] == [expected[colour] for colour, _, _ in ROWS]
    assert len({q.id for q in questions}) == 3
    if first_id is not None:
        assert questions[0].id == first_id
    copies = pickle.loads(pickle.dumps(questions))  # DataLoader workers and engines get them this way
    assert copies == questions and open_image(copies[2]).getpixel((0, 0)) == expected["green"]
    verify_images(questions)


def plain(image, /, **names) -> list[dict]:
    keys = {"image": "image", "question": "question", "answer": "answer", **names}
    return [
        {keys["image"]: image(colour), keys["question"]: text, **({keys["answer"]: answer} if answer else {})}
        for colour, text, answer in ROWS
    ]


def write_jsonl(path: Path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def write_parquet(path: Path, rows: list[dict]) -> None:
    import pyarrow
    import pyarrow.parquet

    keys = list(dict.fromkeys(key for row in rows for key in row))
    pyarrow.parquet.write_table(
        pyarrow.Table.from_pylist([{key: row.get(key) for key in keys} for row in rows]), path, row_group_size=2
    )


def write_csv(path: Path, rows: list[dict]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def write_json(path: Path, rows: list[dict]) -> None:
    path.write_text(json.dumps(rows), encoding="utf-8")


WRITERS = {".jsonl": write_jsonl, ".json": write_json, ".csv": write_csv, ".parquet": write_parquet}


def path_of(colour: str) -> str:
    return f"images/{colour}.png"


def struct_of(colour: str) -> dict:
    return {"bytes": png(colour), "path": "image.png"}


def uri_of(colour: str) -> str:
    return "data:image/png;base64," + base64.b64encode(png(colour)).decode()


def test_easy_vqa_keeps_its_official_splits():
    train, test = (read("easy-vqa", split=split, base=Path()) for split in easy_vqa.SPLITS)
    assert (len(train), len(test)) == (38_575, 9_673)
    assert not {q.image_id for q in train} & {q.image_id for q in test}
    assert len({q.id for q in train + test}) == len(train + test)
    assert len({q.answer for q in train}) == 13 and open_image(test[0]).size == (64, 64)


@pytest.mark.parametrize("suffix", WRITERS)
def test_file_with_paths(pictures: Path, suffix: str):
    WRITERS[suffix](pictures / f"mine{suffix}", plain(path_of))
    check(read(f"mine{suffix}", base=pictures), first_id="mine/0")
    check(read(str(pictures / f"mine{suffix}"), base=Path("elsewhere")))


@pytest.mark.parametrize("suffix", WRITERS)
@pytest.mark.parametrize("metadata", ["questions", "metadata"])
def test_folder_with_one_metadata_file(pictures: Path, suffix: str, metadata: str):
    WRITERS[suffix](pictures / f"{metadata}{suffix}", plain(path_of, image="file_name"))
    check(read(pictures.name, base=pictures.parent), first_id=f"{pictures.name}/0")
    check(read(".", base=pictures), first_id=f"{pictures.name}/0")


def test_folder_with_splits(pictures: Path):
    for split in ("train", "test"):
        (pictures / split).mkdir()
        write_jsonl(pictures / split / "questions.jsonl", plain(lambda colour: f"../images/{colour}.png"))
    check(read(".", split="test", base=pictures), first_id=f"{pictures.name}/test/0")


def test_absolute_paths_file_uris_and_an_image_root(pictures: Path):
    write_jsonl(pictures / "a.jsonl", plain(lambda colour: str(pictures / "images" / f"{colour}.png")))
    check(read("a.jsonl", base=pictures))
    write_jsonl(pictures / "b.jsonl", plain(lambda colour: (pictures / "images" / f"{colour}.png").as_uri()))
    check(read("b.jsonl", base=pictures))
    write_jsonl(pictures / "c.jsonl", plain(lambda colour: f"{colour}.png"))
    check(read("c.jsonl", base=pictures, image_root=Path("images")))
    write_jsonl(pictures / "d.jsonl", plain(lambda colour: f"images\\{colour}.png"))
    check(read("d.jsonl", base=pictures))


def test_a_byte_order_mark_windows_line_ends_and_blank_lines(pictures: Path):
    lines = "\r\n\r\n".join(json.dumps(row) for row in plain(path_of))
    (pictures / "a.jsonl").write_bytes(b"\xef\xbb\xbf\r\n" + lines.encode())
    check(read("a.jsonl", base=pictures))
    write_csv(pictures / "a.csv", plain(path_of))
    (pictures / "a.csv").write_bytes(b"\xef\xbb\xbf" + (pictures / "a.csv").read_bytes())
    check(read("a.csv", base=pictures))


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv"])
@pytest.mark.parametrize("image", [uri_of, lambda colour: base64.b64encode(png(colour)).decode()])
def test_base64_in_text_files(tmp_path: Path, suffix: str, image):
    WRITERS[suffix](tmp_path / f"mine{suffix}", plain(image))
    questions = read(f"mine{suffix}", base=tmp_path)
    assert all(isinstance(q.image, StoredImage) for q in questions)  # a reference, no bytes
    check(questions)


@pytest.mark.parametrize("image", [struct_of, png, uri_of, lambda colour: [struct_of(colour)]])
def test_parquet_with_embedded_images(tmp_path: Path, image):
    write_parquet(tmp_path / "mine.parquet", plain(image))
    questions = read("mine.parquet", base=tmp_path)
    assert all(isinstance(q.image, StoredImage) for q in questions)
    check(questions)


def test_parquet_written_by_datasets(tmp_path: Path):
    import datasets

    features = datasets.Features(
        {name: datasets.Value("string") for name in ("question", "answer")} | {"image": datasets.Image()}
    )
    rows = [{"answer": None, **row} for row in plain(struct_of)]
    datasets.Dataset.from_list(rows, features=features).to_parquet(tmp_path / "mine.parquet")
    check(read("mine.parquet", base=tmp_path))


def test_a_folder_of_parquet_as_the_hub_lays_it_out(tmp_path: Path):
    (tmp_path / "data").mkdir()
    write_parquet(tmp_path / "data" / "train-00000-of-00002.parquet", plain(struct_of)[:2])
    write_parquet(tmp_path / "data" / "train-00001-of-00002.parquet", plain(struct_of)[2:])
    write_parquet(tmp_path / "data" / "test-00000-of-00001.parquet", plain(struct_of)[:1])
    check(read(".", split="train", base=tmp_path), first_id=f"{tmp_path.name}/train/0")


def test_saved_data_sets_with_and_without_splits(tmp_path: Path):
    import datasets

    rows = [{"answer": None, **row} for row in plain(struct_of)]
    one = datasets.Dataset.from_list(rows).cast_column("image", datasets.Image())
    one.save_to_disk(tmp_path / "one")
    datasets.DatasetDict({"train": one, "test": one.select([0])}).save_to_disk(tmp_path / "two")
    check(read("one", base=tmp_path), first_id="one/0")
    check(read("two", split="train", base=tmp_path), first_id="two/train/0")
    assert len(read("two", split="test", base=tmp_path)) == 1


def test_a_saved_choice_of_rows_reads_the_chosen_ones(tmp_path: Path):
    import datasets

    rows = [{"answer": None, **row} for row in plain(struct_of)]
    datasets.Dataset.from_list(rows[::-1]).select([2, 1, 0]).save_to_disk(tmp_path / "chosen")
    check(read("chosen", base=tmp_path))


def test_hub_data_set_with_config_and_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import datasets

    write_parquet(tmp_path / "x.parquet", plain(struct_of))
    asked = []

    def load_dataset(name, config, split):
        asked.append((name, config, split))
        return datasets.Dataset.from_parquet(str(tmp_path / "x.parquet"))

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    check(read("someone/charts:small", split="train", base=tmp_path), first_id="someone/charts:small/train/0")
    assert asked == [("someone/charts", "small", "train")]


@pytest.mark.parametrize("suffix", WRITERS)
def test_own_column_names_and_ids(pictures: Path, suffix: str):
    rows = plain(path_of, image="picture", question="query", answer="label")
    WRITERS[suffix](pictures / f"mine{suffix}", [{**row, "id": f"x{n}"} for n, row in enumerate(rows)])
    questions = read(
        f"mine{suffix}", base=pictures, image_column="picture", question_column="query", answer_column="label"
    )
    check(questions, first_id="x0")


def test_answers_as_numbers_and_lists(pictures: Path):
    given = [3, ["14"], ["a", "b", "b"], [], "  ", None]
    rows = [{"image": "images/red.png", "question": "?", "answer": answer} for answer in given]
    write_jsonl(pictures / "a.jsonl", rows)
    found = [(q.answer, q.answers) for q in read("a.jsonl", base=pictures)]
    assert found == [("3", ()), ("14", ()), ("b", ("a", "b", "b")), (None, ()), (None, ()), (None, ())]


def test_no_answers_at_all_is_fine(pictures: Path):
    write_jsonl(pictures / "a.jsonl", [{"image": "images/red.png", "question": "?"}])
    assert read("a.jsonl", base=pictures)[0].answer is None


@pytest.mark.parametrize("suffix", wide.cells([".jsonl", ".parquet"], [".parquet"]))
def test_embedded_bytes_are_not_held_in_memory(tmp_path: Path, suffix: str):
    """160 pictures of 1 MB: reading holds a few of them at a time, and none afterwards.

    The first read lets datasets make its memory-mapped copy on disk, in batches of its own choice.
    """
    noise = os.urandom(1 << 20)
    image = (lambda n: {"bytes": noise + bytes([n]), "path": None}) if suffix == ".parquet" else None
    rows = [
        {
            "image": image(n) if image else "data:image/png;base64," + base64.b64encode(noise + bytes([n])).decode(),
            "question": "?",
        }
        for n in range(160)
    ]
    WRITERS[suffix](tmp_path / f"big{suffix}", rows)
    code = (
        "import sys, tracemalloc; from pathlib import Path; import datasets; from masters_edge.data import read\n"
        "source, base = sys.argv[1], Path(sys.argv[2])\n"
        "read(source, base=base); tracemalloc.start(); qs = read(source, base=base)\n"
        "held, peak = tracemalloc.get_traced_memory(); import pyarrow as pa\n"
        "assert len({q.image_id for q in qs}) == 160 and len(qs[5].image.read_bytes()) == (1 << 20) + 1\n"
        "print(held, peak, pa.total_allocated_bytes())"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "HF_HOME": str(tmp_path / "hf")}
    done = subprocess.run(
        [sys.executable, "-c", code, f"big{suffix}", str(tmp_path)],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    held, peak, arrow = map(int, done.stdout.split())
    assert held < 2e6 and peak < 80e6 and arrow < 60e6


def test_reading_imports_nothing_heavy(pictures: Path):
    write_jsonl(pictures / "a.jsonl", plain(path_of))
    code = (
        "import sys; from pathlib import Path; from masters_edge.data import read\n"
        "read('a.jsonl', base=Path(sys.argv[1]))\n"
        "assert not {'torch', 'transformers', 'datasets', 'pyarrow', 'numpy'} & set(sys.modules), sys.modules"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", code, str(pictures)], env=environment, check=True)


def test_each_question_may_name_its_metric(pictures: Path) -> None:
    rows = plain(lambda colour: f"images/{colour}.png")
    for row, metric in zip(rows, ["anls", "", " judge "]):
        row["rule"] = metric
    for write, name in ((write_jsonl, "q.jsonl"), (write_parquet, "q.parquet"), (write_csv, "q.csv")):
        write(pictures / name, rows)
        questions = read(name, base=pictures, metric_column="rule")
        assert [q.metric for q in questions] == ["anls", None, "judge"]
        assert questions[0].without_answer().metric == "anls"
        assert [q.metric for q in read(name, base=pictures)] == [None] * 3
    chat = [{"role": "user", "content": "which colour?"}, {"role": "assistant", "content": "red"}]
    write_jsonl(pictures / "chat.jsonl", [{"messages": chat, "image": "images/red.png", "rule": "judge"}])
    assert [q.metric for q in read("chat.jsonl", base=pictures, metric_column="rule")] == ["judge"]
