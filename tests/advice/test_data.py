"""What is advised about questions, their files and their pictures: as advised, the data are read."""

import base64
import io
import json
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from masters_edge.data import easy_vqa, fingerprint, open_image, questions, read, sources, verify_images
from masters_edge.data.records import Question
from masters_edge.data.split import hold_out, keep_labels, sample
from masters_edge.recipe import load
from tests.advice import follows, said

BARE = {"image": "red.png", "question": "which colour?"}
ROW = {**BARE, "answer": "red"}
TEXT = {"type": "text", "text": "which colour?"}
PICTURE = {"type": "image", "image": "red.png"}
SAYS = {"role": "assistant", "content": "red"}
Data = tuple[str, Any, dict[str, Any]]  # a file's name, its rows, text or bytes, and how it is read


def png(mode: str = "RGB") -> bytes:
    file = io.BytesIO()
    Image.new(mode, (8, 8)).save(file, "TIFF" if mode == "F" else "PNG")
    return file.getvalue()


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the picture red.png; what is kept from run to run is kept in it alone."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    monkeypatch.setenv("MASTERS_EDGE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "red.png").write_bytes(png())
    return tmp_path


def got(folder: Path, data: Data) -> list[Question]:
    name, content, options = data
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    lines = path.suffix != ".json"
    if isinstance(content, list):
        content = "".join(json.dumps(row) + "\n" for row in content) if lines else json.dumps(content)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read(options.get("source", name), base=folder, **{k: v for k, v in options.items() if k != "source"})


def rows(*found: Any, **options: Any) -> Data:
    return "q.jsonl", list(found), options


def row(**changed: Any) -> Data:
    return rows({**ROW, **changed})


def easy(**options: Any) -> Data:
    return "q.jsonl", "", {"source": "easy-vqa", **options}


def ruled(name: object, column: str | None = "rule") -> Data:
    return rows({**ROW, "rule": name}, metric_column=column)


def labelled(column: str | None, *more: Any) -> Data:
    return rows(*more, {**BARE, "label": "red"}, answer_column=column)


def chat(*messages: Any, **more: Any) -> Data:
    options = {"follow_ups": more.pop("follow_ups", "refuse"), "answer_column": more.pop("answer_column", "answer")}
    return rows(ROW, {"messages": list(messages), "image": "red.png", **more}, **options)


def user(*content: Any) -> dict[str, Any]:
    return {"role": "user", "content": list(content) or "which colour?"}


def followed(folder: Path, words: str, bad: Data, *good: Data) -> None:
    """It is said of the one, and what it is made then as the sentence advises is read."""
    with said(words):
        got(folder, bad)
    for better in good:
        assert got(folder, better)


