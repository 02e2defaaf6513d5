"""The prompt as an engine builds it for itself, and whether it is the one that training uses."""

from collections.abc import Sequence

from masters_edge.common.errors import UserError
from masters_edge.data.records import Question
from masters_edge.engines.base import Speaker
from masters_edge.families.prompts import Prompter


def unexpanded(prompter: Prompter, question: Question) -> list[int]:
    """Token ids with the image as the chat template writes it: engines put its features' placeholders in themselves."""
    text, start = prompter.text(question), prompter.tokenizer.bos_token
    written = start is not None and text.startswith(start)  # as Prompter decides it
    return prompter.tokenizer(text, add_special_tokens=not written)["input_ids"]


def check_prompt(speaker: Speaker, question: Question, found: Sequence[int], who: str, remedy: str) -> None:
    """Compare an engine's prompt (token ids, placeholders expanded) with training's.

    Raises:
        UserError: they differ; `who` built the prompt, and `remedy` says what to do.
    """
    expected = speaker.prompter(question)[0]
    if list(found) == expected:
        return
    place = next((i for i, pair in enumerate(zip(found, expected)) if pair[0] != pair[1]), None)
    place = min(len(found), len(expected)) if place is None else place
    raise UserError(
        f"question {question.id}: {who} builds a prompt of {len(found)} tokens for {speaker}, and training one of "
        f"{len(expected)}; they differ from token {place} on, so its responses would answer something else: {remedy}"
    )
