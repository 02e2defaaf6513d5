"""R_acc of one response: any accepted answer counts, and who gave the label is kept."""

from pathlib import Path
from types import SimpleNamespace

from masters_edge.data.records import Question
from masters_edge.recipe import Recipe
from masters_edge.responses.generate import Generator


def fields(question: Question, text: str, labels: dict[str, str] | None = None, **reward: object) -> dict:
    recipe = Recipe(student="s", teachers=["t"], data={"train": {"source": "x"}}, reward=reward)
    return Generator._reward_fields(SimpleNamespace(recipe=recipe), question, text, labels or {})  # type: ignore[arg-type]


def question(answer: str | None = None, answers: tuple[str, ...] = ()) -> Question:
    return Question("1", "what?", Path("a.png"), "a", answer, answers)


def test_any_accepted_answer_is_right() -> None:
    several = question("grey", ("grey", "gray"))
    assert [fields(several, text)["r_acc"] for text in ("gray", "grey", "red")] == [1.0, 1.0, 0.0]
    assert fields(several, "gray")["label_source"] == "label"


def test_without_a_label_the_teacher_speaks_and_without_both_nobody_scores() -> None:
    found = fields(question(), "red", {"1": "red"})
    assert (found["r_acc"], found["label_source"]) == (1.0, "teacher")
    nobody = fields(question(), "red")
    assert nobody["r_acc"] is None and nobody["label_source"] is None
    assert fields(question("red"), "red", accuracy=False)["r_acc"] is None
