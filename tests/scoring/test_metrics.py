import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from rapidfuzz.distance import Levenshtein

from masters_edge.common.errors import UserError
from masters_edge.scoring import metrics


@pytest.mark.parametrize(
    ("metric", "response", "answer", "expected"),
    [
        ("exact_match", " Blue. ", "blue", 1),
        ("exact_match", "dark\n blue", "dark blue", 1),
        ("exact_match", "blue..", "blue", 0),
        ("exact_match", "blue square", "blue", 0),
        ("exact_match", "", "blue", 0),
        ("relaxed_accuracy", "105", "100", 1),
        ("relaxed_accuracy", "105.1", "100", 0),
        ("relaxed_accuracy", "95", "100", 1),
        ("relaxed_accuracy", "94.9", "100", 0),
        ("relaxed_accuracy", "-100", "100", 0),
        ("relaxed_accuracy", "1,040", "1000", 1),
        ("relaxed_accuracy", "0.51", "50%", 1),
        ("relaxed_accuracy", "50", "50%", 0),
        ("relaxed_accuracy", "0", "0", 1),
        ("relaxed_accuracy", "0.0", "0", 1),
        ("relaxed_accuracy", "0.01", "0", 0),
        ("relaxed_accuracy", "Germany", "germany.", 1),
        ("relaxed_accuracy", "about 100", "100", 0),
        ("relaxed_accuracy", "1e999", "100", 0),
        ("relaxed_accuracy", "nan", "100", 0),
        ("anls", "hello", "Hello", 1),
        ("anls", "hallo", "hello", 0.8),
        ("anls", "ab", "ac", 0.5),
        ("anls", "abc", "axy", 0),
        ("anls", "", "hello", 0),
        ("multiple_choice", "B", "B", 1),
        ("multiple_choice", "(b)", "B", 1),
        ("multiple_choice", "B. a cat", "B", 1),
        ("multiple_choice", "The answer is B.", "(B)", 1),
        ("multiple_choice", "Answer: C", "B", 0),
        ("multiple_choice", "It could be (A) or (B)", "B", 0),
        ("multiple_choice", "I think it is option B", "B", 1),
        ("multiple_choice", "A cat sits there", "A", 0),
        ("multiple_choice", "Both B and C", "C", 0),
        ("multiple_choice", "", "A", 0),
        ("multiple_choice", "yes", "yes", 1),
        ("vqa_accuracy", "The two dogs.", "2 dogs", 1),
        ("vqa_accuracy", "don't know", "dont know", 1),
        ("vqa_accuracy", "yes", "no", 0),
        ("quantity", "5 km", "5000 m", 1),
        ("quantity", "5km", "5,000 m", 1),
        ("quantity", "5 kg", "5 km", 0),
        ("quantity", "5 KM", "5 km", 1),
        ("quantity", "5 m", "5 km", 0),
        ("quantity", "5", "5 km", 1),
        ("quantity", "5 km", "5", 1),
        ("quantity", "5000", "5 km", 0),
        ("quantity", "12%", "0.12", 1),
        ("quantity", "12 %", "12", 1),
        ("quantity", "12 per cent", "12%", 1),
        ("quantity", "13%", "12%", 0),
        ("quantity", "68 °F", "20 °C", 1),
        ("quantity", "20 degrees Celsius", "20°C", 1),
        ("quantity", "20 °F", "20 °C", 0),
        ("quantity", "36 km/h", "10 m/s", 1),
        ("quantity", "10 square meters", "10 m²", 1),
        ("quantity", "10 m⁻¹", "0.1 cm^-1", 1),
        ("quantity", "3.142 m", "3.14 m", 1),
        ("quantity", "3.2 m", "3.14 m", 0),
        ("quantity", "2011", "2010", 0),
        ("quantity", "101", "100", 0),
        ("quantity", "1/2", "0.5", 1),
        ("quantity", "−5 °C", "-5 °C", 1),
        ("quantity", "-5", "5", 0),
        ("quantity", "$3 million", "3,000,000 dollars", 1),
        ("quantity", "€3", "$3", 0),
        ("quantity", "0.5 hours.", "30 minutes", 1),
        ("quantity", "5 apples", "5 apple", 1),
        ("quantity", "5 pears", "5 apples", 0),
        ("quantity", "0 m", "0 cm", 1),
        ("quantity", "1e300000", "5", 0),
        ("quantity", "about 5 km", "5 km", 0),
        ("quantity", "Germany", "germany", 1),
        ("quantity", "", "5 km", 0),
    ],
)
def test_scores(metric: str, response: str, answer: str, expected: float) -> None:
    assert metrics.score(metric, response, answer) == pytest.approx(expected)


