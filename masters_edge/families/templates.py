"""The chat template of a checkpoint: the one that transformers uses, tried before anything is computed with it.

Checkpoints bring it in several ways: a file or a setting, of the processor or of its tokenizer, alone or as one of
several under names. In: a processor as transformers loads it. Out: the same with its template in its place, or a
UserError for one that can't write a prompt of a picture and a question.
"""

from typing import Any

from masters_edge.common.errors import UserError

_QUESTION, _ANSWER = "What is this?", "A red square."
_REMEDY = (
    "give a checkpoint whose template writes lists of images and texts, as the published ones of its family do, or put "
    "their chat_template.jinja into its folder"
)


def settle(processor: Any, source: str) -> None:
    """Give the processor its tokenizer's template where it has none of its own, and try it.

    Raises:
        UserError: there is none, none of several is the default, or it doesn't write picture, question and answer.
    """
    if getattr(processor, "chat_template", None) is None:
        processor.chat_template = processor.tokenizer.chat_template
    if not processor.chat_template:
        raise UserError(f"the checkpoint {source} has no chat template; {_REMEDY}")
    if not text_of(processor):
        names = ", ".join(sorted(processor.chat_template))
        raise UserError(
            f"the checkpoint {source} has several chat templates ({names}), none of them called default; save the one "
            "to use as chat_template.jinja in its folder"
        )
    _try(processor, source)


def text_of(processor: Any) -> str:
    """The text of the template that `apply_chat_template` uses; empty where there is none."""
    template = getattr(processor, "chat_template", None) or ""
    return template.get("default", "") if isinstance(template, dict) else template


def chat(question: str, answer: str | None = None) -> list[dict[str, Any]]:
    """A picture and a question, and where given its answer, as templates take them."""
    turns = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}]
    if answer is not None:
        turns.append({"role": "assistant", "content": [{"type": "text", "text": answer}]})
    return turns


def _try(processor: Any, source: str) -> None:
    """Raise UserError unless the template writes one picture, the question and the answer, each as it is."""
    try:
        prompt = processor.apply_chat_template(chat(_QUESTION), add_generation_prompt=True)
        whole = processor.apply_chat_template(chat(_QUESTION, _ANSWER))
    except Exception as error:  # a template is a program, and may raise anything
        reason = " ".join(str(error).split())[:200]
        what = f"can't write a prompt of an image and a question ({type(error).__name__}: {reason})"
        raise UserError(f"the chat template of {source} {what}; {_REMEDY}") from None
    token = processor.image_token
    written = {
        f"{token} where the image stands": prompt.count(token) == 1,
        "the question": prompt.count(_QUESTION) == 1 and "'type':" not in prompt,
        "the answer": whole.count(_ANSWER) == 1 and "'type':" not in whole,
    }
    lacking = next((name for name, there in written.items() if not there), None)
    if lacking is not None:
        raise UserError(f"the chat template of {source} doesn't write {lacking}, once and as it is; {_REMEDY}")
