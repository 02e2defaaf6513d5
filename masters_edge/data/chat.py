"""Chat records: `messages` (role, content) or `conversations` (from, value), as TRL, ms-swift and LLaVA write them.

Read: every user turn that brings one image, and the assistant turn right behind it. The user's text is the question,
the assistant's text the answer (none where the record ends before it). An image stands inside the content
({"type": "image", "image" | "path" | "url": ...} or OpenAI's {"type": "image_url", "image_url": {"url": ...}}), or in a
column `images` or `image`, to be taken in order by the marks {"type": "image"} and `<image>` of the user's turns; with
no mark at all it belongs to the first user turn.

A user turn that brings no image of its own is a follow-up, and what becomes of it is asked for (`follow_ups`): the
record is refused, or the turn is left out, or it becomes a question of its own about the image before it. System turns
are not read, which is counted. Refused in one sentence, since what the record says would not be what is trained on:
other roles, two turns of one speaker in a row, several images in one turn, video and audio, a record without an image.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from masters_edge.common.errors import UserError
from masters_edge.data.rows import Row

COLUMNS = ("messages", "conversations")
USER, ASSISTANT, SYSTEM = ("user", "human"), ("assistant", "gpt"), ("system", "developer")
FOLLOW_UPS = ("refuse", "leave_out", "split")
MARK = "<image>"

Keys = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Exchange:
    """One question about one image; `keys` lead from the row to the image's value."""

    text: str
    image: Any
    keys: Keys
    answer: str | None


@dataclass(slots=True)
class Unread:
    """Turns of a data set that are not trained on (counts)."""

    follow_ups: int = 0
    systems: int = 0


@dataclass(slots=True)
class Turn:
    role: str
    texts: list[str]
    images: list[tuple[Any, Keys]]
    marks: int = 0

    @property
    def text(self) -> str:
        return "\n".join(text.strip() for text in self.texts if text.strip())


def column(row: Row) -> str | None:
    """The chat column of the row, where it has one."""
    return next((name for name in COLUMNS if row.get(name) is not None), None)


def exchanges(
    row: Row,
    place: str,
    image_columns: Iterable[str] = ("image", "images"),
    follow_ups: str = "refuse",
    unread: Unread | None = None,
) -> list[Exchange]:
    """All exchanges of one record, in order.

    Args:
        place: where the record stands, for messages.
        image_columns: where images may stand beside the messages.
        follow_ups: what becomes of a user turn without an image: one of `FOLLOW_UPS`.
        unread: counts the turns that are left out.
    """
    unread = Unread() if unread is None else unread
    name = column(row)
    assert name is not None
    messages = row[name]
    if not isinstance(messages, list):
        raise UserError(
            f"{place}: {name!r} is {type(messages).__name__}; "
            'expected a list such as [{"role": "user", "content": "..."}]'
        )
    numbered = [(number, _turn(message, (name, number), place)) for number, message in enumerate(messages)]
    unread.systems += sum(turn.role in SYSTEM for _, turn in numbered)
    turns = [(number, turn) for number, turn in numbered if turn.role not in SYSTEM]
    for (before, first), (number, second) in zip(turns, turns[1:]):
        if (first.role in USER) == (second.role in USER):
            raise UserError(
                f"{place}: {name}[{before}] and {name}[{number}] are both by {first.role!r}, and one of them would "
                "be lost; join the two, or leave the record out"
            )
    users = [turn for _, turn in turns if turn.role in USER]
    if users and turns[0][1].role in ASSISTANT:
        raise UserError(f"{place}: {name}[{turns[0][0]}] speaks before anything is asked; leave that turn out")
    _hand_out(list(_column_images(row, image_columns)), users, place)

    found: list[Exchange] = []
    image: tuple[Any, Keys] | None = None
    for at, (number, turn) in enumerate(turns):
        where = f"{name}[{number}]"
        if turn.role not in USER:
            continue
        if len(turn.images) > 1:
            raise UserError(
                f"{place}: {len(turn.images)} images in one question ({where}); one is read: "
                "split the question or leave the record out"
            )
        if not turn.images and any(user.images for user in users):
            if follow_ups == "refuse":
                raise UserError(
                    f"{place}: {where} asks on without an image of its own, and questions are learned one by one; set "
                    "`follow_ups: split` to make each a question of its own about the image before it, or "
                    "`follow_ups: leave_out`"
                )
            if follow_ups == "leave_out":
                unread.follow_ups += 1
                continue
            if image is None:
                raise UserError(
                    f"{place}: {where} asks before there is an image, so it can't stand alone; put the image first, or "
                    "set `follow_ups: leave_out`"
                )
        elif not turn.images:
            continue  # no image in the whole record: said below
        image = turn.images[0] if turn.images else image
        assert image is not None
        if not turn.text:
            raise UserError(f"{place}: {where} has an image but no text; add the question or remove the record")
        answer = turns[at + 1][1].text if at + 1 < len(turns) else ""
        found.append(Exchange(turn.text, *image, answer or None))
    if not found:
        raise UserError(
            f"{place}: no user turn has an image; expected one in the content or in a column 'images': "
            "add it or leave the record out"
        )
    return found


