"""Stop sequences cut the same text wherever the pieces' borders lie."""

from hypothesis import given
from hypothesis import strategies as st

from masters_edge.serve.stop import Cutter

TEXT = st.text("abc", max_size=30)


def plainly(text: str, stops: list[str]) -> str:
    """Letter by letter: the first stop sequence that is whole ends the text where it began."""
    for end in range(1, len(text) + 1):
        met = [stop for stop in stops if text[:end].endswith(stop)]
        if met:
            return text[: end - max(map(len, met))]
    return text


@given(st.lists(TEXT, max_size=10), st.lists(st.text("abc", min_size=1, max_size=4), max_size=4))
def test_pieces_do_not_matter(pieces: list[str], stops: list[str]) -> None:
    cutter = Cutter(stops)
    said = "".join(cutter.feed(piece) for piece in pieces) + cutter.finish()
    text = "".join(pieces)
    assert said == plainly(text, stops)
    assert cutter.found == any(stop in text for stop in stops)


def test_what_is_certain_is_said_at_once() -> None:
    cutter = Cutter(["END"])
    assert [cutter.feed(piece) for piece in ("a re", "d E", "N", "X", " END no")] == ["a re", "d ", "", "ENX", " "]
    assert cutter.found and cutter.finish() == ""
