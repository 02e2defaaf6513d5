"""`masters-edge judge`: does the judge score as the rules do, where rules can score?

In: responses with a label and a rule, from a run's response store or a JSON lines file. Out: agreement.md and
agreement.json: share of agreement with its interval, Cohen's kappa, confusion table, what stayed unscored, and every
disagreement with the judge's own words. One response a question, so that the interval counts independent cases.
"""

import hashlib
import heapq
import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from masters_edge import recipe as recipes
from masters_edge.agreement.statistics import Agreement
from masters_edge.common.display import progress, say
from masters_edge.common.errors import UserError
from masters_edge.common.files import write_json, write_text
from masters_edge.data.records import Question
from masters_edge.recipe import Recipe
from masters_edge.rewards.accuracy import JUDGE, Scorer
from masters_edge.rewards.judge import prompt, resolved
from masters_edge.rewards.verdicts import Item, Verdict
from masters_edge.run import folder as runs
from masters_edge.scoring import metrics

SHOWN = 20  # disagreements in the Markdown; the JSON has all
_COLUMNS = ("question_id", "text", "label", "label_source", "metric")


@dataclass(frozen=True, slots=True)
class ScoredTwice:
    """A response, as the rule scored it and as the judge did. A partial score (anls, vqa_accuracy) counts as 1 from 0.5
    on, since the judge knows 0 and 1 alone."""

    item: Item
    by_rule: float
    verdict: Verdict

    @property
    def rule_says(self) -> bool:
        return self.by_rule >= 0.5

    @property
    def judge_says(self) -> bool | None:
        return None if self.verdict.score is None else self.verdict.score >= 0.5

    def row(self) -> dict[str, Any]:
        return {
            "question_id": self.item.question_id,
            "question": self.item.question,
            "accepted": list(dict.fromkeys(self.item.accepted)),
            "response": self.item.response,
            "metric": self.item.metric,
            "rule": self.by_rule,
            "judge": self.verdict.score,
            "why": self.verdict.why,
        }


def report(
    recipe_path: Path,
    overrides: Sequence[str] = (),
    *,
    questions: int = 200,
    responses: Path | None = None,
    rule: str | None = None,
    out: Path | None = None,
) -> Path:
    """Ask the recipe's judge about a sample of responses, compare with the rules, write the report; returns its folder.

    Args:
        recipe_path: names the judge (`reward.judge`), the seed, and the run whose responses are read.
        questions: how many questions to sample, one response each.
        responses: a JSON lines file with question, response, answer (a text or several) and, if need be, metric; None:
            the run's response store.
        rule: scores responses that have no rule of their own.
        out: folder for the report; default `judge` in the run folder, or `<file>-judge` beside the file.

    Raises:
        UserError: no judge, no responses, no rule for any of them, a judge that can't be reached.
    """
    # A recipe whose questions all have rules may try a judge, too.
    recipe = recipes.load(recipe_path, [*overrides, f"reward.metric={JUDGE}"])
    assert recipe.reward.judge is not None  # the schema asks for one where the metric is `judge`
    if rule is not None:
        metrics.get(rule)
    reward = recipe.reward.model_copy(update={"judge": resolved(recipe.reward.judge, recipe_path)})
    if responses is not None:
        items: Iterator[Item] = _of_file(responses, rule)
        folder = out or responses.with_name(f"{responses.stem}-judge")
    else:
        run = runs.Run(runs.folder_of(recipe, recipe_path))
        run.info()
        items = _of_store(run, _questions(recipe, recipe_path), rule)
        folder = out or run.folder / "judge"
    asked = sample(items, questions, recipe.seed)
    if not asked:
        raise UserError(
            f"there is no response that a rule scores in {responses or run.folder}; run masters-edge generate first, "
            "or name the rule with --rule where the responses' own metric is the judge"
        )
    with Scorer(reward, folder) as scorer, progress(f"asking {recipe.reward.judge.model}", len(asked)) as bar:
        started = time.monotonic()
        verdicts = scorer.score([_for_the_judge(item) for item in asked], lambda count: bar(advance=count))
        seconds = time.monotonic() - started
    cases = [
        ScoredTwice(item, metrics.best_score(item.metric, item.response, item.accepted), verdict)
        for item, verdict in zip(asked, verdicts)
    ]
    found = summary(cases, reward.judge.model, reward.judge.url, recipe.seed, seconds)  # type: ignore[union-attr]
    write_json(folder / "agreement.json", found)
    write_text(folder / "agreement.md", markdown(found))
    say(headline(found))
    say(f"report: {folder / 'agreement.md'}")
    return folder


def sample(items: Iterable[Item], count: int, seed: int) -> list[Item]:
    """One response of each of `count` questions, chosen by the seed alone: neither order nor repeats change which.
    Streams; holds two samples at most."""

    def rank(*what: str) -> bytes:
        return hashlib.blake2b(repr((seed, *what)).encode("utf-8", "surrogatepass"), digest_size=16).digest()

    kept: dict[str, tuple[bytes, bytes, Item]] = {}
    for item in items:
        place = rank(item.question_id)
        within = rank(item.question_id, item.response)
        if item.question_id not in kept or within < kept[item.question_id][1]:
            kept[item.question_id] = (place, within, item)
        if len(kept) > 2 * count + 1000:
            kept = {best[2].question_id: best for best in heapq.nsmallest(count, kept.values(), key=lambda k: k[0])}
    return [item for _, _, item in heapq.nsmallest(count, kept.values(), key=lambda k: k[0])]


def _for_the_judge(item: Item) -> Item:
    return Item(item.question_id, item.question, item.response, item.accepted, JUDGE)


def _questions(recipe: Recipe, recipe_path: Path) -> dict[str, Question]:
    from masters_edge.data.questions import read_questions

    return {question.id: question for question in read_questions(recipe, recipe_path).train}


