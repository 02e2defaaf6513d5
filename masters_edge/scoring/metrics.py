"""Rules that score one answer against its label, from 0 to 1; the rewards (METHOD 5, R_acc by rule) use the same ones.

In: the metric's name, the response, the label or every accepted one. Out: a float in [0, 1]. A new rule is one
decorated function: `metric` registers one that looks at a label at a time, `metric_of_all` one that needs all at once.
"""

import difflib
import math
import re
from collections.abc import Callable, Iterable, Sequence

from masters_edge.common.errors import UserError
from masters_edge.scoring import choices
from masters_edge.scoring.thoughts import spoken

Rule = Callable[[str, str], float]
RuleOfAll = Callable[[str, Sequence[str]], float]
_RULES: dict[str, RuleOfAll] = {}

JUDGE = "judge"
"""In the place of a metric's name: no rule, a language model scores (`masters_edge.rewards.accuracy`)."""


def metric(name: str) -> Callable[[Rule], Rule]:
    """Register a rule `(response, answer) -> float in [0, 1]` under `name`; of several answers the best counts."""

    def add(rule: Rule) -> Rule:
        _RULES[name] = lambda response, answers: max(rule(response, answer) for answer in answers)
        return rule

    return add


def metric_of_all(name: str) -> Callable[[RuleOfAll], RuleOfAll]:
    """Register a rule `(response, answers) -> float in [0, 1]` under `name`, which counts the answers' votes."""

    def add(rule: RuleOfAll) -> RuleOfAll:
        _RULES[name] = rule
        return rule

    return add


def names() -> list[str]:
    return sorted(_RULES)


def get(name: str) -> RuleOfAll:
    """The rule of that name, `(response, accepted answers) -> float`, or a UserError with the nearest one."""
    if name in _RULES:
        return _RULES[name]
    near = difflib.get_close_matches(name, _RULES, n=1)
    hint = f"did you mean {near[0]!r}" if near else f"use one of: {', '.join(names())}"
    raise UserError(f"there is no metric {name!r}; {hint}")


def score(metric: str, response: str, answer: str) -> float:
    """How well `response` matches `answer` by the rule `metric`, in [0, 1]."""
    return best_score(metric, response, [answer])


def best_score(metric: str, response: str, answers: Iterable[str]) -> float:
    """How well `response` matches the accepted answers, at least one, in [0, 1]; its thoughts (`<think>`) don't count.

    The largest score over them, as DocVQA and ChartQA count where they accept several; rules of all answers
    (`vqa_accuracy`) take them as votes.
    """
    return get(metric)(spoken(response), list(answers))


def _plain(text: str) -> str:
    """Case-folded, inner whitespace as single spaces, without surrounding whitespace and one final full stop."""
    return " ".join(text.split()).casefold().removesuffix(".").rstrip()


@metric("exact_match")
def exact_match(response: str, answer: str) -> float:
    """1 where the strings are equal; case, surrounding or repeated whitespace and one final full stop don't count.

    Source: the usual rule for closed answer sets (easy-VQA scores a class of 13); the tolerances are ours.
    """
    return float(_plain(response) == _plain(answer))


_NUMBER = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)(e[-+]?\d+)?", re.IGNORECASE)


def _number(text: str) -> float | None:
    """The number that `text` is as a whole ("12", "1,200", "12.5%"), per cent divided by 100; else None."""
    text = _plain(text).replace(",", "")
    per_cent = text.endswith("%")
    text = text.removesuffix("%").strip()
    if not _NUMBER.fullmatch(text):
        return None
    value = float(text) / (100 if per_cent else 1)
    return value if math.isfinite(value) else None


@metric("relaxed_accuracy")
def relaxed_accuracy(response: str, answer: str) -> float:
    """1 where a number lies within 5% of the label, or where a text equals it (`exact_match`).

    Source: ChartQA (Masry et al. 2022, section 5.1; the rule goes back to PlotQA's numbers). As in the evaluation that
    Pix2Struct, lmms-eval and VLMEvalKit use, a label of 0 has no 5%: only 0 is right. Ours: thousands separators,
    surrounding spaces and a final full stop are ignored, and 0.0 is 0.
    """
    said, label = _number(response), _number(answer)
    if said is not None and label:
        return float(abs(said - label) <= 0.05 * abs(label) * (1 + 1e-12))
    if said is not None and label is not None:
        return float(said == label)
    return exact_match(response, answer)


