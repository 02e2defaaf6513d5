"""Whether questions fit a model before it trains on them: none writes an image of its own, and prompt and response stay
within the model's positions. Beyond those it would compute something, and learn nothing."""

from collections.abc import Mapping, Sequence

from masters_edge.common.errors import UserError
from masters_edge.data.records import Question
from masters_edge.families.prompts import Prompter, context_of

_SLACK = 8  # tokens by which a prompt's text may differ from the text alone, where they meet the template
_MOST_BUILT = 256
_AT_ONCE = 4096  # texts tokenized by one call

Sizes = Mapping[str, tuple[int, int]]


def check_texts(prompters: Sequence[Prompter], questions: Sequence[Question]) -> None:
    """No question and no label holds what stands for an image, and no label what ends a response.

    Raises:
        UserError: naming the question.
    """
    for prompter in prompters:
        images = prompter.image_words
        ends = [token for token in [prompter.tokenizer.eos_token] if token]
        for question in questions:
            prompter.refuse_placeholders(question)
            for answer in question.accepted:
                found = next((word for word in (*images, *ends) if word in answer), None)
                if found is not None:
                    stands_for = "ends a response" if found in ends else "stands for an image"
                    raise UserError(
                        f"question {question.id} has {found} in its answer, which {stands_for} in this family's "
                        "prompts, so it can't be learned; take it out of the answer, or leave the question out"
                    )


def check_lengths(
    prompters: Sequence[Prompter],
    questions: Sequence[Question],
    sizes: Sizes,
    response_tokens: int,
    with_labels: bool,
) -> None:
    """Every prompt leaves room for a response within the positions of each model.

    Lengths are estimated from the text's tokens and the prompts that are built already, one for many an image size;
    only what may be too long is built. What the estimate misses is refused when it is built, as `Prompter` says.

    Args:
        prompters: of student and teachers, which have built a prompt of some image sizes (`check_image_tokens`).
        questions: all of them.
        sizes: width and height of each image, by image_id.
        response_tokens: of the longest response that may be sampled.
        with_labels: whether labels are trained on as they are.

    Raises:
        UserError: naming the longest question, its length and the room.
    """
    for prompter in prompters:
        context = context_of(prompter.config)
        if context is None:
            continue
        lengths = _token_counts(prompter, {question.text for question in questions})
        around = prompter.lengths_around(lengths)
        most_around = max(around.values(), default=0)
        labels = {q.answer for q in questions if q.answer is not None} if with_labels else set()
        label_lengths = _token_counts(prompter, labels)
        # A label has an end token behind it, which what is sampled counts in.
        responses = [max(response_tokens, label_lengths.get(q.answer or "", -1) + 1) for q in questions]
        estimated = [
            (around.get(sizes[q.image_id], most_around) + lengths[q.text] + responses[n], n)
            for n, q in enumerate(questions)
        ]
        suspects = sorted((pair for pair in estimated if pair[0] + _SLACK > context), reverse=True)
        for _, number in suspects[:_MOST_BUILT]:
            question = questions[number]
            prompt = len(prompter(question)[0])
            if prompt + responses[number] > context:
                raise UserError(
                    f"question {question.id}: its prompt of {prompt:,} tokens and a response of up to "
                    f"{responses[number]:,} are more than the {context:,} positions of {prompter.name}; ask a shorter "
                    "question, take smaller images, or set responses.max_new_tokens to less"
                )


def _token_counts(prompter: Prompter, texts: set[str]) -> dict[str, int]:
    """Tokens of each text alone."""
    listed, found = sorted(texts), dict[str, int]()
    for start in range(0, len(listed), _AT_ONCE):
        part = listed[start : start + _AT_ONCE]
        ids = prompter.tokenizer(part, add_special_tokens=False)["input_ids"]
        found |= {text: len(tokens) for text, tokens in zip(part, ids)}
    return found