LEFT_OUT = rows(ROW)
# What is said, of what, and what it then is.
ROWS: list[tuple[str, Data, tuple[Data, ...]]] = [
    ("expected the question as text: mend it", rows(ROW, {**ROW, "question": 3}), (row(question="3"), LEFT_OUT)),
    ("write the answer as text", row(answer=2.5), (row(answer="2.5"), row(answer=["2.5", "2"]))),
    ("add it or leave the row out", rows(ROW, {**ROW, "question": None}), (LEFT_OUT,)),
    ("mend the text or leave the row out", rows(ROW, {**ROW, "question": "a\0b"}), (row(question="ab"), LEFT_OUT)),
    (
        "set `question_column` to the one that holds the question",
        rows({"image": "red.png", "text": "which colour?"}),
        (rows({"image": "red.png", "text": "which colour?"}, question_column="text"),),
    ),
    ("change one or remove the column", rows({**ROW, "id": 1}, {**ROW, "id": 1}), (rows(ROW, ROW), row(id=1))),
    ("expected text or a whole number", row(id=1.5), (row(id="1.5"), row(id=1))),
    ("expected the name of a metric: ", ruled(3), (ruled("anls"), ruled("judge"))),
    ("is no metric (did you mean 'anls'?)", ruled("anl"), (ruled("anls"),)),
    ("(did you mean 'rule'?); set `metric_column` to", ruled("anls", "rul"), (ruled("anls"), ruled("anls", None))),
    ("set `answer_column` to one of: label, or to none", labelled("answer"), (labelled("label"), labelled(None))),
    ("set `answer_column` to none", rows(BARE, answer_column="label"), (rows(BARE, answer_column=None),)),
    ("call the column 'answer' in every row, or set", labelled("answer", ROW), (rows(ROW, ROW), labelled(None, ROW))),
    ("give a data set with at least one row", rows(), (rows(ROW),)),
    ("leave `metric_column` out", easy(split="test", metric_column="rule"), (easy(split="test"),)),
    ("set it to one of: train, test", easy(), (easy(split="test"),)),
    ("use one of: train, test", easy(split="dev"), (easy(split="test"),)),
    ("expected a path, a data: URI or embedded", rows(ROW, {**ROW, "image": 7}), (row(image="red.png"), LEFT_OUT)),
    ("images for one question; one is read", row(image=["red.png"] * 2), (row(image=["red.png"]), rows(ROW, ROW))),
    ("mend the path or leave the row out", rows(ROW, {**ROW, "image": "rot.png"}), (row(), LEFT_OUT)),
    ("download the images and give their paths", row(image="https://example.org/a.png"), (row(),)),
    (
        "mend the paths (relative ones start",
        rows(ROW, *[{**ROW, "image": "rot.png"}] * 2),
        (rows(ROW, *[{**ROW, "image": "rot.png"}] * 2, on_error="skip", most_skipped=0.7), LEFT_OUT, rows(ROW, ROW)),
    ),
    (
        "mend them, or raise `most_skipped`",
        rows(ROW, {**ROW, "image": "rot.png"}, on_error="skip"),
        (rows(ROW, {**ROW, "image": "rot.png"}, on_error="skip", most_skipped=0.5), rows(ROW, ROW, on_error="skip")),
    ),
    (
        "mend the images",
        rows({**ROW, "image": "rot.png"}, on_error="skip", most_skipped=1.0),
        (rows(ROW, on_error="skip", most_skipped=1.0),),
    ),
]


@follows(
    "{}: {} is {}; expected the question as text: mend it or leave the row out",
    "{}: {} is {}; expected text or a list of texts: write the answer as text",
    "{}: no {} ({} is empty); add it or leave the row out",
    "{}: there is no {}{}, only: {}; set `{}_column` to the one that holds the {}",
    "{}: {} holds a zero byte or half a character (a lone surrogate); mend the text or leave the row out",
    "{}: the id {} was used before ({}); ids must differ: change one or remove the column",
    "{}: 'id' is {}; expected text or a whole number",
    "{}: {} is {}; expected the name of a metric: {}",
    "{}: {} is {}, which is no metric{}",
    "{} has no column {}{}; set `metric_column` to one of: {}; or leave it out",
    "{} has no column {}{}; set `answer_column` to {}none (`null`) where the questions have no labels",
    "which isn't read; call the column {} in every row, or set `answer_column`",
    "readers.py: {} holds no questions; give a data set with at least one row",
    "easy-vqa has no column {}; leave `metric_column` out",
    "easy-vqa needs a `split`; set it to one of: {}",
    "easy-VQA has no split {}; use one of: {}",
    "no image; expected a path, a data: URI or embedded bytes: add it or leave the row out",
    "images for one question; one is read: split the question or leave it out",
    "mend the path or leave the row out (relative paths start",
    "download the images and give their paths",
    "leave the rows out, or set `on_error: skip`",
    "lets `on_error: skip` leave out: {}; mend them, or raise `most_skipped`",
    "{} holds no question with an image that can be used; mend the images",
)
@pytest.mark.parametrize(("words", "bad", "good"), ROWS, ids=[words for words, _, _ in ROWS])
def test_rows(folder: Path, words: str, bad: Data, good: tuple[Data, ...]) -> None:
    followed(folder, words, bad, *good)


def inline(content: Any) -> Data:
    return "q.json", content, {}


