"""What the responses of a phase are like, before anything is trained on them.

In: the shards. Out: counts and means as `responses.json` beside them: how many groups carry no advantage, since their
responses are all alike or all equally good; how right student and teacher are where a label says so. `reward.policy:
auto` chooses by these figures.
"""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from masters_edge import rewards
from masters_edge.common.files import read_fields, read_json, write_json
from masters_edge.recipe.schema import Reward
from masters_edge.responses import store

FILE = "responses.json"
SCHEMA_VERSION = 2
_COLUMNS = ("question_id", "stage", "student_count", "count", "jsd", "r_acc", "scorer", "label_source", "cut")


@dataclass(frozen=True, slots=True)
class Summary:
    """Counts over a phase's responses, and means in [0, 1].

    `student` and `teacher`: mean R_acc of the responses that each gave to questions with a label of the data set (the
    teacher's own labels would flatter it), None where none was scored.
    `no_advantage`: share of groups whose rewards are all alike. `labelled`: share of groups whose R_acc goes by a label
    of the data set, not by the teacher's own answer. `unscored`: responses that the judge failed on.
    `cut`: responses without an end, since `responses.max_new_tokens` came first; `student_cut` and `teacher_cut` are
    their share of what each said, None where it said nothing.
    """

    groups: int
    responses: int
    distinct: int
    no_advantage: float
    labelled: float
    unscored: int
    student: float | None
    teacher: float | None
    cut: int
    student_cut: float | None
    teacher_cut: float | None

    def sentence(self) -> str:
        """For the screen."""
        per_group = self.responses / self.groups
        parts = [
            f"{self.groups:,} groups, {self.distinct / self.groups:.1f} distinct of {per_group:g} responses each",
            f"{100 * self.no_advantage:.0f}% of the groups carry no advantage",
        ]
        right = [(who, getattr(self, who)) for who in ("student", "teacher") if getattr(self, who) is not None]
        if right:
            parts.append(" and ".join(f"{who} {100 * share:.0f}%" for who, share in right) + " right on labels")
        if self.cut:
            shares = [(who, getattr(self, f"{who}_cut")) for who in ("student", "teacher")]
            of = " and ".join(f"{100 * share:.0f}% of the {who}'s" for who, share in shares if share is not None)
            parts.append(f"{self.cut:,} cut by responses.max_new_tokens, which count as wrong ({of})")
        if self.unscored:
            parts.append(f"{self.unscored:,} responses unscored (the judge failed)")
        return ", ".join(parts)


def of(paths: Iterable[Path], reward: Reward, out: Path) -> Summary:
    """The summary of some shards, from `out` where it stands there already."""
    if out.exists() and not _older(out):
        return read(out)
    found = summarize((row for path in paths for row in _rows(path)), reward)
    write_json(out, {"schema_version": SCHEMA_VERSION, **asdict(found)})
    return found


def _older(path: Path) -> bool:
    """Whether a summary is of the version before, which lacks what was cut: it is summed up anew."""
    try:
        return read_json(path)["schema_version"] == SCHEMA_VERSION - 1
    except (ValueError, KeyError, TypeError):
        return False  # broken: reading it says so


def read(path: Path) -> Summary:
    """A summary that was written before."""
    return read_fields(path, SCHEMA_VERSION, Summary)


def summarize(rows: Iterable[dict[str, Any]], reward: Reward) -> Summary:
    """Over rows of the store, those of a group behind one another; memory stays flat."""
    groups = responses = distinct = alike = labelled = unscored = 0
    right, said = {"student": 0.0, "teacher": 0.0}, {"student": 0.0, "teacher": 0.0}
    cut, drawn = {"student": 0, "teacher": 0}, {"student": 0, "teacher": 0}
    for _, group in groupby(rows, lambda row: (row["stage"], row["question_id"])):
        members = list(group)
        groups += 1
        distinct += len(members)
        responses += sum(row["count"] for row in members)
        scores = rewards.score(members, reward)
        alike += not scores.advantage.any()
        unscored += sum(row["count"] for row, counted in zip(members, scores.counted) if not counted)
        for row in members:
            for who, count in _by_whom(row):
                drawn[who] += count
                cut[who] += count * row["cut"]
        by_label = [row for row in members if row["r_acc"] is not None and row["label_source"] == "label"]
        labelled += bool(by_label)
        for row in by_label:
            for who, count in _by_whom(row):
                right[who] += row["r_acc"] * count
                said[who] += count
    scored = {who: right[who] / said[who] if said[who] else None for who in said}
    short = {who: cut[who] / drawn[who] if drawn[who] else None for who in cut}
    every = max(1, groups)
    return Summary(
        groups,
        responses,
        distinct,
        alike / every,
        labelled / every,
        unscored,
        student=scored["student"],
        teacher=scored["teacher"],
        cut=sum(cut.values()),
        student_cut=short["student"],
        teacher_cut=short["teacher"],
    )


def _by_whom(row: dict[str, Any]) -> tuple[tuple[str, int], tuple[str, int]]:
    """How often each of the two said it."""
    of_student = row["student_count"] or 0
    return ("student", of_student), ("teacher", row["count"] - of_student)


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    yield from store.read(path, _COLUMNS)


def in_order(found: Iterable[Path]) -> list[Path]:
    """Each shard once, in the order of first use."""
    return list(dict.fromkeys(found))
