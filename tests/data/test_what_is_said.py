"""What data say is what is read, or one sentence says why not: labels, turns, ids, images that aren't there."""

import json
from pathlib import Path

import pytest

from masters_edge.common import files
from masters_edge.common.errors import UserError
from masters_edge.data import LeftOut, open_image, read
from masters_edge.data.images import broken_images

from .conftest import png
from .test_readers_errors import GOOD, jsonl


def refused(source: str, base: Path, **options) -> str:
    with pytest.raises(UserError) as caught:
        read(source, base=base, **options)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 1000  # five images are named, each with its whole path
    return message


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASTERS_EDGE_CACHE", str(tmp_path_factory.mktemp("cache")))


def test_class_labels_are_their_names(pictures: Path) -> None:
    import datasets

    names = datasets.ClassLabel(names=["cat", "dog"])
    several = datasets.Sequence(names) if not hasattr(datasets, "List") else datasets.List(names)
    features = {
        "image": datasets.Value("string"),
        "question": datasets.Value("string"),
        "answer": names,
        "all": several,
    }
    columns = {"image": [str(pictures / "images" / "red.png")] * 3, "question": ["q", "r", "s"], "answer": [0, 1, -1]}
    columns["all"] = [[0, 0, 1], [1], []]
    made = datasets.Dataset.from_dict(columns, features=datasets.Features(features))
    made.save_to_disk(pictures / "saved")
    made.to_parquet(pictures / "q.parquet")
    for source in ("saved", "q.parquet"):
        assert [q.answer for q in read(source, base=pictures)] == ["cat", "dog", None]
        listed = read(source, base=pictures, answer_column="all")
        assert [q.answer for q in listed] == ["cat", "dog", None] and listed[0].answers == ("cat", "cat", "dog")


@pytest.mark.parametrize("column", ["label", "labels", "answers", "Answer", "ground_truth", "multiple_choice_answer"])
def test_labels_in_another_column_are_not_passed_over(pictures: Path, column: str) -> None:
    row = {key: value for key, value in GOOD.items() if key != "answer"}
    source = jsonl(pictures, row | {column: "red"})
    said = refused(source, pictures)
    assert "q.jsonl has no column 'answer'" in said and f"set `answer_column` to one of: {column}" in said
    assert "or to none (`null`) where the questions have no labels" in said
    assert [q.answer for q in read(source, base=pictures, answer_column=column)] == ["red"]
    assert [q.answer for q in read(source, base=pictures, answer_column=None)] == [None]
    mixed = jsonl(pictures, GOOD, row | {column: "red"})
    assert f"line 2: there is no 'answer' but '{column}', which isn't read" in refused(mixed, pictures)


def test_questions_without_labels_are_read(pictures: Path) -> None:
    row = {key: value for key, value in GOOD.items() if key != "answer"}
    assert [q.answer for q in read(jsonl(pictures, row | {"source": "web"}), base=pictures)] == [None]
    assert [q.answer for q in read(jsonl(pictures, GOOD, row | {"label": None}), base=pictures)] == ["red", None]


def chat(*turns: tuple[str, str], **more: object) -> dict:
    return {"messages": [{"role": role, "content": text} for role, text in turns], "image": "images/red.png"} | more


TURNS = [("user", "<image>what?"), ("assistant", "a"), ("user", "its colour?"), ("assistant", "red"), ("user", "size?")]


