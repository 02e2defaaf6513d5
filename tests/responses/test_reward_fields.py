"""Label and R_acc of responses: any accepted answer counts, and who gave the label is kept."""

from pathlib import Path
from types import SimpleNamespace

from masters_edge.data.records import Question
from masters_edge.recipe import Recipe
from masters_edge.responses.generate import Generator
from masters_edge.responses.store import Response
from masters_edge.rewards.accuracy import Scorer


def scored(
    question: Question, text: str, labels: dict[str, str] | None = None, shared: str | None = None, **reward: object
) -> Response:
    responses = {"shared": shared}
    recipe = Recipe(student="s", teachers=["t"], data={"train": {"source": "x"}}, reward=reward, responses=responses)
    row = Response("1", 0, 0, 0.0, "both", [1], text, 1, [-1.0], 0.1, None, None, "", None, None)
    generator: Generator = SimpleNamespace(recipe=recipe)  # type: ignore[assignment]
    Generator._accuracy(generator, [row], [question], labels or {}, Scorer(recipe.reward, Path("unused")))
    return row


def question(answer: str | None = None, answers: tuple[str, ...] = (), metric: str | None = None) -> Question:
    return Question("1", "what?", Path("a.png"), "a", answer, answers, metric)


def test_any_accepted_answer_is_right() -> None:
    several = question("grey", ("grey", "gray"))
    assert [scored(several, text).r_acc for text in ("gray", "grey", "red")] == [1.0, 1.0, 0.0]
    found = scored(several, "gray")
    assert (found.label, found.label_source, found.scorer) == ("grey", "label", "rule:exact_match")


def test_without_a_label_the_teacher_speaks_and_without_both_nobody_scores() -> None:
    found = scored(question(), "red", {"1": "red"})
    assert (found.r_acc, found.label_source) == (1.0, "teacher")
    nobody = scored(question(), "red")
    assert nobody.r_acc is None and nobody.label_source is None and nobody.scorer is None


def test_nothing_is_scored_that_no_reward_counts_unless_other_runs_may_want_it() -> None:
    assert scored(question("red"), "red", accuracy=False).r_acc is None
    assert scored(question("red"), "red", accuracy=False, shared="folder").r_acc == 1.0


def test_a_question_has_a_rule_of_its_own() -> None:
    assert scored(question("100", metric="relaxed_accuracy"), "103").r_acc == 1.0
    assert scored(question("100"), "103").r_acc == 0.0
    assert scored(question("100", metric="relaxed_accuracy"), "103").metric == "relaxed_accuracy"
