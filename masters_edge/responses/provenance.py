"""Where responses come from: what stands beside every row, and the key under which several runs share shards.

Two runs may read the same shard where everything is equal that decides what is in it: models, masks, questions,
sampling and seed for what was drawn; labels, rule and judge as well once it is scored. The key is a digest of just
that.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from masters_edge.common.files import write_json
from masters_edge.data.records import Question
from masters_edge.families import templates
from masters_edge.families.prompts import Prompter
from masters_edge.recipe import Recipe
from masters_edge.recipe.schedule import Stage
from masters_edge.recipe.schema import Endpoint
from masters_edge.responses.store import SCHEMA_VERSION
from masters_edge.rewards.judge.prompt import VERSION as judge_prompt
from masters_edge.teacher.chain import TeacherChain

_SAMPLING = ("student", "teacher", "temperature", "top_p", "top_k", "repetition_penalty", "max_new_tokens")
DESCRIPTION = "key.json"


@dataclass(frozen=True, slots=True)
class Fingerprints:
    """Fingerprints of what a phase generates from: the student it starts with, the teachers, the data set with and
    without its labels."""

    student: str
    teachers: Sequence[str]
    data: str
    unlabelled: str


def sampling(recipe: Recipe) -> str:
    """The sampling settings as canonical JSON."""
    return json.dumps({name: getattr(recipe.responses, name) for name in _SAMPLING}, sort_keys=True)


def template(prompter: Prompter) -> str:
    """Digest of the chat template that prompts are written with."""
    return hashlib.sha256(templates.text_of(prompter.processor).encode()).hexdigest()[:16]


def of_drawn(
    recipe: Recipe, stage: Stage, questions: Sequence[Question], fingerprints: Fingerprints, teachers: TeacherChain
) -> dict[str, Any]:
    """All that decides what was said in a stage, and how near it is to the teacher."""
    train = recipe.train
    return {
        "schema": SCHEMA_VERSION,
        "student": fingerprints.student,
        "teacher": fingerprints.teachers[stage.teacher],
        "mask": _mask(recipe, stage, teachers),
        "stage": stage.index,
        "seed": recipe.seed,
        "sampling": sampling(recipe),
        "engines": [_engine(recipe.responses.student_engine), _engine(recipe.responses.teacher_engine)],
        "top_k_logits": train.teacher_top_k if train.teacher_logits == "cached" else None,
        "questions": _questions(questions, fingerprints.unlabelled),
        "shard": recipe.responses.questions_per_shard,
    }


def of_scored(drawn: Mapping[str, Any], recipe: Recipe, fingerprints: Fingerprints) -> dict[str, Any]:
    """All that decides what the stage's shards hold: what was drawn, and what its R_acc is scored against."""
    reward = recipe.reward
    return {
        "drawn": drawn,
        "data": fingerprints.data,
        "labels": [
            reward.metric,
            reward.unlabelled,
            fingerprints.teachers[-1] if reward.unlabelled == "teacher" else None,
        ],
        "judge": [reward.judge.model, reward.judge.url, judge_prompt] if reward.judge else None,
    }


def of_labels(recipe: Recipe, questions: Sequence[Question], fingerprints: Fingerprints) -> dict[str, Any]:
    """All that decides what the teacher's own answers to unlabelled questions are."""
    return {
        "schema": SCHEMA_VERSION,
        "teacher": fingerprints.teachers[-1],
        "engine": _engine(recipe.responses.teacher_engine),
        "max_new_tokens": recipe.responses.max_new_tokens,
        "questions": _questions(questions, fingerprints.unlabelled),
        "shard": recipe.responses.questions_per_shard,
    }


def shared_folder(root: Path, kind: str, key: Mapping[str, Any]) -> Path:
    """The folder of shards with this key; what the key was made of is written beside them."""
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:20]
    folder = root / f"{kind}-{digest}"
    if not (folder / DESCRIPTION).exists():
        write_json(folder / DESCRIPTION, dict(key))
    return folder


def _mask(recipe: Recipe, stage: Stage, teachers: TeacherChain) -> list[Any]:
    mask, norms = recipe.mask, teachers.norms(stage.teacher) if stage.ratio else None
    digest = hashlib.sha256()
    for name, values in sorted((norms or {}).items()):
        digest.update(name.encode() + values.cpu().numpy().tobytes())
    return [stage.ratio, mask.include, mask.exclude, digest.hexdigest() if norms else None]


def _engine(which: Any) -> str:
    return f"{which.url} {which.model} {which.body}" if isinstance(which, Endpoint) else which


def _questions(questions: Sequence[Question], data: str) -> str:
    """Digest of which questions in which order; what is in them, the data set's fingerprint says."""
    digest = hashlib.sha256(data.encode())
    for question in questions:
        digest.update(question.id.encode("utf-8", "surrogatepass") + b"\n")
    return digest.hexdigest()