def test_follow_ups_are_refused_counted_or_questions_of_their_own(pictures: Path) -> None:
    source = jsonl(pictures, chat(*TURNS, id="r"), chat(*TURNS[:2], id="s"))
    said = refused(source, pictures)
    assert "line 1: messages[2] asks on without an image of its own" in said and "`follow_ups: split`" in said
    left_out = LeftOut()
    kept = read(source, base=pictures, follow_ups="leave_out", left_out=left_out)
    assert [(q.id, q.answer) for q in kept] == [("r", "a"), ("s", "a")]
    assert left_out.notes == ["2 follow-up turns of chats left out (`follow_ups: leave_out`)"]
    split = read(source, base=pictures, follow_ups="split")
    expected = [("r", "what?", "a"), ("r#1", "its colour?", "red"), ("r#2", "size?", None), ("s", "what?", "a")]
    assert [(q.id, q.text, q.answer) for q in split] == expected
    assert len({q.image_id for q in split}) == 1 and open_image(split[2]).getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize(
    ("turns", "expected"),
    [
        (
            [("user", "what?"), ("chatgpt", "a")],
            "messages[1] has the role 'chatgpt', which isn't read; expected one of ",
        ),
        ([("user", "what?"), ("model", "a")], "messages[1] has the role 'model'"),
        ([("user", "what?"), ("tool", "a"), ("assistant", "b")], "messages[1] has the role 'tool'"),
        ([("user", "what?"), ("user", "now?"), ("assistant", "b")], "messages[0] and messages[1] are both by 'user'"),
        ([("user", "what?"), ("assistant", "a"), ("gpt", "b")], "messages[1] and messages[2] are both by 'assistant'"),
        ([("assistant", "hello"), ("user", "what?")], "messages[0] speaks before anything is asked"),
        ([("user", "hi"), ("assistant", "a"), ("user", "<image>what?")], "messages[0] asks on without an image"),
    ],
)
def test_turns_that_would_be_lost(pictures: Path, turns: list[tuple[str, str]], expected: str) -> None:
    assert expected in refused(jsonl(pictures, chat(*turns)), pictures)


def test_system_turns_are_counted(pictures: Path) -> None:
    left_out = LeftOut()
    read(jsonl(pictures, chat(("system", "Be brief."), *TURNS[:2])), base=pictures, left_out=left_out)
    assert left_out.notes == ["1 system turns of chats aren't read: questions are asked without them"]


def test_answers_beside_a_chat(pictures: Path) -> None:
    asked = chat(("user", "what?"), answer="red")
    assert [q.answer for q in read(jsonl(pictures, asked), base=pictures)] == ["red"]
    both = chat(("user", "what?"), ("assistant", "a"), answer="red")
    assert "there is an answer in the chat and another under 'answer'" in refused(jsonl(pictures, both), pictures)
    assert [q.answer for q in read(jsonl(pictures, both), base=pictures, answer_column=None)] == ["a"]
    said = refused(jsonl(pictures, asked, chat(("user", "what?"), solution="red")), pictures)
    assert "line 2: there is no 'answer' but 'solution', which isn't read" in said
    assert read(jsonl(pictures, chat(*TURNS[:2], label=3)), base=pictures)[0].answer == "a"


def test_constructed_ids_clash_with_nothing(pictures: Path) -> None:
    two = {"id": "r", "images": ["images/red.png", "images/green.png"]}
    two["messages"] = [{"role": r, "content": t} for r, t in [*TURNS[:2], ("user", "<image>B?"), ("assistant", "y")]]
    assert "line 2: the id 'r#1' was used before (" in refused(jsonl(pictures, two, GOOD | {"id": "r#1"}), pictures)
    assert "line 2: the id 'r#1' was used before (" in refused(jsonl(pictures, GOOD | {"id": "r#1"}, two), pictures)
    assert "line 2: the id 'q/1' was used before (" in refused(jsonl(pictures, GOOD | {"id": "q/1"}, GOOD), pictures)


