"""Option letters: the forms that responses have, each for all letters alike, and what settles on none."""

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from masters_edge.scoring import metrics
from masters_edge.scoring.choices import choice

LETTERS = "ABCDEFGHIJ"

# Each is read for every letter, A and I too.
FORMS = [
    "{}", " {} \n", "{}.", "{})", "({})", "({}).", "{}:", "[{}]", "{{{}}}", "<{}>", "- {}",
    # marks: Markdown, LaTeX, quotes, tags, other scripts' signs
    "**{}**", "*{}*", "__{}__", "`{}`", "**({})**", "**{}.** a cat", "**{}**: a cat", "# {}", "```\n{}\n```",
    "${}$", "\\boxed{{{}}}", "$\\boxed{{{}}}$", "\\boxed{{\\text{{{}}}}}", "\\text{{{}}}", "\\mathbf{{{}}}",
    "\\({}\\)",
    '"{}"', "'{}'", "“{}”", "‘{}’", "「{}」", "（{}）", "【{}】", "<answer>{}</answer>", "<b>{}</b>",
    # the letter, then its option's text
    "{}. a cat", "{}) a cat", "({}) a cat", "{}: a cat", "{}.cat", "{}, a cat", "{} - a cat", "{} – a cat",
    "{}\nIt is red.",
    "{}. I think so.", "{} because it is red", "{} is correct", "{} is right.", "{} a cat", "[{}] a cat",
    # stated
    "The answer is {}.", "the answer is {}", "The answer is: {}", "The answer is ({}).",
    "The answer is **{}**.",
    "Answer: {}", "ANSWER: {}", "Answer:{}", "Answer is {}", "Answer ({})", "answer = {}", "**Answer:** {}",
    "**Answer: {}**",
    "Final answer: {}", "The correct answer is {}", "The correct answer is option {}.",
    "The correct option is {}",
    "The answer to the question is {}.", "The answer would be {}.", "My answer is {}, since it is red.",
    "The answer is \\boxed{{{}}}.", "Answer: {}. a cat", "Answer: {}) a cat",
    "Therefore, the final answer is: **{}**.",
    "Option {}", "Option {} is right.", "option {}: a cat", "Choice {}", "Letter {}", "It is option {}",
    "The option is {}.",
    "I choose {}", "I choose {}.", "I think it is {}.", "I'd say {}.", "It's {}.", "It is {}",
    "It is {}: a cat", "So {}.",
    "Based on the picture, {} is right.", "It looks like ({}) to me", "The cat is in ({}), I think.",
    "I would pick '{}'.",
    "The letter X is drawn, hence {}.", "The temperature is 20 °C, so {}.",
    "答案：{}", "答案是{}", "答案是{}。", "选{}", "正解は{}です", "Ответ: {}", "La réponse est {}.",
    # goes through the options, then says
    "A) a dog\nB) a cat\nAnswer: {}", "Option A is a dog. Option B is a cat. The answer is {}.",
    "A. a dog B. a cat. Answer: {}",
    # thoughts
    "<think>A or B? Rather C.</think>{}", "<think>\nI see a cat.\n</think>\n\n**{}**",
    "it may be C </think> {}",
    "<thinking>A</thinking>The answer is {}.",
]  # fmt: skip