@settings(deadline=None)  # the first call loads pint's units
@given(st.sampled_from(metrics.names()), st.text(max_size=40), st.text(max_size=40))
def test_every_score_lies_in_0_to_1_and_nothing_raises(metric: str, response: str, answer: str) -> None:
    assert 0 <= metrics.score(metric, response, answer) <= 1


@settings(deadline=None)  # the first call loads pint's units
@given(st.sampled_from(metrics.names()), st.lists(st.text(max_size=20), min_size=1, max_size=10), st.text(max_size=20))
def test_several_answers_score_within_0_to_1_and_a_single_label_met_scores_1(
    metric: str, answers: list[str], response: str
) -> None:
    assert 0 <= metrics.best_score(metric, response, answers) <= 1
    if metric != "multiple_choice":  # a label of two letters ("(A) or (B)") settles on none
        assert metrics.best_score(metric, answers[0], answers[:1]) == 1
        assert metrics.best_score(metric, answers[0], answers[:1] * 5) == 1


@settings(deadline=None)  # the first call loads pint's units
@example("0", "\u0e33")  # normalises to two characters, the first of which is no name
@given(st.from_regex(r"[-+$]?[0-9]{1,4}[.,]?[0-9]{0,3} ?[a-zA-Z%°^*/² -]{0,8}", fullmatch=True), st.text(max_size=9))
def test_quantities_of_any_spelling_score_0_or_1_and_equal_themselves(text: str, other: str) -> None:
    assert metrics.score("quantity", text, text) == 1
    assert metrics.score("quantity", text, text + other) in (0, 1)


TEN = ["yes"] * 3 + ["no"] * 7


@pytest.mark.parametrize(
    ("response", "answers", "expected"),
    [  # by hand from the formula: each person's answer left out in turn, min(others who agree / 3, 1)
        ("yes", ["yes"] * 10, 1),
        ("yes", TEN, (3 * 2 / 3 + 7 * 1) / 10),
        ("no", TEN, 1),
        ("yes", ["yes"] * 2 + ["no"] * 8, (2 * 1 / 3 + 8 * 2 / 3) / 10),
        ("yes", ["yes"] + ["no"] * 9, 9 * (1 / 3) / 10),
        ("maybe", TEN, 0),
        ("Yes.", TEN, 0.9),
        ("YES", ["yes"] * 10, 1),
        ("a red, car", ["red car"] * 4 + ["truck"] * 6, 1),
        ("one", ["1"] * 10, 1),
        ("none", ["0"] * 10, 1),
        ("1,000", ["1000"] * 10, 1),
        ("3.5", ["3.5"] * 10, 1),
        ("t-shirt", ["t shirt"] * 10, 1),
        ("t - shirt", ["t shirt"] * 10, 1),
        ("don\u2019t", ["dont"] * 10, 1),
        # Ours, with fewer than four answers: all the others agree.
        ("yes", ["yes"], 1),
        ("no", ["yes"], 0),
        ("yes", ["yes", "yes", "no"], (2 * 1 / 2 + 1) / 3),
        ("yes", ["yes", "no"], 0.5),
    ],
)
def test_vqa_accuracy_counts_the_votes(response: str, answers: list[str], expected: float) -> None:
    assert metrics.best_score("vqa_accuracy", response, answers) == pytest.approx(expected)