TWO_LINES = f"{json.dumps(ROW)}\n{json.dumps(ROW)}\n"
CSV = "image,question,answer\nred.png,"
FILES: list[tuple[str, Data, tuple[Data, ...]]] = [
    ("mend or remove it", rows(ROW, [1]), (rows(ROW, ROW), LEFT_OUT)),
    ("found dict; put the objects into a list", inline(json.dumps(ROW)), (inline([ROW]), rows(ROW))),
    ("found a second JSON value; put", inline(TWO_LINES), (inline([ROW, ROW]), ("q.jsonl", TWO_LINES, {}))),
    ("the file must hold one list of objects", inline("[{]"), (inline([ROW]),)),
    ("expected a list of flat objects", inline("[" * 200_000), (inline([ROW]),)),
    ("mend the file", inline('[{"id": ' + "1" * 5000 + "}]"), (inline([ROW]),)),
    ("save the file as UTF-8", ("q.json", b'["\xff"]', {}), (inline([{**ROW, "answer": "\xff"}]),)),
    ("line 1: the text isn't UTF-8", ("q.jsonl", b'"\xff"', {}), (row(answer="\xff"),)),
    ("every line must hold one whole JSON object", ("q.jsonl", '{"image": ', {}), (rows(ROW),)),
    ("expected one flat object a line", ("q.jsonl", "[" * 200_000, {}), (rows(ROW),)),
    ("mend the line", ("q.jsonl", '{"id": ' + "1" * 5000 + "}", {}), (rows(ROW),)),
    ("rename or remove one", ("q.csv", "image,image\n", {}), (("q.csv", f"{CSV}what?,red\n", {}),)),
    (
        "put text that holds commas between double quotes",
        ("q.csv", f"{CSV}what, exactly?,red\n", {}),
        (("q.csv", f'{CSV}"what, exactly?",red\n', {}),),
    ),
    ("mend the line, or use JSON lines", ("q.csv", f"{CSV}{'x' * 200_000},red\n", {}), (rows(ROW),)),
    ("expected one of: .jsonl, .json, .parquet, .csv", ("q.txt", TWO_LINES, {}), (("q.jsonl", TWO_LINES, {}),)),
    ("is one file without splits, but split 'test' is asked for; remove", rows(ROW, split="test"), (rows(ROW),)),
    (
        "beside the images, Parquet files, or a folder",
        ("new/notes.txt", "", {"source": "new"}),
        (("new/questions.jsonl", [{**ROW, "image": "../red.png"}], {"source": "new"}),),
    ),
    (
        "and no splits, but split 'test' is asked for; remove `split`",
        ("whole/questions.jsonl", [{**ROW, "image": "../red.png"}], {"source": "whole", "split": "test"}),
        (("whole/questions.jsonl", [{**ROW, "image": "../red.png"}], {"source": "whole"}),),
    ),
    ("(did you mean 'q.jsonl'?); mend `source`", rows(ROW, source="p.jsonl"), (rows(ROW, source="q.jsonl"),)),
    ("found 'data:image/svg+xml'; encode it as", row(image="data:image/svg+xml,<svg/>"), (row(),)),
    (
        "encode the file again",
        row(image="data:image/png;base64,ab!?"),
        (row(image="data:image/png;base64," + base64.b64encode(png()).decode()),),
    ),
]


@follows(
    "found {}; mend or remove it",
    "rows.py: {}: expected a list of objects with image and question, found {}; put the objects into a list, or rename",
    "expected one JSON list, found a second JSON value; put the objects into a list, or rename",
    "the file must hold one list of objects",
    "the text isn't UTF-8 (byte {}); save the file as UTF-8",
    "the JSON is nested too deeply; expected a list of flat objects",
    "the JSON holds what can't be read ({}); mend the file",
    "every line must hold one whole JSON object",
    "the JSON is nested too deeply; expected one flat object a line",
    "the JSON holds what can't be read ({}); mend the line",
    "the header names the column {} twice; rename or remove one",
    "put text that holds commas between double quotes",
    "not valid CSV ({}); mend the line, or use JSON lines",
    "the suffix {} isn't read; expected one of: {}",
    "{} is one file without splits, but split {} is asked for; remove `split`",
    "{} holds no questions; expected one of {} beside the images, Parquet files, or a folder",
    "{} holds {} and no splits, but split {} is asked for; remove `split`",
    "there is no data set {}{}; mend `source` in the recipe",
    "expected 'data:image/png;base64,...', found {}; encode it as base64",
    "the image isn't valid base64 ({}); encode the file again",
)
@pytest.mark.parametrize(("words", "bad", "good"), FILES, ids=[words for words, _, _ in FILES])
def test_files(folder: Path, words: str, bad: Data, good: tuple[Data, ...]) -> None:
    followed(folder, words, bad, *good)


