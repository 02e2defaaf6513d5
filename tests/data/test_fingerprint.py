import hashlib
import shutil
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from masters_edge.common.errors import UserError
from masters_edge.data import Question, fingerprint

BASE = Question("a", "what?", b"12345", "i", "yes", ("yes", "no"))


@pytest.mark.parametrize(
    "change",
    [
        {"id": "b"},
        {"text": "what"},
        {"image": b"1234"},
        {"image_id": "j"},
        {"answer": None},
        {"answer": ""},
        {"answers": ()},
        {"answers": ("yesno",)},
        {"metric": "anls"},
    ],
)
def test_every_field_counts(change):
    assert fingerprint([replace(BASE, **change)]) != fingerprint([BASE])


def test_known_value():
    """Fixed: a run folder made with an earlier version must still find its data unchanged."""
    written = b"masters-edge questions 1\n1:a5:what?3:yes1:i1:53:yes2:no\n"
    assert fingerprint([BASE]) == hashlib.sha256(written).hexdigest()
    assert fingerprint(iter([BASE])) == fingerprint([BASE]) != fingerprint([BASE, BASE])


texts = st.text(max_size=3)


@given(*[st.tuples(texts, texts, texts | st.none(), texts, st.lists(texts, max_size=2))] * 2)
def test_no_two_records_run_together(a, b):
    one, other = (Question(i, t, b"", m, ans, tuple(more)) for i, t, ans, m, more in (a, b))
    assert (fingerprint([one]) == fingerprint([other])) == (one == other)
    assert (fingerprint([one, other]) == fingerprint([other, one])) == (one == other)


def test_a_moved_folder_keeps_it_and_a_changed_size_does_not(tmp_path: Path):
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "x.png").write_bytes(b"123")
    first = fingerprint([replace(BASE, image=tmp_path / "one" / "x.png")])
    shutil.move(tmp_path / "one", tmp_path / "two")
    assert fingerprint([replace(BASE, image=tmp_path / "two" / "x.png")]) == first
    (tmp_path / "two" / "x.png").write_bytes(b"1234")
    assert fingerprint([replace(BASE, image=tmp_path / "two" / "x.png")]) != first
    with pytest.raises(UserError, match=r"question a: the image .*none\.png can't be read"):
        fingerprint([replace(BASE, image=tmp_path / "none.png")])


def test_fast_for_fifty_thousand(tmp_path: Path):
    files = [tmp_path / f"{n}.png" for n in range(500)]
    for file in files:
        file.write_bytes(b"x")
    questions = [Question(f"q{n}", "what?", files[n % 500], str(n % 500), "yes") for n in range(50_000)]
    start = time.process_time()
    fingerprint(questions)
    assert time.process_time() - start < 2


def test_no_answer_is_not_an_empty_answer():
    assert fingerprint([replace(BASE, answer=None)]) != fingerprint([replace(BASE, answer="")])
