import pytest
from hypothesis import given
from hypothesis import strategies as st

from masters_edge.benchmarks import metrics
from masters_edge.errors import UserError


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
    ],
)
def test_scores(metric: str, response: str, answer: str, expected: float) -> None:
    assert metrics.score(metric, response, answer) == pytest.approx(expected)


@given(st.sampled_from(metrics.names()), st.text(max_size=40), st.text(max_size=40))
def test_every_score_lies_in_0_to_1_and_nothing_raises(metric: str, response: str, answer: str) -> None:
    assert 0 <= metrics.score(metric, response, answer) <= 1


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
