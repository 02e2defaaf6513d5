"""The agreement report: statistics against a kept library, sampling, a file and a run's store, mistakes."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score
from typer.testing import CliRunner

from masters_edge.agreement import command as agreement
from masters_edge.agreement.statistics import Agreement
from masters_edge.cli import app
from masters_edge.common.errors import UserError
from masters_edge.data import easy_vqa
from masters_edge.responses import store
from masters_edge.rewards.verdicts import Item
from tests.rewards.judge.server import judge_server

RECIPE = """
student: student
teachers: [teacher]
seed: 3
data: {{train: {{source: easy-vqa, split: train}}, limit: 50, held_out: 0}}
run_dir: {run}
reward: {{judge: {{model: grader, url: "{url}", retries: 0}}}}
"""


def recipe(folder: Path, url: str) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(RECIPE.format(run=folder / "run", url=url))
    return path


def responses(folder: Path, rows: list[dict[str, Any]]) -> Path:
    path = folder / "said.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n\n")
    return path


def row(number: int, response: str, answer: Any = "blue", **more: Any) -> dict[str, Any]:
    return {"id": number, "question": f"what color is shape {number}?", "response": response, "answer": answer} | more


def lenient(prompt: str) -> str:
    """A judge that takes any colour for right, and can't make up its mind about shapes."""
    response = prompt.split("<response>\n")[-1].split("\n</response>")[0]
    if "<explanation>" in prompt or "shape" in response:
        return "Hm."
    return f"A | colour, or `not`. <score>{int(response in ('red', 'blue'))}</score>"


@settings(deadline=None)  # the first call imports
@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=40))
def test_kappa_equals_scikit_learns(pairs: list[tuple[bool, bool]]) -> None:
    rule, judge = zip(*pairs)
    found = Agreement.of(rule, judge)
    assert found.share == pytest.approx(sum(r == j for r, j in pairs) / len(pairs))
    assert found.interval is not None and found.interval[0] <= found.share <= found.interval[1]
    if len(set(rule + judge)) == 1:
        assert found.kappa is None  # scikit-learn: nan
    else:
        assert found.kappa == pytest.approx(cohen_kappa_score(rule, judge), abs=1e-12)


def test_an_example_of_kappa_by_hand() -> None:
    found = Agreement(((15, 10), (5, 20)))  # 0.7 observed, 0.5 by chance
    assert (found.scored, found.share, found.kappa) == (50, 0.7, pytest.approx(0.4))
    assert Agreement(((0, 0), (0, 0))).share is None


@settings(deadline=None)  # the first call imports
@given(st.permutations(range(30)), st.integers(0, 3))
def test_the_sample_depends_on_the_seed_alone(order: list[int], seed: int) -> None:
    items = [Item(str(n % 10), "q", f"response {n}", ("a",), "exact_match") for n in range(30)]
    chosen = agreement.sample([items[n] for n in order] + items, 4, seed)
    assert chosen == agreement.sample(items, 4, seed)
    assert len({item.question_id for item in chosen}) == 4


def test_a_sample_of_many_is_the_same_as_of_all_at_once() -> None:
    items = [Item(str(n), "q", "r", ("a",), "exact_match") for n in range(5000)]
    few = agreement.sample(items, 5, seed=1)
    assert few == agreement.sample(items, 4000, seed=1)[:5] == agreement.sample(reversed(items), 5, seed=1)


def test_report_on_a_file(tmp_path: Path) -> None:
    rows = [
        *(row(n, "blue") for n in range(6)),
        row(6, "red"),  # the judge is wrong
        row(7, "teal", answer=["teal", "cyan"], metric="anls"),  # and here
        row(8, "a shape"),
        row(9, "none of it"),
    ]
    with judge_server(lenient) as server:
        command = [
            "judge",
            str(recipe(tmp_path, server.url)),
            "--responses",
            str(responses(tmp_path, rows)),
            "--rule",
            "exact_match",
        ]
        result = CliRunner().invoke(app, command, catch_exceptions=False)
        assert result.exit_code == 0, result.output
        asked = len(server.asked)
        assert CliRunner().invoke(app, command, catch_exceptions=False).exit_code == 0
        assert len(server.asked) == asked, "verdicts are kept beside the report"
    assert "9 of 10 responses scored by grader" in result.output.replace("\n", " ")
    found = json.loads((tmp_path / "said-judge" / "agreement.json").read_text())
    assert (found["questions"], found["scored"], found["unscored"]) == (10, 9, 1)
    assert found["confusion"] == {
        "rule 1, judge 1": 6,
        "rule 1, judge 0": 1,
        "rule 0, judge 1": 1,
        "rule 0, judge 0": 1,
    }
    assert found["agreement"] == pytest.approx(7 / 9)
    assert found["kappa"] == pytest.approx(cohen_kappa_score([1] * 6 + [0, 1, 0], [1] * 6 + [1, 0, 0]))
    assert found["metrics"] == ["anls", "exact_match"] and found["prompt_version"] == 1
    assert {r["response"]: (r["rule"], r["judge"]) for r in found["disagreements"]} == {"red": (0, 1), "teal": (1, 0)}
    assert [(r["response"], r["judge"], r["why"]) for r in found["unscored_responses"]] == [("a shape", None, "Hm.")]
    text = (tmp_path / "said-judge" / "agreement.md").read_text()
    assert "| rule: right | 6 | 1 |" in text and "1 unscored" in text and "## Unscored" in text
    assert "teal / cyan" in text and "A \\| colour, or \\`not\\`. &lt;score>1" in text


