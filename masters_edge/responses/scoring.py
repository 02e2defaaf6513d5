"""Score sampled responses: the divergence D to the stage's teacher, and what the student thinks of each token.

In: a few questions, and whatever student and teacher said to each. Out: rows of the response store, identical responses
once with their count, in one forward pass of each model over grouped rows.
"""

from collections import Counter
from collections.abc import Collection, Iterator, Sequence

import torch

from masters_edge.data.records import Question
from masters_edge.engines import Speaker
from masters_edge.objective import chunked, sequences
from masters_edge.objective.divergence import TopLogProbs, jsd, log_softmax
from masters_edge.recipe import Recipe
from masters_edge.recipe.schedule import Stage
from masters_edge.responses.store import Response

Drawn = dict[str, list[tuple[tuple[int, ...], str]]]
"""By question id, every response (token ids) and who gave it: `student` or `teacher`."""


@torch.inference_mode()
def rows(
    recipe: Recipe,
    stage: Stage,
    student: Speaker,
    teacher: Speaker,
    questions: Sequence[Question],
    drawn: Drawn,
    end_ids: Collection[int],
) -> Iterator[Response]:
    """A row for each distinct response to the questions, R_acc still to be filled in.

    `teacher`: the stage's, masked as the stage asks. `end_ids`: of both; a response that ends otherwise was cut.
    """
    owner, distinct = [], []
    for place, question in enumerate(questions):
        for ids in dict.fromkeys(ids for ids, _ in drawn[question.id]):  # in order of appearance
            owner.append(place)
            distinct.append(list(ids))
    hidden = [_hidden(speaker, questions, distinct, owner) for speaker in (student, teacher)]
    flat = torch.tensor([token for response in distinct for token in response], dtype=torch.int64)
    scored = _token_scores(recipe, student, teacher, hidden, flat)
    divergence = sequences.response_means(scored["jsd"].double(), distinct).numpy()
    parts = sequences.response_slices(distinct)
    texts = [t.strip() for t in student.prompter.tokenizer.batch_decode(distinct, skip_special_tokens=True)]
    counts = [Counter(ids for ids, _ in drawn[question.id]) for question in questions]
    for number, (place, response, part) in enumerate(zip(owner, distinct, parts)):
        question, key = questions[place], tuple(response)
        said_by = {source for ids, source in drawn[question.id] if ids == key}
        tokens = {name: values[part].flatten().numpy() for name, values in scored.items() if name != "jsd"}
        yield Response(
            question_id=question.id,
            stage=stage.index,
            teacher=stage.teacher,
            ratio=stage.ratio,
            source="both" if len(said_by) == 2 else next(iter(said_by)),
            token_ids=response,
            text=texts[number],
            count=counts[place][key],
            jsd=float(divergence[number]) if response else None,
            label=None,
            label_source=None,
            metric=question.metric or recipe.reward.metric,
            r_acc=None,
            scorer=None,
            student_count=sum(ids == key and source == "student" for ids, source in drawn[question.id]),
            cut=not response or response[-1] not in end_ids,
            **tokens,  # log_probs, and what cached teacher logits add
        )


def _hidden(
    speaker: Speaker, questions: Sequence[Question], distinct: list[list[int]], owner: list[int]
) -> torch.Tensor:
    """The states `[tokens, hidden]` that predict each response token."""
    prompts, images = zip(*(speaker.prompter(question) for question in questions))
    batch = sequences.pack(prompts, images, distinct, owner, speaker.prompter.tokenizer.pad_token_id)
    features = speaker.features.inputs([question.image_id for question in questions], images)
    return sequences.response_hidden(speaker.model, speaker.family, batch, features)


def _token_scores(
    recipe: Recipe, student: Speaker, teacher: Speaker, hidden: list[torch.Tensor], token_ids: torch.Tensor
) -> dict[str, torch.Tensor]:
    """What is known of each response token, on the CPU: JSD and log-probability `[tokens]`, and, where training has no
    live teacher, the teacher's most likely tokens `[tokens, k]`.

    `hidden`: the student's and the teacher's states, `[tokens, hidden]` each.
    """
    train, vocabulary = recipe.train, len(student.prompter.tokenizer)
    found: dict[str, list[torch.Tensor]] = {}
    student_hidden, teacher_hidden = hidden
    student_head, teacher_head = chunked.Head.of(student.model), chunked.Head.of(teacher.model)
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