NO_OWN = {"image": None}
MORE = ({"role": "user", "content": "its colour?"}, SAYS)
CHATS: list[tuple[str, Data, tuple[Data, ...]]] = [
    ('expected a list such as [{"role"', rows({"messages": "what?", "image": "red.png"}), (chat(user(), SAYS),)),
    ("leave that turn out", chat(SAYS, user(), SAYS), (chat(user(), SAYS),)),
    ("join the two, or leave the record out", chat(user(), user(), SAYS), (chat(user(TEXT, TEXT), SAYS), LEFT_OUT)),
    (
        "expected one in the content or in a column 'images'",
        chat(user(TEXT), SAYS, **NO_OWN),
        (chat(user(PICTURE, TEXT), SAYS, **NO_OWN), chat(user(), **NO_OWN, images=["red.png"]), LEFT_OUT),
    ),
    ('is str; expected {"role": "user"', chat("what?"), (chat(user()),)),
    ("expected 'user' or 'assistant' under 'role'", chat({"content": "?"}), (chat(user()),)),
    ("rename it, or leave the record out", chat(user(), {**SAYS, "role": "model"}), (chat(user(), SAYS), LEFT_OUT)),
    ('is int; expected {"type": "text"', chat(user(3)), (chat(user(TEXT)),)),
    ("has no text; expected text under 'text'", chat(user({"type": "text"})), (chat(user(TEXT)),)),
    ("expected text or a list of parts", chat({"role": "user", "content": 3}), (chat(user(TEXT)), chat(user()))),
    ("text and images are read: leave the record out", chat(user({"type": "video"}, TEXT)), (LEFT_OUT,)),
    (
        "there must be one image for each mark",
        chat(user("<image>what?"), **NO_OWN, images=["red.png", "red.png"]),
        (chat(user("<image>what?"), **NO_OWN, images=["red.png"]),),
    ),
    (
        "split the question or leave the record",
        chat(user(PICTURE, PICTURE, TEXT), **NO_OWN),
        (chat(user(PICTURE, TEXT), **NO_OWN), LEFT_OUT),
    ),
    (
        "add the question or remove the record",
        chat(user(PICTURE), **NO_OWN),
        (chat(user(PICTURE, TEXT), **NO_OWN), LEFT_OUT),
    ),
    (
        "set `follow_ups: split` to make each",
        chat(user(), SAYS, *MORE),
        tuple(chat(user(), SAYS, *MORE, follow_ups=way) for way in ("split", "leave_out")),
    ),
    (
        "put the image first, or set `follow_ups: leave_out`",
        chat(user(), SAYS, user(PICTURE, TEXT), **NO_OWN, follow_ups="split"),
        (
            chat(user(PICTURE, TEXT), SAYS, user(), **NO_OWN, follow_ups="split"),
            chat(user(), SAYS, user(PICTURE, TEXT), **NO_OWN, follow_ups="leave_out"),
        ),
    ),
    (
        "keep one, or name another `answer_column`",
        chat(user(), SAYS, answer="blue"),
        (chat(user(), SAYS), chat(user(), answer="blue"), chat(user(), SAYS, answer="blue", answer_column=None)),
    ),
]


@follows(
    '{}: {} is {}; expected a list such as [{"role": "user", "content": "..."}]',
    "{}: {}[{}] speaks before anything is asked; leave that turn out",
    "and one of them would be lost; join the two, or leave the record out",
    "no user turn has an image; expected one in the content or in a column 'images': add it or leave the record out",
    '{}: {} is {}; expected {"role": "user", "content": ...}',
    "{} has no role; expected 'user' or 'assistant' under 'role'",
    "which isn't read; expected one of {}: rename it, or leave the record out",
    '{}: {} is {}; expected {"type": "text", "text": ...}',
    "{}: {} has no text; expected text under 'text'",
    "{}: the content of {} is {}; expected text or a list of parts",
    "{} is of type {}; text and images are read: leave the record out",
    "there must be one image for each mark",
    "images in one question ({}); one is read: split the question or leave the record out",
    "{} has an image but no text; add the question or remove the record",
    "set `follow_ups: split` to make each a question of its own",
    "so it can't stand alone; put the image first, or set `follow_ups: leave_out`",
    "there is an answer in the chat and another under {}; keep one, or name another `answer_column`",
)
@pytest.mark.parametrize(("words", "bad", "good"), CHATS, ids=[words for words, _, _ in CHATS])
def test_chats(folder: Path, words: str, bad: Data, good: tuple[Data, ...]) -> None:
    followed(folder, words, bad, *good)


