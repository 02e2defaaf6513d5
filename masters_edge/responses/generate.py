"""Make a phase's responses before its training: sample, score, store (METHOD 3 and 5).

For each question of each stage, some responses come from the student as it stands before the phase and some from that
stage's masked teacher, through whatever engine the recipe names. Identical ones are kept once with their count. Each is
scored there and then: D under the stage's teacher, R_acc by a rule or a judge against the label (or the unmasked
teacher's own greedy answer).
"""

import contextlib
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from masters_edge.common import processes
from masters_edge.common.display import say
from masters_edge.data.records import Question
from masters_edge.engines import AnyEngine, Request, Speaker, open_engine, sampled
from masters_edge.recipe import Recipe
from masters_edge.recipe.schedule import Stage
from masters_edge.responses import provenance, scoring, shards, store
from masters_edge.responses.scoring import Drawn
from masters_edge.responses.store import Response
from masters_edge.rewards.accuracy import Scorer
from masters_edge.rewards.verdicts import Item
from masters_edge.teacher.chain import TeacherChain

Progress = Callable[[int], None]


@dataclass
class Generator:
    """Makes the responses of one phase into `folder` (or where runs share them), from a student that doesn't change.

    `on_work` hears of each piece of work as it is done: `generate_student`, `generate_teacher` (response tokens) or
    `score` (tokens of rows, through student and teacher), how many tokens, and how many seconds.
    """

    recipe: Recipe
    folder: Path
    student: Speaker
    teachers: TeacherChain
    fingerprints: provenance.Fingerprints
    on_work: Callable[[str, int, float], None] | None = None

    def labels(self, questions: Sequence[Question], on_progress: Progress | None = None) -> dict[str, str]:
        """The last teacher's own greedy answers, unmasked, to questions without a label; by question id. An answer that
        is empty or was cut is none, and that is said."""
        cut = list(store.shards(questions, self.recipe.responses.questions_per_shard))
        shared, folder = self.recipe.responses.shared, self.folder / "labels"
        if shared is not None:
            key = provenance.of_labels(self.recipe, questions, self.fingerprints)
            folder = provenance.shared_folder(Path(shared), "labels", key)
        paths = self._made(folder, cut, on_progress) or self._answer(folder, cut, on_progress)
        rows = [row for path in paths for row in store.read(path, ("question_id", "text", "cut"))]
        found = {row["question_id"]: row["text"] for row in rows if row["text"] and not row["cut"]}
        if len(found) < len(rows):
            say(
                f"{len(rows) - len(found):,} of the teacher's own {len(rows):,} answers are no labels, since they are "
                "empty or were cut by responses.max_new_tokens"
            )
        return found

    def _answer(self, folder: Path, cut: Sequence[Any], on_progress: Progress | None) -> list[Path]:
        with self._teacher(len(self.teachers) - 1, 0.0) as (engine, _):

            def make(number: int, path: Path) -> None:
                asked = cut[number][1]
                answers = engine.answer([Request(question) for question in asked])
                said = [responses[0] for responses in answers]
                texts = self.student.prompter.tokenizer.batch_decode(said, skip_special_tokens=True)
                rows = [
                    {"question_id": q.id, "text": text.strip(), "cut": not ids or ids[-1] not in engine.end_ids}
                    for q, text, ids in zip(asked, texts, said)
                ]
                store.write(path, rows)

            return self._fill(folder, cut, make, on_progress)

    def responses(
        self,
        stage: Stage,
        questions: Sequence[Question],
        labels: dict[str, str],
        on_progress: Progress | None = None,
    ) -> dict[str, Path]:
        """The shard that holds each question's group of scored responses, by question id."""
        cut = list(store.shards(questions, self.recipe.responses.questions_per_shard))
        drawn, shared = None, self.recipe.responses.shared
        folder = self.folder / "responses" / f"stage-{stage.index:02d}"
        if shared is not None:
            key = provenance.of_drawn(self.recipe, stage, questions, self.fingerprints, self.teachers)
            drawn = provenance.shared_folder(Path(shared), "drawn", key)
            scored = provenance.of_scored(key, self.recipe, self.fingerprints)
            folder = provenance.shared_folder(Path(shared), "responses", scored)
        paths = self._made(folder, cut, on_progress) or self._speak(stage, folder, drawn, cut, labels, on_progress)
        return {question.id: paths[number] for number, asked in cut for question in asked}

    def drawn(self, stage: Stage, questions: Sequence[Question], on_progress: Progress | None = None) -> Drawn:
        """Responses to a few questions, not kept."""
        with self._student() as (student, _), self._teacher(stage.teacher, stage.ratio) as (teacher, _):
            drawn = self._sample(stage, questions, {"student": student, "teacher": teacher})
        if on_progress:
            on_progress(len(questions))
        return drawn

    def _speak(
        self,
        stage: Stage,
        folder: Path,
        drawn: Path | None,
        cut: Sequence[Any],
        labels: dict[str, str],
        on_progress: Progress | None,
    ) -> list[Path]:
        """Draw, score and write the shards. `drawn`: where runs with other labels share what was said."""
        with (
            self._student() as (student_engine, student),
            self._teacher(stage.teacher, stage.ratio) as (teacher_engine, teacher),
            Scorer(self.recipe.reward, folder) as scorer,
        ):
            engines = {"student": student_engine, "teacher": teacher_engine}

            ends = {*student_engine.end_ids, *teacher_engine.end_ids}
            origin = self._origin(stage, student_engine.name, teacher_engine.name)

            def rows_of(number: int) -> list[Response]:
                said = self._sample(stage, cut[number][1], engines)
                return self._score(stage, cut[number][1], said, student, teacher, ends)

            def make(number: int, path: Path) -> None:
                if drawn is None:
                    rows = rows_of(number)
                else:
                    kept = shards.fill(drawn, [path.name], lambda _, to: store.write(to, rows_of(number), origin))
                    rows = [Response(**row) for row in store.read(kept[0], store.RESPONSE)]
                self._accuracy(rows, cut[number][1], labels, scorer)
                store.write(path, rows, origin)

            paths = self._fill(folder, cut, make, on_progress)
        return paths

    def _made(self, folder: Path, cut: Sequence[Any], on_progress: Progress | None) -> list[Path] | None:
        """The shards where all are there already: nobody needs to load a model or wait for a server then."""
        paths = [folder / _name(number) for number, _ in cut]
        if not all(path.exists() for path in paths):
            return None
        if on_progress:
            on_progress(sum(len(asked) for _, asked in cut))
        return paths

    def _fill(
        self, folder: Path, cut: Sequence[Any], make: Callable[[int, Path], None], on_progress: Progress | None
    ) -> list[Path]:
        """Make the shards that are missing, together with all other processes; returns when all are there."""
        names = [_name(number) for number, _ in cut]
        sizes = [len(asked) for _, asked in cut]
        return shards.fill(folder, names, make, on_progress, sizes, start=processes.state().process_index)

    @contextlib.contextmanager
    def _student(self) -> Iterator[tuple[AnyEngine, Speaker]]:
        with open_engine(self.recipe.responses.student_engine, self.recipe, self.student, self.folder) as engine:
            yield engine, self.student

    @contextlib.contextmanager
    def _teacher(self, number: int, ratio: float) -> Iterator[tuple[AnyEngine, Speaker]]:
        speaker = self.teachers.speaker(number, ratio)
        with open_engine(self.recipe.responses.teacher_engine, self.recipe, speaker, self.folder) as engine:
            yield engine, speaker

    def _sample(self, stage: Stage, questions: Sequence[Question], engines: dict[str, AnyEngine]) -> Drawn:
        options = self.recipe.responses
        drawn: Drawn = {question.id: [] for question in questions}
        for source, count in (("student", options.student), ("teacher", options.teacher)):
            if count == 0:
                continue
            requests = [sampled(question, count, self.recipe.seed, source, stage.index) for question in questions]
            started = time.perf_counter()
            answers = engines[source].answer(requests, options)
            if self.on_work:
                tokens = sum(len(ids) for responses in answers for ids in responses)
                self.on_work(f"generate_{source}", tokens, time.perf_counter() - started)
            for request, responses in zip(requests, answers):
                drawn[request.question.id] += [(tuple(ids), source) for ids in responses]
        return drawn

    def _score(
        self,
        stage: Stage,
        questions: Sequence[Question],
        drawn: Drawn,
        student: Speaker,
        teacher: Speaker,
        end_ids: Collection[int],
    ) -> list[Response]:
        options, rows = self.recipe.responses, list[Response]()
        per_batch = max(1, options.batch_size // (options.student + options.teacher))
        started = time.perf_counter()
        for start in range(0, len(questions), per_batch):
            some = questions[start : start + per_batch]
            rows += scoring.rows(self.recipe, stage, student, teacher, some, drawn, end_ids)
        if self.on_work:
            spent = time.perf_counter() - started
            prompts = sum(len(speaker.prompter(q)[0]) for q in questions for speaker in (student, teacher))
            self.on_work("score", prompts + 2 * sum(len(row.token_ids) - 1 for row in rows), spent)
        return rows

    def _accuracy(
        self, rows: Sequence[Response], questions: Sequence[Question], labels: dict[str, str], scorer: Scorer
    ) -> None:
        """Fill in label and R_acc of each row; both stay None where nobody can say.

        Shared responses are scored in any case: another run may want it.
        """
        by_id = {question.id: question for question in questions}
        asked: list[tuple[Response, Item]] = []
        for row in rows:
            question = by_id[row.question_id]
            row.metric = question.metric or self.recipe.reward.metric
            row.label, row.label_source = question.answer, "label"
            if row.label is None:
                row.label, row.label_source = labels.get(question.id), "teacher"
            if row.label is None:
                row.label_source = None
                continue
            accepted = question.accepted or (row.label,)
            if self.recipe.reward.accuracy or self.recipe.responses.shared:
                asked.append((row, Item(question.id, question.text, row.text, accepted, row.metric, row.cut)))
        for (row, _), verdict in zip(asked, scorer.score([item for _, item in asked])):
            row.r_acc, row.scorer = verdict.score, verdict.by

    def _origin(self, stage: Stage, student_engine: str, teacher_engine: str) -> store.Origin:
        return store.Origin(
            student=self.fingerprints.student,
            teacher_model=self.fingerprints.teachers[stage.teacher],
            student_template=provenance.template(self.student.prompter),
            teacher_template=provenance.template(self.teachers.prompter(stage.teacher)),
            student_engine=student_engine,
            teacher_engine=teacher_engine,
            sampling=provenance.sampling(self.recipe),
            seed=self.recipe.seed,
        )


def _name(number: int) -> str:
    return f"part-{number:05d}.parquet"