def test_report_on_a_runs_store(tmp_path: Path) -> None:
    asked = easy_vqa.read("train")
    run = tmp_path / "run"
    with judge_server(lambda p: f"<score>{int('right' in p.split('<response>')[1])}</score>") as server:
        path = recipe(tmp_path, server.url)
        with pytest.raises(UserError, match="no run folder"):
            agreement.report(path)
        assert not run.exists(), "a folder that distill would stumble over"
        (run / "phase-0-joint" / "responses").mkdir(parents=True)
        (run / "run.json").write_text('{"schema_version": 1}')
        from masters_edge.data.questions import read_questions
        from masters_edge.recipe import load

        asked = read_questions(load(path, ["reward.metric=judge"]), path).train
        common = dict(stage=0, teacher=0, ratio=0.2, source="student", token_ids=[1], log_probs=[0.0], jsd=0.1)
        rows = []
        for number, question in enumerate(asked[:20]):
            text = f"{'right' if number % 4 else 'wrong'} {number}"
            label = None if number == 19 else text if number % 2 else "other"  # a teacher's label
            scored = dict(label=label, label_source="teacher" if label else None, metric="exact_match")
            by = dict(r_acc=float(label == text), scorer="rule:exact_match")
            rows.append(store.Response(question.id, text=text, count=1, **common, **scored, **by))
        store.write(run / "phase-0-joint" / "responses" / "stage-00" / "part-00000.parquet", rows)
        folder = agreement.report(path, questions=100)
    assert folder == run / "judge"
    found = json.loads((folder / "agreement.json").read_text())
    assert found["questions"] == 19, "a response without a label has nothing to be compared with"
    assert found["confusion"] == {
        "rule 1, judge 1": 9,
        "rule 1, judge 0": 0,
        "rule 0, judge 1": 5,
        "rule 0, judge 0": 5,
    }
    assert {d["question"] for d in found["disagreements"]} <= {q.text for q in asked}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "line 1 is no JSON .*expected"),
        ("[1]", "line 1 is no object; expected"),
        ('{"question": "q", "response": "r"}', "line 1: question, response or answer is missing"),
        ('{"question": "q", "response": "r", "answer": []}', "line 1: question, response or answer is missing"),
        ('{"question": "q", "response": 3, "answer": "a"}', "line 1: question, response or answer is missing"),
        ('\n{"question": "q", "response": "r", "answer": "a", "metric": "anl"}', "line 2: there is no metric 'anl'"),
        ("", "no response that a rule scores"),
    ],
)
def test_a_users_mistakes_in_a_file(tmp_path: Path, content: str, said: str) -> None:
    file = tmp_path / "said.jsonl"
    file.write_text(content)
    with pytest.raises(UserError, match=said):
        agreement.report(recipe(tmp_path, "http://127.0.0.1:9/v1"), responses=file)


def test_other_mistakes(tmp_path: Path) -> None:
    path, file = recipe(tmp_path, "http://127.0.0.1:9/v1"), responses(tmp_path, [row(1, "red")])
    with pytest.raises(UserError, match="reward.judge names none; give reward.judge.model"):
        agreement.report(path, ["reward.judge=null"], responses=file)
    with pytest.raises(UserError, match="no metric 'exact'; did you mean 'exact_match'"):
        agreement.report(path, responses=file, rule="exact")
    with pytest.raises(UserError, match="nothing.jsonl can't be read"):
        agreement.report(path, responses=tmp_path / "nothing.jsonl")
    with pytest.raises(UserError, match="no rule is named .*--rule"):
        agreement.report(path, responses=file)
    with pytest.raises(UserError, match="doesn't answer"):
        agreement.report(path, responses=file, rule="exact_match")
