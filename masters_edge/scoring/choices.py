"""Which option letter a response to a multiple-choice question settles on.

In: the response. Out: a letter, or None where it names none, or several. Readings go from the surest to the loosest;
the first that finds a letter decides, and two different letters settle on none. Every letter is read alike, but for `A`
and `I` before another word, which are an article and a pronoun there.

Sources: MMMU's `parse_multi_choice_response` ("(B)", "B ", "B."), VLMEvalKit's `can_infer_option` (a single letter
among the words once punctuation is gone; also MMBench's first step), MMMU-Pro's "Answer: B". Where they guess, take the
last of several letters, take an article for A, or ask a language model, this says None.
"""

import re
import unicodedata

LAST = "J"  # MMMU-Pro has ten options
_RULED_OUT = "-"  # stands beside a letter that is named to be ruled out: together they are no longer one

# A letter of a word, where writing puts spaces between words: in Chinese or Japanese "答案是B" none stands before B.
_WORD = r"[^\W\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]"
_LETTER = rf"(?<!{_WORD})(?<!{_WORD}[-'’])(?<![°^\\@])(?<!\d )([A-Za-z])(?!{_WORD})(?![-'’]{_WORD})(?!\s*=)"
_OPTION = r"(?:option|choice|letter|answer)"

# Written around a letter or before it, none of which says which letter it is.
_MARKS = "*_`$\"'“”‘’«»「」『』【】\\[\\]{}()<>"
_MARKED = re.compile(rf"(?<!{_WORD})[{_MARKS}]{{1,6}}([A-Za-z])[.:,]?[{_MARKS}]{{1,6}}")
_TAGS = re.compile(r"</?(?:b|i|u|p|em|strong|code|br|span|div|sub|sup)\s*/?>")
_BOX = re.compile(r"\\boxed\s*\{|<answer>", re.IGNORECASE)
_COMMAND = re.compile(r"\\[A-Za-z]+\s*\{")
_SHORT = re.compile(r"\b(?:[A-Za-z]\.){2,}")  # i.e., U.S.

_WHOLE = re.compile(r"\W*([A-Za-z])\W*")
_STATED = re.compile(
    rf"\banswer\b[^.:\n]{{0,40}}?(?:\bis|\bbe|\bare|[:=])[:\s]{{0,4}}(?:{_OPTION}\s)?\W{{0,3}}{_LETTER}", re.IGNORECASE
)
_NAMED = re.compile(rf"\b{_OPTION}[-\s]{{1,2}}\(?{_LETTER}", re.IGNORECASE)
_LEADING = re.compile(r"\W*([A-Za-z])(?:[.):,\]]|\s+[-–—]\s|\s*\n)")
_ENTRY = re.compile(  # of a list of options: "B. a cat" wherever it stands, or a letter on a line of its own
    rf"(?:^|(?<=\s))\(?([A-Za-z])[.):](?=\s+{_WORD})|^[^\w\n]*([A-Za-z])[^\w\n]*$", re.MULTILINE
)
_BRACKETED = re.compile(rf"\({_LETTER}\)")
_ALONE = re.compile(_LETTER)

_NEXT = re.compile(rf"[.):\]]{{0,3}}\s?(?:,?\s?(?:and|or)\b|[,;/&+])\s{{0,3}}\W?{_LETTER}", re.IGNORECASE)
_BEFORE_WORD = re.compile(rf"\s+{_WORD}")
_AFTER_LETTER = re.compile(  # what can follow a letter, and neither an article nor a pronoun
    r"\s+(?:(?:is|are|seems|looks|fits|matches|shows|because|since|but|a|an|the)\b"
    r"|(?:(?:and|or|nor)\s+)?\W?[A-Z](?![\w'’-]))"
)
_RULED_OUT_BEFORE = re.compile(rf"(?:\bnot|n't|\bnor|\bneither|\bexcept)\s+(?:{_OPTION}\s+)?\W?\Z", re.IGNORECASE)
_RULED_OUT_AFTER = re.compile(r"\W{0,2}\s*(?:is|are)(?:n't|\s+(?:not|wrong|incorrect|false))\b", re.IGNORECASE)


def choice(text: str, last: str = LAST) -> str | None:
    """The option letter, A to `last`, that a response settles on: "B", "(b)", "**B.** a cat", "The answer is B."."""
    text = _plain(text)
    if whole := _WHOLE.fullmatch(text):
        return _settled({whole[1].upper()}, last)
    for found in (
        _named(text, _STATED),
        _leading(text),
        _named(text, _NAMED, certain=True),
        _named(text, _BRACKETED),
        _named(text, _ALONE, capitals=True),
    ):
        if any(letter.isalpha() and letter <= last for letter in found):
            return _settled(found, last)
    return None


def _settled(found: set[str], last: str) -> str | None:
    left = {letter for letter in found if letter <= last}
    return left.pop() if len(left) == 1 else None


def _plain(text: str) -> str:
    """One way of writing: full-width forms as usual ones, `\\boxed{A}` as a stated answer, any marks as (A)."""
    text = _TAGS.sub("", unicodedata.normalize("NFKC", text))
    text = _COMMAND.sub("{", _BOX.sub(" answer: {", text))
    text = _MARKED.sub(r" (\1) ", _SHORT.sub(" ", text))
    return re.sub(r"[*`$#_]+", "", text).strip()


def _named(text: str, pattern: re.Pattern[str], certain: bool = False, capitals: bool = False) -> set[str]:
    """Letters that the pattern finds, each with those listed after it ("B and C").

    `certain`: a capital is a letter whatever follows ("option A shows a cat"). `capitals`: lower case is no letter.
    """
    found: set[str] = set()
    reached = 0
    for match in pattern.finditer(text):
        capital = match[1].isupper()
        word = _is_word(match[1], text, match.end(1)) and not (certain and capital)
        if match.start(1) >= reached and not word and (capital or not capitals):
            letters, reached = _listed(text, match[1], match.start(1))
            found |= letters
    return found


def _leading(text: str) -> set[str]:
    """The letter that a response begins with ("B. a cat"), or those of all the options that it goes through."""
    first = _LEADING.match(text)
    if first is None:
        return set()
    letters, _ = _listed(text, first[1], first.start(1))
    return letters | {(entry[1] or entry[2]).upper() for entry in _ENTRY.finditer(text)}


def _listed(text: str, letter: str, start: int) -> tuple[set[str], int]:
    """The letter at `start`, those that are listed after it, `_RULED_OUT` where one of them is; and where they end."""
    found: set[str] = set()
    while True:
        found.add(letter.upper())
        if _RULED_OUT_BEFORE.search(text, max(0, start - 30), start) or _RULED_OUT_AFTER.match(text, start + 1):
            found.add(_RULED_OUT)
        following = _NEXT.match(text, start + 1)
        if following is None or _is_word(following[1], text, following.end(1)):
            return found, start + 1
        letter, start = following[1], following.start(1)


def _is_word(letter: str, text: str, end: int) -> bool:
    """Whether an `A` or `I` that ends there is an article or a pronoun."""
    return letter in "AaIi" and bool(_BEFORE_WORD.match(text, end)) and not _AFTER_LETTER.match(text, end)
