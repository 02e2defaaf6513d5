"""What reading leaves out because it was asked to (`on_error: skip`, `follow_ups`), bounded and told."""

from dataclasses import dataclass, field

from masters_edge.common.errors import UserError
from masters_edge.data.chat import Unread
from masters_edge.data.images import MissingImage, broken_images, some
from masters_edge.data.records import Question


@dataclass(slots=True)
class LeftOut:
    """A sentence for each question without a usable image, and turns of chats, for whoever reads to say."""

    images: list[str] = field(default_factory=list)
    turns: Unread = field(default_factory=Unread)

    @property
    def notes(self) -> list[str]:
        """A sentence for each kind that there was."""
        follow_ups, systems = self.turns.follow_ups, self.turns.systems
        notes = {
            f"{len(self.images):,} questions left out, whose image can't be used: {some(self.images)}": self.images,
            f"{follow_ups:,} follow-up turns of chats left out (`follow_ups: leave_out`)": follow_ups,
            f"{systems:,} system turns of chats aren't read: questions are asked without them": systems,
        }
        return [text for text, there in notes.items() if there]


def usable(
    questions: list[Question],
    missing: list[MissingImage],
    name: str,
    on_error: str,
    most_skipped: float,
    left_out: LeftOut,
) -> list[Question]:
    """The questions that have an image; those without are refused all at once, or left out as far as is allowed."""
    total = len(questions) + len(missing)
    briefs = [image.brief.removeprefix(f"{name}, ") for image in missing]  # the sentence names it once
    if on_error == "stop":
        if len(missing) == 1:
            raise missing[0]
        if missing:
            raise UserError(
                f"{len(missing):,} of {total:,} questions in {name} have no image: {some(briefs)}; "
                "mend the paths (relative ones start at the metadata file's folder, or at image_root where it is set), "
                "leave the rows out, or set `on_error: skip`"
            )
        return questions
    broken = broken_images(questions)
    skipped = list(briefs)
    skipped += [f"question {q.id}: {broken[q.image_id].partition(': ')[2]}" for q in questions if q.image_id in broken]
    if len(skipped) > most_skipped * total:
        raise UserError(
            f"{len(skipped):,} of {total:,} questions in {name} have no image that can be used, more than "
            f"`most_skipped` ({most_skipped:g}) lets `on_error: skip` leave out: {some(skipped)}; mend them, or raise "
            "`most_skipped`"
        )
    left_out.images += skipped
    kept = [question for question in questions if question.image_id not in broken]
    if not kept:
        raise UserError(f"{name} holds no question with an image that can be used; mend the images")
    return kept