def _of_store(run: runs.Run, questions: Mapping[str, Question], rule: str | None) -> Iterator[Item]:
    """Labelled responses of all phases, each with the rule that scored it, or `rule` where the judge did."""
    from masters_edge.responses import store

    for folder in sorted(run.folder.glob("phase-*/responses")):
        for batch in store.scan(folder, _COLUMNS):
            for row in batch.to_pylist():
                question = questions.get(row["question_id"])
                metric = row["metric"] if row["metric"] != JUDGE else rule
                if row["label"] is None or question is None or metric is None:
                    continue
                accepted = question.accepted if row["label_source"] == "label" else (row["label"],)
                yield Item(question.id, question.text, row["text"], accepted or (row["label"],), metric)


def _of_file(path: Path, rule: str | None) -> Iterator[Item]:
    try:
        lines = path.open(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path} can't be read ({error.strerror}); give a JSON lines file with responses") from None
    with lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                yield _item(line, f"{path}, line {number}", rule)


def _item(line: str, place: str, rule: str | None) -> Item:
    expected = 'expected {"question": "...", "response": "...", "answer": "..." or ["...", ...]}'
    try:
        row = json.loads(line)
    except ValueError as error:
        raise UserError(f"{place} is no JSON ({error}); {expected}") from None
    if not isinstance(row, dict):
        raise UserError(f"{place} is no object; {expected}")
    answer = row.get("answer")
    accepted = tuple(answer) if isinstance(answer, list) else (answer,)
    texts = [row.get("question"), row.get("response"), *accepted]
    if not accepted or not all(isinstance(text, str) for text in texts) or not any(text.strip() for text in accepted):
        raise UserError(f"{place}: question, response or answer is missing or no text; {expected}")
    metric = row.get("metric", rule)
    if metric == JUDGE or metric is None:
        metric = rule
    if metric is None:
        raise UserError(f"{place}: no rule is named to compare the judge with; add a `metric`, or give --rule")
    if metric not in metrics.names():
        raise UserError(f"{place}: there is no metric {metric!r}; use one of: {', '.join(metrics.names())}")
    return Item(str(row.get("id", row["question"])), row["question"], row["response"], accepted, metric)


def summary(cases: Sequence[ScoredTwice], model: str, url: str | None, seed: int, seconds: float) -> dict[str, Any]:
    """What the report says, as JSON."""
    scored = [case for case in cases if case.judge_says is not None]
    agreement = Agreement.of([case.rule_says for case in scored], [bool(case.judge_says) for case in scored])
    return {
        "judge": model,
        "url": url,
        "prompt_version": prompt.VERSION,
        "metrics": sorted({case.item.metric for case in cases}),
        "seed": seed,
        "seconds": round(seconds, 1),
        "questions": len(cases),
        "scored": agreement.scored,
        "unscored": len(cases) - agreement.scored,
        "agreement": agreement.share,
        "agreement_interval": agreement.interval,
        "kappa": agreement.kappa,
        "confusion": {f"rule {r}, judge {j}": agreement.confusion[r][j] for r in (1, 0) for j in (1, 0)},
        "disagreements": [case.row() for case in scored if case.judge_says != case.rule_says],
        "unscored_responses": [case.row() for case in cases if case.judge_says is None],
    }


def headline(found: Mapping[str, Any]) -> str:
    asked = f"{found['scored']} of {found['questions']} responses scored by {found['judge']}"
    if found["agreement"] is None:
        return f"{asked}; nothing to compare"
    low, high = found["agreement_interval"]
    kappa = "no kappa (both always say the same)" if found["kappa"] is None else f"kappa {found['kappa']:.2f}"
    return (
        f"{asked}; agreement with {', '.join(found['metrics'])}: {100 * found['agreement']:.1f}% "
        f"({100 * low:.1f} to {100 * high:.1f}), {kappa}"
    )


def markdown(found: Mapping[str, Any]) -> str:
    """The report for people."""
    confusion = found["confusion"]
    lines = [
        "# The judge against rules",
        "",
        f"{headline(found)}. Interval: 95%, Wilson. {found['unscored']} unscored. "
        f"Judge: {found['judge']}{' at ' + found['url'] if found['url'] else ', in this process'}, prompt version "
        f"{found['prompt_version']}; one response a question, seed {found['seed']}; {found['seconds']} s "
        "(kept verdicts take none).",
        "",
        "| | judge: right | judge: wrong |",
        "|---|---|---|",
        f"| rule: right | {confusion['rule 1, judge 1']} | {confusion['rule 1, judge 0']} |",
        f"| rule: wrong | {confusion['rule 0, judge 1']} | {confusion['rule 0, judge 0']} |",
    ]
    for title, rows in (("Disagreements", found["disagreements"]), ("Unscored", found["unscored_responses"])):
        if not rows:
            continue
        more = f" (the first {SHOWN} of {len(rows)}; all are in agreement.json)" if len(rows) > SHOWN else ""
        lines += ["", f"## {title}{more}", "", "| question | accepted | response | rule | judge | its words |"]
        lines += ["|---|---|---|---|---|---|"]
        for row in rows[:SHOWN]:
            judge, accepted = "-" if row["judge"] is None else f"{row['judge']:g}", " / ".join(row["accepted"])
            cells = [row["question"], accepted, row["response"], f"{row['rule']:g}", judge, row["why"]]
            lines.append("| " + " | ".join(map(_cell, cells)) + " |")
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    """Text inside a Markdown table: one line, at most 200 characters, nothing that ends the cell or passes for HTML."""
    line = " ".join(text.split())
    line = line if len(line) <= 200 else f"{line[:200]}..."
    return line.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("`", "\\`")