@given(st.lists(st.sampled_from(["yes", "no", "maybe", "a cat"]), min_size=4, max_size=12), st.sampled_from("ynm"))
def test_vqa_accuracy_equals_its_definition(answers: list[str], initial: str) -> None:
    response = {"y": "yes", "n": "no", "m": "maybe"}[initial]
    subsets = [answers[:left_out] + answers[left_out + 1 :] for left_out in range(len(answers))]
    expected = sum(min(subset.count(response) / 3, 1) for subset in subsets) / len(subsets)
    assert metrics.best_score("vqa_accuracy", response, answers) == pytest.approx(expected)


def test_the_best_of_several_answers_counts() -> None:
    assert metrics.best_score("anls", "hallo", ["hello", "hallo"]) == 1
    assert metrics.best_score("quantity", "5 km", ["3 mi", "5000 m"]) == 1


@given(st.text(max_size=30), st.text(max_size=30))
def test_anls_equals_rapidfuzz(response: str, answer: str) -> None:
    said, label = (" ".join(text.split()).casefold() for text in (response, answer))
    similarity = Levenshtein.normalized_similarity(said, label)
    assert metrics.score("anls", response, answer) == pytest.approx(similarity if similarity >= 0.5 else 0)


_CHART = st.sampled_from(
    ["0", "1", "-1", "100", "105", "94.9", "95", "0.5", "50%", "52%", "47%", "1e3", "red", "Red", ""]
)


@given(_CHART, _CHART)
def test_relaxed_accuracy_equals_the_published_rule(response: str, answer: str) -> None:
    def number(text: str) -> float | None:
        try:
            return float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
        except ValueError:
            return None

    said, label = number(response), number(answer)
    within = said is not None and label and abs(said - label) / abs(label) <= 0.05
    expected = within if said is not None and label else response.lower() == answer.lower()
    assert metrics.score("relaxed_accuracy", response, answer) == float(bool(expected))


@given(st.text(alphabet="abc", max_size=6), st.text(alphabet="abc", max_size=6))
def test_edit_distance_equals_its_definition(a: str, b: str) -> None:
    def distance(a: str, b: str) -> int:
        if not a or not b:
            return len(a) + len(b)
        if a[0] == b[0]:
            return distance(a[1:], b[1:])
        return 1 + min(distance(a[1:], b), distance(a, b[1:]), distance(a[1:], b[1:]))

    longest = max(len(a), len(b)) or 1
    similarity = 1 - distance(a, b) / longest
    assert metrics.score("anls", a, b) == pytest.approx(similarity if similarity >= 0.5 else 0)


def test_unknown_metric_names_the_nearest() -> None:
    with pytest.raises(UserError, match="no metric 'exact_mach'; did you mean 'exact_match'"):
        metrics.score("exact_mach", "a", "a")
    with pytest.raises(UserError, match="use one of: anls, exact_match"):
        metrics.get("zzz")


@pytest.mark.parametrize(
    ("right", "asked", "low", "high"),  # Newcombe 1998, table I, method 3
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_interval_against_published_values(right: int, asked: int, low: float, high: float) -> None:
    assert metrics.wilson_interval(right, asked) == pytest.approx((low, high), abs=5e-5)


@given(st.integers(1, 10_000).flatmap(lambda n: st.tuples(st.floats(0, n), st.just(n))))
def test_wilson_interval_holds_the_share(pair: tuple[float, int]) -> None:
    right, asked = pair
    low, high = metrics.wilson_interval(right, asked)
    assert 0 <= low <= right / asked <= high <= 1


def test_wilson_interval_refuses_nonsense() -> None:
    for right, asked in ((1, 0), (3, 2), (-1, 2)):
        with pytest.raises(ValueError, match="right must lie"):
            metrics.wilson_interval(right, asked)
