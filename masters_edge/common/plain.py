"""What a stranger wrote, fit for a terminal: no control characters, nothing that turns the direction of writing."""

import unicodedata

_TURNING = frozenset(map(chr, [*range(0x202A, 0x202F), *range(0x2066, 0x206A)]))  # embeddings, overrides, isolates


def printable(text: str) -> str:
    """The text without terminal escapes and lone surrogates; lines, tabs and joined emoji stay as they are."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        one for one in text if one in "\n\t" or (unicodedata.category(one) not in ("Cc", "Cs") and one not in _TURNING)
    )


def line(text: str, most: int | None = None) -> str:
    """One line of it without control characters and marks that turn the direction of writing.

    `most`: so many characters, the last of them an ellipsis where more was cut off.
    """
    spaced = "".join(" " if unicodedata.category(one) in ("Zl", "Zp", "Cc") else one for one in text)
    found = " ".join("".join(one for one in spaced if unicodedata.category(one)[0] != "C").split())
    return found if most is None or len(found) <= most else found[: most - 1] + "…"