# Not a letter, or not one alone.
NONE = [
    "", " ", ".", "**", "<think>B", "<think>A</think>", "cat", "AB", "ABCD", "K", "None of the above", "I", "a",
    # articles and pronouns
    "A cat", "A cat sits there", "a cat", "The answer is a cat.", "the answer is a red square",
    "My choice is a bird",
    "Answer: a dog", "The best option is a triangle", "Answer: A dog", "This is a dog.", "I think so",
    "I am not sure.",
    "I'm sorry", "I see a cat", "As an option, a cat would do", "It is a", "Is it a \"cat\"?",
    # two letters
    "A and B", "A or C", "Both A and D", "A, B", "A, C and D", "(A) and (B)", "A. or B.", "A/B", "A & B",
    "B; C", "A B", "A\nB",
    "Answer: A and B", "The answer is A or C.", "Answer: A, B", "It could be (A) or (B)", "Both B and C",
    "Either I or J",
    "The answer is A. No, the answer is B.", "A. a dog\nB. a cat\nC. a bird", "A. a dog B. a cat",
    "(A) a dog (B) a cat",
    "A\nB\nC", "\\boxed{A} or \\boxed{B}", "**A** and **B**", "B, C", "options A and B",
    # a letter that is ruled out
    "not A", "It is not B.", "The answer is not A", "It isn't (C).", "B is wrong", "Option A is not right.",
    "not A but B",
    "neither A nor B", "any except C", "A isn't right",
    # letters of words, units, names
    "T-shirt", "A-frame", "B-52", "x-ray", "C's", "I'd", "D'Artagnan", "20 °C", "10 A", "100 J", "e.g. a cat",
    "U.S.", "i.e.",
    "B = 5 cm", "Häuser", "été", "shape(s)", "foo@b",
]  # fmt: skip

# Another letter than one of A to J: only where the label is one.
OTHERS = [
    ("K", "K", 1),
    ("The answer is K.", "K", 1),
    ("Answer: K", "B", 0),
    ("B", "(B)", 1),
    ("b", "B.", 1),
    ("B", "b", 1),
]


@pytest.mark.parametrize("form", FORMS)
def test_a_form_is_read_alike_for_every_letter(form: str) -> None:
    texts = {letter: form.format(letter) for letter in LETTERS}
    for letter, text in texts.items():
        assert metrics.score("multiple_choice", text, letter) == 1, text
        other = "B" if letter != "B" else "A"
        assert metrics.score("multiple_choice", text, other) == 0, text


@pytest.mark.parametrize("text", NONE)
def test_what_settles_on_no_letter(text: str) -> None:
    read = {letter for letter in LETTERS if metrics.score("multiple_choice", text, letter)}
    assert read == ({text.upper()} if text in ("I", "a") else set())  # alone, they are letters


@pytest.mark.parametrize(("text", "label", "expected"), OTHERS)
def test_labels(text: str, label: str, expected: float) -> None:
    assert metrics.score("multiple_choice", text, label) == expected


@pytest.mark.parametrize(
    "form", ["({})", "The answer is {}", "Answer: {}", "{}.", "option {}", "**{}**", "\\boxed{{{}}}"]
)
def test_small_letters_where_no_word_can_stand(form: str) -> None:
    assert [choice(form.format(letter.lower())) for letter in LETTERS] == list(LETTERS)


def test_thoughts_count_for_no_metric() -> None:
    for metric in metrics.names():
        assert metrics.score(metric, "<think>is it 7?</think>\n12", "12") == 1
        assert metrics.score(metric, "<think>12", "12") == 0


_PIECES = [
    "A",
    "B",
    "C",
    "I",
    "a",
    "cat",
    "(A)",
    "(B)",
    "**C**",
    "is",
    "not",
    "or",
    "and",
    ",",
    ".",
    "\n",
    "answer",
    ":",
    "option",
]


def _published(text: str) -> set[str]:
    """Letters that VLMEvalKit's and MMMU's rules could take: words of one letter, once punctuation is gone."""
    return set(re.sub(r"[^\w\n ]", " ", text).upper().split()) & set(LETTERS)


@given(st.lists(st.sampled_from(_PIECES), max_size=8))
def test_never_a_letter_that_the_published_rules_do_not_see(pieces: list[str]) -> None:
    text = " ".join(pieces)
    found = choice(text)
    assert found is None or found in _published(text)
    if len(_published(text)) == 1 and "a" not in text.lower().split() and "i" not in text.lower().split():
        assert found in (None, *_published(text))


@pytest.mark.parametrize(
    "piece", ["*", "(", "A ", "A, ", "answer ", "option  ", " ", "\n", "a.", "<think>", "</think>", "\\a", "A\n"]
)
def test_a_long_response_takes_no_time(piece: str) -> None:
    started = time.process_time()
    metrics.score("multiple_choice", piece * 20_000, "B")
    assert time.process_time() - started < 2