def _turn(message: Any, keys: Keys, place: str) -> Turn:
    where = f"{keys[0]}[{keys[1]}]"
    if not isinstance(message, dict):
        raise UserError(f'{place}: {where} is {type(message).__name__}; expected {{"role": "user", "content": ...}}')
    role = message.get("role") or message.get("from")
    if not isinstance(role, str):
        raise UserError(f"{place}: {where} has no role; expected 'user' or 'assistant' under 'role'")
    known = (*USER, *ASSISTANT, *SYSTEM)
    if role not in known:
        raise UserError(
            f"{place}: {where} has the role {role[:40]!r}, which isn't read; expected one of {', '.join(known)}: "
            "rename it, or leave the record out"
        )
    under = "value" if message.get("content") is None and "value" in message else "content"
    content = message.get(under)
    turn = Turn(role, [], [])
    if isinstance(content, str):
        content = [content]
    elif content is None or role in SYSTEM:
        return turn
    elif not isinstance(content, list):
        raise UserError(
            f"{place}: the content of {where} is {type(content).__name__}; expected text or a list of parts"
        )
    for number, part in enumerate(content):
        _part(turn, part, (*keys, under, number), place)
    if role in USER and not turn.images and not turn.marks:
        turn.marks = sum(text.count(MARK) for text in turn.texts)
        turn.texts = [text.replace(MARK, "") for text in turn.texts]
    return turn


def _part(turn: Turn, part: Any, keys: Keys, place: str) -> None:
    """Add one part of a turn's content: text, an image, or the mark of an image."""
    if isinstance(part, str):
        turn.texts.append(part)
        return
    where = f"{keys[0]}[{keys[1]}], part {keys[3]}"
    if not isinstance(part, dict):
        raise UserError(f'{place}: {where} is {type(part).__name__}; expected {{"type": "text", "text": ...}}')
    kind = part.get("type") or ("text" if part.get("text") is not None else "image")
    if kind == "text":
        if not isinstance(part.get("text"), str):
            raise UserError(f"{place}: {where} has no text; expected text under 'text'")
        turn.texts.append(part["text"])
    elif kind in ("image", "image_url") and turn.role in USER:
        key = next((key for key in ("image", "path", "url", "image_url", "bytes") if part.get(key)), None)
        if key is None:
            turn.marks += 1
        else:
            turn.images.append((part[key], (*keys, key)))
    else:
        raise UserError(f"{place}: {where} is of type {kind!r}; text and images are read: leave the record out")


def _column_images(row: Row, columns: Iterable[str]) -> Iterable[tuple[Any, Keys]]:
    for name in dict.fromkeys(columns):
        value = row.get(name)
        if isinstance(value, list):
            yield from ((item, (name, number)) for number, item in enumerate(value))
        elif value is not None:
            yield value, (name,)


def _hand_out(waiting: list[tuple[Any, Keys]], users: list[Turn], place: str) -> None:
    """Give the images of the columns to the user turns that mark them, in order."""
    marks = sum(turn.marks for turn in users)
    if marks == 0:
        if waiting and users:
            users[0].images += waiting
        return
    if marks != len(waiting):
        raise UserError(
            f"{place}: {marks} image marks in the messages but {len(waiting)} images beside them; "
            "there must be one image for each mark"
        )
    for turn in users:
        turn.images += waiting[: turn.marks]
        del waiting[: turn.marks]
