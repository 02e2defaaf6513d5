"""Chat records as TRL, ms-swift, LLaVA and OpenAI write them."""

import base64
import json
from pathlib import Path

import pytest

from masters_edge.common.errors import UserError
from masters_edge.data import open_image, read

from .conftest import png

RED, GREEN = (255, 0, 0), (0, 128, 0)


def user(*content) -> dict:
    return {"role": "user", "content": content[0] if len(content) == 1 else list(content)}


def says(text: str) -> dict:
    return {"role": "assistant", "content": text}


def text(value: str) -> dict:
    return {"type": "text", "text": value}


def image(value=None, key: str = "image") -> dict:
    return {"type": "image"} if value is None else {"type": "image", key: value}


def found(folder: Path, *records: dict) -> list[tuple]:
    (folder / "c.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return [(q.text, q.answer, open_image(q).getpixel((0, 0))) for q in read("c.jsonl", base=folder)]


URI = "data:image/png;base64," + base64.b64encode(png("red")).decode()


@pytest.mark.parametrize(
    "record",
    [
        {"messages": [user(image("images/red.png"), text("what?")), says("red")]},
        {"messages": [user(text("what?"), image("images/red.png", "path")), says("red")]},
        {"messages": [user(image("images/red.png", "url"), text("what?")), says("red")]},
        {"messages": [user(image(URI), text("what?")), says("red")]},
        {"messages": [user({"type": "image_url", "image_url": {"url": URI}}, text("what?")), says("red")]},
        {"messages": [user(image(), text("what?")), says("red")], "images": ["images/red.png"]},
        {"messages": [user("what?"), says("red")], "images": ["images/red.png"]},
        {"messages": [user("<image>what?"), says("red")], "images": ["images/red.png"]},
        {"messages": [user("<image>\nwhat?"), says("red")], "images": [{"bytes": None, "path": "images/red.png"}]},
        {"messages": [user("what?\n<image>"), says("red")], "image": "images/red.png"},
        {"messages": [user(image(), text("what?")), {"role": "assistant", "content": [text("red")]}], "image": URI},
        {"messages": [{"role": "system", "content": "Be brief."}, user("<image>what?"), says("red")], "images": URI},
        {
            "conversations": [{"from": "human", "value": "<image>\nwhat?"}, {"from": "gpt", "value": "red"}],
            "image": "images/red.png",
        },
    ],
)
def test_one_exchange(pictures: Path, record: dict):
    assert found(pictures, record) == [("what?", "red", RED)]


def test_no_assistant_means_no_answer(pictures: Path):
    assert found(pictures, {"messages": [user("what?")], "images": ["images/red.png"]}) == [("what?", None, RED)]
    turns = [user("what?"), {"role": "assistant", "content": None, "tool_calls": []}]
    assert found(pictures, {"messages": turns, "images": ["images/red.png"]}) == [("what?", None, RED)]


def test_several_turns_give_one_question_for_each_image(pictures: Path):
    turns = [user("<image>first?"), says("red"), user("<image>second?"), says("green")]
    record = {"id": "r", "messages": turns, "images": ["images/red.png", "images/green.png"]}
    assert found(pictures, record) == [("first?", "red", RED), ("second?", "green", GREEN)]
    assert [q.id for q in read("c.jsonl", base=pictures)] == ["r", "r#1"]


@pytest.mark.parametrize("text_first", [True, False])
def test_chat_in_parquet_and_saved_data_sets(tmp_path: Path, text_first: bool):
    """The structs of Arrow fill absent keys with None; datasets stores mixed content as JSON text."""
    import datasets

    colours = ["red", "green", "red"]
    struct = [{"bytes": png(colour), "path": None} for colour in colours]
    parts = [[{**text("what?"), "image": None}, {**image(), "text": None, "image": None}] for _ in colours]
    inline = [[{**image(s), "text": None}, {**text("what?"), "image": None}] for s in struct]
    answers = [{"role": "assistant", "content": [{**text(colour), "image": None}]} for colour in colours]
    tables = {
        "beside": {
            "messages": [[user(p), a] for p, a in zip(parts, answers)],
            "images": [[s] for s in struct],
        },
        "inline": {"messages": [[user(p), a] for p, a in zip(inline, answers)]},
        "plain": {"messages": [[user("what?"), says(c)] for c in colours], "image": struct},
    }
    for name, table in tables.items():
        data = datasets.Dataset.from_dict(table)
        data.to_parquet(tmp_path / f"{name}.parquet")
        data.save_to_disk(tmp_path / name)
        for source in (f"{name}.parquet", name):
            questions = read(source, base=tmp_path)
            assert [(q.text, q.answer) for q in questions] == [("what?", c) for c in colours]
            assert [open_image(q).getpixel((0, 0)) for q in questions] == [RED, GREEN, RED]
            assert questions[0].image_id == questions[2].image_id != questions[1].image_id


def test_mixed_content_that_datasets_stores_as_json(pictures: Path):
    import datasets

    if not hasattr(datasets, "Json"):
        pytest.skip("this version of datasets has no Json feature")
    turns = [user(image(URI), text("what?")), says("red")]
    (pictures / "c.jsonl").write_text(json.dumps({"messages": turns}) + "\n")
    data = datasets.load_dataset("json", data_files=str(pictures / "c.jsonl"), split="train")
    assert "Json" in str(data.features)
    data.save_to_disk(pictures / "saved")
    (question,) = read("saved", base=pictures)
    assert (question.text, question.answer, open_image(question).getpixel((0, 0))) == ("what?", "red", RED)


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (
            {"messages": [user(image("images/red.png"), image("images/green.png"), text("same?"))]},
            "line 1: 2 images in one question (messages[0]); one is read",
        ),
        (
            {"messages": [user("<image><image>same?")], "images": ["images/red.png", "images/green.png"]},
            "2 images in one question (messages[0])",
        ),
        ({"messages": [user("same?")], "images": ["images/red.png", "images/green.png"]}, "2 images in one question"),
        ({"messages": [user("what?"), says("red")]}, "line 1: no user turn has an image; expected one in the content"),
        ({"messages": []}, "no user turn has an image"),
        ({"messages": [says("red")], "images": ["images/red.png"]}, "no user turn has an image"),
        ({"messages": [user("<image>what?")]}, "1 image marks in the messages but 0 images beside them"),
        (
            {"messages": [user("<image>what?")], "images": ["images/red.png", "images/green.png"]},
            "1 image marks in the messages but 2 images beside them",
        ),
        ({"messages": [user(image("images/red.png"), text(" "))]}, "messages[0] has an image but no text"),
        (
            {"messages": [user({"type": "video", "video": "a.mp4"}, text("?"))]},
            "messages[0], part 0 is of type 'video'",
        ),
        ({"messages": [user({"type": "text"}, text("?"))]}, "messages[0], part 0 has no text"),
        ({"messages": [user(3, text("?"))]}, "messages[0], part 0 is int; expected"),
        ({"messages": [{"role": "user", "content": 3}]}, "the content of messages[0] is int; expected text or a list"),
        ({"messages": [{"content": "what?"}]}, "messages[0] has no role; expected 'user' or 'assistant'"),
        ({"messages": ["what?"]}, "messages[0] is str; expected"),
        ({"messages": "what?"}, "line 1: 'messages' is str; expected a list"),
        ({"messages": [user(image("images/rot.png"), text("?"))]}, "line 1, 'messages': there is no image file "),
        ({"messages": [user(image("https://a.b/c.png"), text("?"))]}, "line 1, 'messages': the image is a web address"),
    ],
)
def test_errors(pictures: Path, record: dict, expected: str):
    with pytest.raises(UserError) as caught:
        found(pictures, record)
    assert expected in str(caught.value) and "\n" not in str(caught.value) and "c.jsonl" in str(caught.value)