@follows(
    "sources.py: {} holds no questions; give a data set with at least one row",
    "{} holds no questions, or one of its splits holds none; save it without that",
    "{} holds both {}; keep one, or name the file itself as `source`",
    "{} has {}; set `split` to one of: {}",
    "{} is one data set without splits, but split {} is asked for; remove `split`",
    "reading {} needs the datasets library; run: pip install 'masters-edge[distill]'",
    "the hub can't be reached for the data set {}{} ({}); connect, or give a local file or folder as `source`",
    "there is no data set {} on the hub, or it is private{}; mend `source`, or log in with `hf auth login`",
)
def test_folders_tables_and_the_hub(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def got(source: str, split: str | None = None) -> list[Question]:
        return read(source, base=folder, split=split)

    (folder / "two").mkdir()
    for name in ("questions", "metadata"):
        (folder / f"two/{name}.jsonl").write_text(json.dumps({**ROW, "image": "../red.png"}))
    with said("keep one, or name the file itself"):
        got("two")
    assert got("two/metadata.jsonl")
    (folder / "two/metadata.jsonl").unlink()
    assert got("two")
    (folder / "parts").mkdir()
    (folder / "two").rename(folder / "parts/train")
    (folder / "parts/red.png").write_bytes(png())
    with said("several splits and no `split` is given; set `split` to one of: train"):
        got("parts")
    assert got("parts", "train")
    one, none = (
        datasets.Dataset.from_list([{**ROW, "image": str(folder / "red.png")}]),
        datasets.Dataset.from_dict({"image": [], "question": []}),
    )
    none.to_parquet(folder / "q.parquet")
    with said("give a data set with at least one row"):
        got("q.parquet")
    one.to_parquet(folder / "q.parquet")
    assert got("q.parquet")
    datasets.DatasetDict({"train": one, "test": none}).save_to_disk(folder / "saved")
    with said("save it without that"):
        got("saved", "train")
    datasets.DatasetDict({"train": one}).save_to_disk(folder / "saved")
    assert got("saved")
    with said("set `split` to one of: train"):
        got("saved", "test")
    assert got("saved", "train")
    one.save_to_disk(folder / "plain")
    with said("without splits, but split 'x' is asked for; remove `split`"):
        got("plain", "x")
    assert got("plain")

    def refuse(error: Exception) -> None:
        monkeypatch.setattr(datasets, "load_dataset", lambda *names, **options: (_ for _ in ()).throw(error))

    refuse(ConnectionError("no network"))
    with said("connect, or give a local file or folder as `source`"):
        got("some/thing", "train")
    refuse(datasets.exceptions.DatasetNotFoundError("none"))
    with said("mend `source`, or log in with"):
        got("some/thing", "train")
    monkeypatch.setattr(datasets, "load_dataset", lambda *names, **options: one)
    assert got("some/thing", "train") and got("plain")
    assert any(script.name == "hf" for script in metadata.entry_points(group="console_scripts"))
    with monkeypatch.context() as patched, said("pip install 'masters-edge[distill]'"):
        patched.setattr("importlib.util.find_spec", lambda name: None)
        got("q.parquet")
    assert got("q.parquet") and any(
        need.startswith("datasets") and "distill" in need for need in metadata.requires("masters-edge") or []
    )


@follows(
    "the easy-VQA data are not installed; run: pip install easy-vqa",
    "readers.py: {} can't be read ({}); mend its rights, or the disk",
)
def test_installed_and_readable(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched, said("pip install easy-vqa"):
        patched.setattr("importlib.util.find_spec", lambda name: None)
        easy_vqa.read("test")
    assert metadata.version("easy-vqa") and easy_vqa.folder().is_dir()  # what the package of that name holds
    with monkeypatch.context() as patched, said("q.jsonl can't be read (Permission denied); mend its rights"):
        patched.setattr(sources, "JsonLines", lambda path: open_refused(path))
        got(folder, rows(ROW))
    assert got(folder, rows(ROW))


def open_refused(path: Path) -> None:
    """As without the rights, which the administrator's account always has."""
    raise PermissionError(13, "Permission denied", str(path))


@follows(
    "the image is no longer the one read before; don't change the data during a run",
    "replace them with whole PNG or JPEG files, leave their questions out, or set `on_error: skip`",
    "data/records.py: question {}: there is no image file {}; mend the path or leave the question out",
    "question {}: the image in {} can't be read ({}); replace it with a whole PNG or JPEG, or leave the question out",
    "question {}: the image {} can't be read ({}); mend the path or leave the question out",
)
def test_pictures(folder: Path) -> None:
    embedded = rows({**ROW, "image": "data:image/png;base64," + base64.b64encode(png()).decode()})
    (question,) = got(folder, embedded)
    path = folder / embedded[0]
    text = path.read_text()
    path.write_text(json.dumps(ROW))
    with said("don't change the data during a run"):
        open_image(question)
    path.write_text(text)
    assert open_image(question).size == (8, 8)

    picture, two = folder / "red.png", rows(ROW, {**ROW, "image": "green.png"})
    (folder / "green.png").write_bytes(png())
    found = got(folder, two)
    picture.write_bytes(png()[:30])
    with said("leave their questions out, or set `on_error: skip`"):
        verify_images(found)
    with said("replace it with a whole PNG or JPEG, or leave"):
        open_image(found[0])
    skipping = (two[0], two[1], {"on_error": "skip", "most_skipped": 0.5})
    for better in (found[1:], got(folder, skipping)):
        verify_images(better)
    picture.unlink()
    with said("there is no image file"):
        open_image(found[0])
    with said("mend the path or leave the question out"):
        fingerprint(found)
    assert fingerprint(found[1:])
    picture.write_bytes(png("F"))
    with said("save it with 8 or 16 bits a channel"):
        open_image(found[0])
    for mode in ("L", "I;16"):
        picture.write_bytes(png(mode))
        verify_images(found)
        assert open_image(found[0]).mode == "RGB" and fingerprint(found)


@follows(
    "{} {} asked for, but there are {}; ask for 0 to {}",
    "questions stay together ({} images); hold out fewer",
    "data.labels asks for {} labels, but of {} labelled questions {} are left after data.held_out",
)
def test_as_many_as_there_are(folder: Path) -> None:
    three = [Question(str(n), "?", Path("a.png"), f"image {n // 2}", "a") for n in range(3)]
    for choose in (hold_out, keep_labels, sample):
        with said("ask for 0 to 3"):
            choose(three, 4, 0)
    assert len(keep_labels(three, 3, 0)) == len(sample(three, 3, 0)) == 3
    with said("hold out fewer"):
        hold_out(three, 3, 0)
    assert all(hold_out(three, 1, 0))

    path = folder / "mine.yaml"
    path.write_text("student: a/s\nteachers: [a/t]\ndata: {train: {source: q.jsonl}, labels: 3, held_out: 0}\n")
    (folder / "blue.png").write_bytes(png("L"))
    got(folder, rows({**ROW, "id": "a"}, {**ROW, "id": "b"}, {**ROW, "id": "c", "image": "blue.png"}))

    def labels(*changes: str) -> int:
        found = questions.read_questions(load(path, changes), path).train
        return sum(question.answer is not None for question in found)

    for words, tight, better in (
        ("hold out fewer", ["data.held_out=1"], []),
        ("raise data.limit", ["data.limit=2"], ["data.limit=3"]),
        ("hold out fewer and raise data.limit", ["data.held_out=1", "data.limit=1"], []),
    ):
        with said(f"or {words}") as caught:
            labels(*tight)
        most = str(caught.value).partition("ask for at most ")[2].partition(",")[0]
        assert labels(*tight, f"data.labels={most}") == int(most)
        assert labels(*better) == 3
