"""Whatever is shown to the terminal was perhaps written by a stranger."""

import pytest
from rich.table import Table

from masters_edge.common import display
from masters_edge.common.plain import line, printable

HOSTILE = "\x1b[2J\x1b]0;PWNED\x07[/][bold]\u202e\x9b2Jname\ud800"


def test_nothing_that_a_terminal_obeys_is_shown(capsys: pytest.CaptureFixture) -> None:
    table = Table(HOSTILE)
    table.add_row(HOSTILE)
    display.say(HOSTILE)
    display.console.print(HOSTILE)
    display.console.print(table)
    display.console.out(HOSTILE)
    display.errors.print(HOSTILE, style="dim")
    with display.progress(HOSTILE, 1) as bar:
        bar(1, note=HOSTILE)
    said = capsys.readouterr()
    for text in (said.out, said.err):
        assert "[/][bold]" in text and all(one.isprintable() or one == "\n" for one in text), repr(text)


@pytest.mark.parametrize(
    ("text", "shown", "one_line"),
    [
        ("plain é 中 👩\u200d🚀", "plain é 中 👩\u200d🚀", "plain é 中 👩🚀"),
        ("a\tb\nc", "a\tb\nc", "a b c"),
        ("\x1b[31mred\x7f\x00", "[31mred", "[31mred"),
        ("a\u2028b\u202ec", "a\u2028bc", "a bc"),
        ("\ud800x", "x", "x"),
    ],
)
def test_text_of_strangers(text: str, shown: str, one_line: str) -> None:
    assert printable(text) == shown and line(text) == one_line
    assert line("x" * 100, 10) == "x" * 9 + "…"
