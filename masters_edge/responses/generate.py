"""Make a phase's responses before its training: sample, score, store (METHOD 3 and 5).

For each question of each stage, some responses come from the student as it stands before the phase and some from that
stage's masked teacher. Identical ones are kept once with their count. Each is scored there and then: D under the
stage's teacher, R_acc by a rule against the label (or the unmasked teacher's own greedy answer), R_distill, advantage.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from masters_edge import processes, rewards
from masters_edge.benchmarks import metrics
from masters_edge.data.records import Question
from masters_edge.families.base import Family
from masters_edge.families.prompts import Prompter
from masters_edge.objective import chunked, sequences
from masters_edge.objective.divergence import TopLogProbs, jsd, log_softmax
from masters_edge.recipe import Recipe
from masters_edge.responses import store
from masters_edge.responses.engine import Engine, sampled
from masters_edge.responses.store import Response
from masters_edge.schedule import Stage
from masters_edge.teachers import TeacherChain

Progress = Callable[[int], None]


@dataclass
class Generator:
    """Makes the responses of one phase into `folder`, from a student that doesn't change."""

    recipe: Recipe
    folder: Path
    student: Any
    family: Family
    prompter: Prompter
    teachers: TeacherChain

    def labels(self, questions: Sequence[Question], on_progress: Progress | None = None) -> dict[str, str]:
        """The last teacher's own greedy answers, unmasked, to questions without a label; by question id."""
        found: dict[str, str] = {}
        last = len(self.teachers) - 1
        names = [f"part-{number:05d}.parquet" for number, _ in self._shards(questions)]

        def make(shard: Sequence[Question]) -> list[dict[str, str]]:
            engine = self._engine(self.teachers.at(last, 0.0), self.teachers.family(last), self.teachers.prompter(last))
            return [{"question_id": q.id, "text": text} for q, text in zip(shard, engine.greedy(shard))]

        for path in self._fill(self.folder / "labels", names, questions, make, on_progress):
            found.update({row["question_id"]: row["text"] for row in store.read(path)})
        return found

    def responses(
        self,
        stage: Stage,
        questions: Sequence[Question],
        labels: dict[str, str],
        on_progress: Progress | None = None,
    ) -> dict[str, Path]:
        """The shard that holds each question's group of scored responses, by question id."""
        names = [f"stage-{stage.index:02d}-part-{number:05d}.parquet" for number, _ in self._shards(questions)]
        paths = self._fill(
            self.folder / "responses", names, questions, lambda shard: self._make(stage, shard, labels), on_progress
        )
        return {question.id: paths[number] for number, shard in self._shards(questions) for question in shard}

    def _shards(self, questions: Sequence[Question]) -> Iterator[tuple[int, Sequence[Question]]]:
        return store.shards(questions, self.recipe.responses.questions_per_shard)

    def _fill(
        self,
        folder: Path,
        names: Sequence[str],
        questions: Sequence[Question],
        make: Callable[[Sequence[Question]], Sequence[Any]],
        on_progress: Progress | None,
    ) -> list[Path]:
        """Make the shards that are missing, each by one process; returns all when every process is done."""
        here = processes.state()
        if here.is_main_process:
            store.prepare(folder)
        here.wait_for_everyone()
        paths = [folder / name for name in names]
        for path, (number, shard) in zip(paths, self._shards(questions), strict=True):
            if number % here.num_processes == here.process_index and not path.exists():
                store.write(path, make(shard))
            if on_progress:
                on_progress(len(shard))
        here.wait_for_everyone()
        return paths

    def _engine(self, model: Any, family: Family, prompter: Prompter) -> Engine:
        options = self.recipe.responses
        return Engine(model, family, prompter, options.max_new_tokens, options.batch_size)

    def _make(self, stage: Stage, questions: Sequence[Question], labels: dict[str, str]) -> list[Response]:
        options, seed = self.recipe.responses, self.recipe.seed
        teacher = self.teachers.at(stage.teacher, stage.ratio)
        speakers = {
            "student": (options.student, self._engine(self.student, self.family, self.prompter)),
            "teacher": (
                options.teacher,
                self._engine(teacher, self.teachers.family(stage.teacher), self.teachers.prompter(stage.teacher)),
            ),
        }
        drawn: dict[str, list[tuple[tuple[int, ...], str]]] = {question.id: [] for question in questions}
        for source, (count, engine) in speakers.items():
            if count == 0:
                continue
            requests = [sampled(question, count, seed, source, stage.index) for question in questions]
            for request, responses in zip(requests, engine.answer(requests, options)):
                drawn[request.question.id] += [(tuple(ids), source) for ids in responses]
        rows: list[Response] = []
        per_batch = max(1, options.batch_size // (options.student + options.teacher))
        for start in range(0, len(questions), per_batch):
            some = questions[start : start + per_batch]
            rows += self.score(stage, teacher, some, drawn, labels)
        return rows

    @torch.inference_mode()
    def score(
        self,
        stage: Stage,
        teacher: Any,
        questions: Sequence[Question],
        drawn: dict[str, list[tuple[tuple[int, ...], str]]],
        labels: dict[str, str],
    ) -> list[Response]:
        """Scored rows of a few questions, in one forward pass of teacher and student."""
        owner, distinct = [], []
        for place, question in enumerate(questions):
            for ids in dict.fromkeys(ids for ids, _ in drawn[question.id]):  # in order of appearance
                owner.append(place)
                distinct.append(list(ids))
        hidden: list[torch.Tensor] = []
        for model, family, prompter in (
            (self.student, self.family, self.prompter),
            (teacher, self.teachers.family(stage.teacher), self.teachers.prompter(stage.teacher)),
        ):
            prompts, images = zip(*(prompter(question) for question in questions))
            batch = sequences.pack(prompts, images, distinct, owner, prompter.tokenizer.pad_token_id)
            hidden.append(sequences.response_hidden(model, family, batch))
        scored = self._token_scores(hidden, teacher, torch.tensor([token for ids in distinct for token in ids]))
        divergence = sequences.response_means(scored["jsd"].double(), distinct).numpy()
        per_response = [
            {name: values[part].flatten().numpy() for name, values in scored.items()}
            for part in sequences.response_slices(distinct)
        ]
        texts = [t.strip() for t in self.prompter.tokenizer.batch_decode(distinct, skip_special_tokens=True)]
        rows = []
        for place, question in enumerate(questions):
            members = [s for s, o in enumerate(owner) if o == place]
            counts = Counter(ids for ids, _ in drawn[question.id])
            sources = {ids: {source for i, source in drawn[question.id] if i == ids} for ids in counts}
            group = [
                Response(
                    question_id=question.id,
                    stage=stage.index,
                    teacher=stage.teacher,
                    ratio=stage.ratio,
                    source="both" if len(speakers := sources[tuple(distinct[s])]) == 2 else next(iter(speakers)),
                    seed=self.recipe.seed,
                    token_ids=distinct[s],
                    text=texts[s],
                    count=counts[tuple(distinct[s])],
                    log_probs=per_response[s]["log_probs"].tolist(),
                    jsd=float(divergence[s]),
                    top_ids=per_response[s].get("top_ids"),
                    top_log_probs=per_response[s].get("top_log_probs"),
                    rest=per_response[s].get("rest"),
                    **self._reward_fields(question, texts[s], labels),
                )
                for s in members
            ]
            rows += self._reward(group)
        return rows

    def _token_scores(
        self, hidden: list[torch.Tensor], teacher: Any, token_ids: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """What is known of each response token, on the CPU: JSD and log-probability `[tokens]`, and, where training
        asks for no live teacher, the teacher's most likely tokens `[tokens, k]`.

        `hidden`: the student's and the teacher's states, `[tokens, hidden]` each.
        """
        train, vocabulary = self.recipe.train, len(self.prompter.tokenizer)
        found: dict[str, list[torch.Tensor]] = {}
        student_hidden, teacher_hidden = hidden
        student_head, teacher_head = chunked.Head.of(self.student), chunked.Head.of(teacher)
        for part in chunked.chunks(len(token_ids), vocabulary):
            ours = chunked.chunk_logits(student_hidden[part], student_head, vocabulary)
            theirs = chunked.chunk_logits(teacher_hidden[part], teacher_head, vocabulary)
            ids = token_ids[part, None].to(ours.device)
            scores = {"jsd": jsd(theirs, ours), "log_probs": log_softmax(ours).gather(-1, ids).squeeze(-1)}
            if train.teacher_logits == "cached":
                top = TopLogProbs.of(theirs, train.teacher_top_k)
                scores |= {"top_ids": top.ids.int(), "top_log_probs": top.log_probs.half(), "rest": top.rest}
            for name, values in scores.items():
                found.setdefault(name, []).append(values.cpu())
        return {name: torch.cat(parts) for name, parts in found.items()}

    def _reward_fields(self, question: Question, text: str, labels: dict[str, str]) -> dict[str, Any]:
        """The label and R_acc of one response; both None where nobody can say."""
        label, source = question.answer, "label"
        if label is None:
            label, source = labels.get(question.id), "teacher"
        accepted = question.accepted or (() if label is None else (label,))
        scored = bool(accepted) and self.recipe.reward.accuracy
        return {
            "label": label,
            "label_source": source if label is not None else None,
            "metric": self.recipe.reward.metric,
            "r_acc": metrics.best_score(self.recipe.reward.metric, text, accepted) if scored else None,
            "r_distill": 0.0,
            "reward": 0.0,
            "advantage": 0.0,
        }

    def _reward(self, group: list[Response]) -> list[Response]:
        """Fill in R_distill, `R = R_acc + R_distill` and the advantages of one question's responses."""
        near = rewards.distillation(np.array([row.jsd for row in group]))
        accuracy = np.array([row.r_acc or 0.0 for row in group])
        total = accuracy + (near if self.recipe.reward.distillation else 0.0)
        advantage = rewards.advantages(total, np.array([row.count for row in group]))
        for row, n, r, a in zip(group, near, total, advantage):
            row.r_distill, row.reward, row.advantage = float(n), float(r), float(a)
        return group