def test_a_file_may_be_called_like_a_home_folder(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (pictures / "~x.png").write_bytes(png("red"))
    (pictures / "home").mkdir()
    (pictures / "home" / "h.png").write_bytes(png("green"))
    monkeypatch.setenv("HOME", str(pictures / "home"))
    questions = read(jsonl(pictures, GOOD | {"image": "~x.png"}, GOOD | {"image": "~/h.png"}), base=pictures)
    assert [open_image(q).getpixel((0, 0)) for q in questions] == [(255, 0, 0), (0, 128, 0)]
    assert "there is no image file " in refused(jsonl(pictures, GOOD | {"image": "~nobody.png"}), pictures)
    assert files.at_home("~no-such-user/x") == Path("~no-such-user/x")


@pytest.mark.parametrize("key", ["question", "answer", "id"])
@pytest.mark.parametrize("text", ["a\0b", "\ud800"])
def test_text_that_nothing_takes(pictures: Path, key: str, text: str) -> None:
    said = refused(jsonl(pictures, GOOD, GOOD | {key: text}), pictures)
    assert f"line 2: '{key}' holds a zero byte or half a character" in said


@pytest.mark.parametrize("name", ["q.jsonl", "q.json"])
def test_whole_numbers_of_5000_digits(pictures: Path, name: str) -> None:
    row = json.dumps(GOOD).replace('"red"', "9" * 5000)
    (pictures / name).write_text(f"[{row}]" if name == "q.json" else row)
    assert "the JSON holds what can't be read (Exceeds the limit" in refused(name, pictures)


def test_no_right_to_read(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests may run as root, whom no mode keeps out: so the system's answer is put in."""
    source = jsonl(pictures, GOOD, GOOD | {"image": "images/green.png"})
    real_open, real_is_file = Path.open, Path.is_file

    def no_open(self: Path, *args, **options):
        if self.name == "q.jsonl":
            raise PermissionError(13, "Permission denied", str(self))
        return real_open(self, *args, **options)

    def no_look(self: Path) -> bool:
        if self.name == "green.png":
            raise PermissionError(13, "Permission denied", str(self))
        return real_is_file(self)

    monkeypatch.setattr(Path, "is_file", no_look)
    said = refused(source, pictures)
    assert "line 2, 'image': the image file " in said and "can't be looked at (Permission denied)" in said
    monkeypatch.setattr(Path, "open", no_open)
    assert "q.jsonl can't be read (Permission denied); mend its rights" in refused(source, pictures)


def test_missing_images_are_told_all_at_once(pictures: Path) -> None:
    rows = [GOOD | {"image": f"gone-{n}.png"} for n in range(7)] + [GOOD | {"image": "https://a.b/c.png"}, GOOD]
    said = refused(jsonl(pictures, *rows), pictures)
    assert "8 of 9 questions in " in said and "q.jsonl have no image: " in said and "line 5" in said
    assert "line 6" not in said and "; and 3 more; mend the paths " in said and "`on_error: skip`" in said


def test_skipping_is_bounded_and_listed(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (pictures / "cut.png").write_bytes(png("red")[:40])
    rows = [GOOD] * 7 + [GOOD | {"image": "gone.png"}] + [GOOD | {"image": "cut.png"}] * 2
    source = jsonl(pictures, *rows)
    said = refused(source, pictures, on_error="skip", most_skipped=0.2)
    assert "3 of 10 questions in " in said and "more than `most_skipped` (0.2)" in said and "line 8" in said
    left_out = LeftOut()
    kept = read(source, base=pictures, on_error="skip", most_skipped=0.3, left_out=left_out)
    assert [q.id for q in kept] == [f"q/{n}" for n in range(7)]
    assert len(left_out.images) == 3 and "gone.png" in left_out.images[0] and "q/9: " in left_out.images[2]
    assert left_out.notes[0].startswith("3 questions left out, whose image can't be used: ")
    assert "no question with an image" in refused(jsonl(pictures, rows[-1]), pictures, on_error="skip", most_skipped=1)


def test_what_was_found_broken_is_looked_at_again_once_it_changed(
    pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from masters_edge.data import images

    (pictures / "cut.png").write_bytes(png("red")[:40])
    questions = read(jsonl(pictures, GOOD, GOOD | {"image": "cut.png"}), base=pictures)
    opened = []
    monkeypatch.setattr(images, "open_image", lambda q: (opened.append(q.id), open_image(q)))
    first = broken_images(questions)
    assert list(first) == [questions[1].image_id] and opened == ["q/0", "q/1"]
    assert broken_images(questions) == first and len(opened) == 2
    (pictures / "cut.png").write_bytes(png("red"))
    assert broken_images(questions) == {} and len(opened) == 4