def _edit_distance(a: str, b: str) -> int:
    """Levenshtein distance in characters."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, start=1):
        before, row[0] = row[0], i
        for j, y in enumerate(b, start=1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (x != y))
    return row[-1]


@metric("anls")
def anls(response: str, answer: str) -> float:
    """Normalized Levenshtein similarity, 0 where it is below 0.5.

    Source: Scene Text VQA (Biten et al. 2019, eq. 1, threshold 0.5), used by DocVQA and InfographicVQA. As in their
    evaluation (and in lmms-eval and VLMEvalKit) exactly 0.5 counts, which the equation leaves out, and case and
    whitespace are ignored. One label at a time: where a data set accepts several, `best_score` takes the largest.
    """
    said, label = (" ".join(text.split()).casefold() for text in (response, answer))
    longest = max(len(said), len(label))
    if longest == 0:
        return 1.0
    if abs(len(said) - len(label)) > longest / 2:  # the distance is at least that
        return 0.0
    similarity = 1 - _edit_distance(said, label) / longest
    return similarity if similarity >= 0.5 else 0.0


_LABEL = re.compile(r"\(?([A-Za-z])(?:[).:]|\s*$)")


@metric("multiple_choice")
def multiple_choice(response: str, answer: str) -> float:
    """1 where the response settles on the label's option letter; two different letters settle on none.

    Source: the option letters of MMBench and MMMU, read as `choices.choice` says: out of longer text and out of any
    marks around them, but never guessed, where MMMU draws a random letter and VLMEvalKit asks a language model. An
    option's text is not compared: the rule doesn't know the options. A label that is no letter is compared by
    `exact_match`.
    """
    label = _LABEL.match(answer.strip())
    if label is None:
        return exact_match(response, answer)
    letter = label[1].upper()
    return float(choices.choice(response, max(letter, choices.LAST)) == letter)


_NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_VQA_WORDS = {word: str(number) for number, word in enumerate(_NUMBERS)} | {"none": "0"}
_VQA_WORDS |= dict.fromkeys(("a", "an", "the"), "")
_VQA_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'


def _vqa_plain(text: str) -> str:
    """An answer as the VQA evaluation compares it: lower case, no punctuation, no articles, digits for number words."""
    text = " ".join(text.split())
    digits = re.search(r"\d,\d", text)
    plain = text
    for mark in _VQA_PUNCTUATION:
        beside_space = f"{mark} " in text or f" {mark}" in text
        plain = plain.replace(mark, "" if digits or beside_space else " ")
    plain = re.sub(r"\.(?!\d)", "", plain).lower().replace("\u2019", "'")
    plain = re.sub(r"(?<=\w)'(?=\w)", "", plain)
    return " ".join(word for word in (_VQA_WORDS.get(word, word) for word in plain.split()) if word)


@metric_of_all("vqa_accuracy")
def vqa_accuracy(response: str, answers: Sequence[str]) -> float:
    """`min(people who said it / 3, 1)`, averaged over the answers with each person's left out in turn.

    Source: VQA (Antol et al. 2015, section 5) and its evaluation code (GT-Vision-Lab/VQA, vqaEval.py), also used by
    VQAv2, OK-VQA, TextVQA and VizWiz with ten answers a question. Ours: answers are made plain even where all ten are
    alike (the evaluation code then takes them as they stand, so that "Yes" would miss ten times "yes"); apostrophes
    inside words don't count, instead of its table of contractions; and of fewer than four answers all the others that
    are left need to agree, so that a single label, such as a teacher's, scores 1 where it is met.
    """
    said = _vqa_plain(response)
    same = sum(_vqa_plain(answer) == said for answer in answers)
    enough = max(1, min(3, len(answers) - 1))
    if len(answers) == 1:
        return float(same)
    others = same * min(1.0, (same - 1) / enough) + (len(answers) - same) * min(1.0, same / enough)
    return others / len(answers)


@metric("quantity")
def quantity(response: str, answer: str) -> float:
    """1 where two numbers with units are the same quantity ("5 km", "5,000 m"), or where a text equals the label.

    Ours; `masters_edge/scoring/quantities.py` says what counts as the same. Needs the package pint.
    """
    from masters_edge.scoring import quantities

    said, label = quantities.parse(response), quantities.parse(answer)
    if said is None or label is None:
        return exact_match(response, answer)
    return float(quantities.same(said, label))


def wilson_interval(right: float, asked: int, z: float = 1.959963984540054) -> tuple[float, float]:
    """The 95% interval of a share, as two fractions in [0, 1] (Wilson 1927).

    Exact in spirit for counts; with partial credit (`anls`), where `right` is a sum of scores, it is wider than need
    be, never narrower, since scores inside [0, 1] vary less than a coin of the same mean.
    """
    if asked <= 0 or not 0 <= right <= asked:
        raise ValueError(f"right must lie between 0 and asked, and asked be positive; got {right} of {asked}")
    share = right / asked
    middle = share + z * z / (2 * asked)
    reach = z * math.sqrt(share * (1 - share) / asked + z * z / (4 * asked * asked))
    scale = 1 + z * z / asked
    return max(0.0, min(share, (middle - reach) / scale)), min(1.0, max(share, (middle + reach) / scale))
