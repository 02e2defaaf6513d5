"""`read`: the questions of any source, as one list of `Question`; images stay where they are until they are opened.

Sources: `easy-vqa`; a folder of images with one metadata file; a .jsonl, .json, .parquet or .csv file; a folder that
datasets' `save_to_disk` wrote; a hub id ("name" or "name:config"). In any of them a row is either image, question,
optional answer and id, or a chat record (see chat.py).
"""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from masters_edge.common.errors import UserError
from masters_edge.common.files import at_home
from masters_edge.data import chat, easy_vqa, sources
from masters_edge.data.images import ImageFinder, MissingImage
from masters_edge.data.left_out import LeftOut, usable
from masters_edge.data.records import Question
from masters_edge.data.rows import Row, Rows
from masters_edge.scoring import metrics

if TYPE_CHECKING:
    from masters_edge.recipe.schema import Source


# Columns that hold labels in published data sets; one of these beside no answer column is a label that isn't read.
LIKE_ANSWERS = (
    *("label", "labels", "class", "target", "targets", "gold", "gt", "ground_truth", "reference", "references"),
    *("response", "responses", "output", "outputs", "solution", "ans"),
)


@dataclass(frozen=True, slots=True)
class Columns:
    image: str
    question: str
    answer: str | None
    metric: str | None = None

    @property
    def images(self) -> tuple[str, ...]:
        """Where the image may stand: datasets' imagefolder calls it file_name, TRL and ms-swift images."""
        return (self.image, "file_name", "images") if self.image == "image" else (self.image,)

    @property
    def all(self) -> list[str]:
        named = [name for name in (self.answer, self.metric) if name is not None]
        return [*self.images, "images", self.question, *named, "id", *chat.COLUMNS]


def read_source(source: "Source", base: Path, left_out: LeftOut | None = None) -> list[Question]:
    """All questions of a recipe's `data.train` or `data.test`; `base`: the recipe's folder. As `read`."""
    values = source.model_dump()
    root = values.pop("image_root")
    return read(values.pop("source"), base=base, image_root=Path(root) if root else None, left_out=left_out, **values)


def read(
    source: str,
    *,
    split: str | None = None,
    base: Path,
    image_column: str = "image",
    question_column: str = "question",
    answer_column: str | None = "answer",
    metric_column: str | None = None,
    image_root: Path | None = None,
    follow_ups: str = "refuse",
    on_error: str = "stop",
    most_skipped: float = 0.05,
    left_out: LeftOut | None = None,
) -> list[Question]:
    """All questions of a source, in its order.

    A relative `source` or `image_root` starts at `base` (the recipe's folder); a relative image path starts at
    `image_root`, or else at the folder of the metadata file (of the saved data set; of the recipe for a hub id).
    An answer that is missing or blank is None; a whole number becomes text; of a list of texts the most frequent is
    the answer and all are kept in `answers`; an `answer_column` of None reads none. Ids come from a column `id`, or
    else count the rows. `metric_column` names the rule that scores answers to each question (or `judge`); where it is
    empty the question has none of its own.

    `follow_ups` says what becomes of chats' turns without an image (`chat.FOLLOW_UPS`). With `on_error` "skip"
    questions whose image is missing or can't be decoded are left out, at most `most_skipped` of all (a share);
    `left_out` hears of both.

    Holds one light record a question: embedded images are read (and hashed, about a second per gigabyte) once to find
    equal ones, but not kept. Parquet is mapped through datasets' cache on disk. Raises UserError for a missing source,
    split, column or image file (all missing ones in one), an invalid row, an image that isn't one, an id used twice,
    labels in a column that isn't read, an unknown metric, a file that can't be opened, and no rows at all.
    """
    left_out = LeftOut() if left_out is None else left_out
    if source == "easy-vqa":
        if split is None:
            raise UserError(f"easy-vqa needs a `split`; set it to one of: {', '.join(easy_vqa.SPLITS)}")
        if metric_column is not None:
            raise UserError(f"easy-vqa has no column {metric_column!r}; leave `metric_column` out")
        return easy_vqa.read(split)
    columns = Columns(image_column, question_column, answer_column, metric_column)
    try:
        found = sources.find(source, split, base, columns.all)
        root = found.root if image_root is None else base / at_home(str(image_root))
        images = ImageFinder(found.rows, root, found.name)
        reader = _Reader(found.rows, columns, images, found.name, follow_ups, left_out.turns)
        questions = [question for index, row in enumerate(found.rows) for question in reader.questions(row, index)]
    except OSError as error:  # no right to read it, a broken disk
        where = error.filename or source
        raise UserError(f"{where} can't be read ({error.strerror or error}); mend its rights, or the disk") from None
    if not questions and not reader.missing:
        raise UserError(f"{found.rows.name} holds no questions; give a data set with at least one row")
    reader.check_answers()
    reader.check_metrics()
    return usable(questions, reader.missing, found.rows.name, on_error, most_skipped, left_out)


class _Reader:
    """Turns the rows of one source into questions, and remembers what only the whole data set can tell."""

    def __init__(
        self, rows: Rows, columns: Columns, images: ImageFinder, name: str, follow_ups: str, turns: chat.Unread
    ) -> None:
        self.rows = rows
        self.columns = columns
        self.images = images
        self.name = name
        self._all_columns: list[str] | None = getattr(rows, "columns", None)
        self._seen_columns: set[str] = set(self._all_columns or ())
        self._seen_ids: dict[str, int] = {}
        self._plain = False
        self._unread: tuple[str, str] | None = None
        self.follow_ups, self.turns = follow_ups, turns
        self.missing: list[MissingImage] = []

    def questions(self, row: Row, index: int) -> list[Question]:
        if self._all_columns is None:
            self._seen_columns.update(row)
        if row.get(self.columns.question) is None and chat.column(row) is not None:
            return self._chat(row, index)
        self._plain = True
        place = self.rows.place(index)
        text = row.get(self.columns.question)
        if text is None:
            self._missing(row, index, "question", self.columns.question)
        if not isinstance(text, str) or not text.strip():
            raise UserError(
                f"{place}: {self.columns.question!r} is {_shown(text)}; expected the question as text: "
                "mend it or leave the row out"
            )
        image_column = next((name for name in self.columns.images if row.get(name) is not None), None)
        if image_column is None:
            self._missing(row, index, "image", self.columns.image)
        _whole(text, place, self.columns.question)
        answer, answers = self._answer(row, place)
        question_id = self._id(row, index)
        try:
            image, image_id = self.images.find(row[image_column], index, (image_column,))
        except MissingImage as missing:
            self.missing.append(missing)
            return []
        return [Question(question_id, text, image, image_id, answer, answers, self._metric(row, place))]

    def _answer(self, row: Row, place: str, known: bool = False) -> tuple[str | None, tuple[str, ...]]:
        """The row's label and all that are accepted; `known`: a chat says it already."""
        column = self.columns.answer
        if column is None:
            return None, ()
        if column not in row and self._unread is None and not known:
            other = next((name for name in row if _like_answer(name) and row[name] not in (None, "", [])), None)
            self._unread = (other, place) if other else None
        answer, answers = _answer(row.get(column), place, column)
        for text in (*answers, answer or ""):
            _whole(text, place, column)
        return answer, answers

    def _chat(self, row: Row, index: int) -> list[Question]:
        """A chat record's questions: the first has the record's id, the following ones #1, #2 behind it."""
        place = self.rows.place(index)
        row_id, metric = self._id(row, index), self._metric(row, place)
        exchanges = chat.exchanges(row, place, (self.columns.image, "images"), self.follow_ups, self.turns)
        answer, answers = self._answer(row, place, known=all(exchange.answer for exchange in exchanges))
        if answer is not None and (len(exchanges) > 1 or exchanges[0].answer not in (None, answer)):
            raise UserError(
                f"{place}: there is an answer in the chat and another under {self.columns.answer!r}; keep one, or name "
                "another `answer_column` (none: the chat's own)"
            )
        found = []
        for number, exchange in enumerate(exchanges):
            question_id = self._claim(f"{row_id}#{number}", index) if number else row_id
            for text in (exchange.text, exchange.answer or ""):
                _whole(text, place, str(exchange.keys[0]))
            said = answer if exchange.answer is None else exchange.answer
            try:
                image, image_id = self.images.find(exchange.image, index, exchange.keys)
            except MissingImage as missing:
                self.missing.append(missing)
                continue
            found.append(Question(question_id, exchange.text, image, image_id, said, answers, metric))
        return found

    def check_answers(self) -> None:
        """A data set may have no answers; a misspelt column, or labels in another one, must not pass for that."""
        wanted = self.columns.answer
        if wanted is None:
            return
        seen, others = self._seen_columns, self._seen_columns - {*self.columns.images, self.columns.question, "id"}
        others -= set(chat.COLUMNS)
        if wanted not in seen and self._plain and (wanted != "answer" or any(map(_like_answer, others))):
            there = f"one of: {', '.join(sorted(others))}, or to " if others else ""
            raise UserError(
                f"{self.rows.name} has no column {wanted!r}{sources.near(wanted, sorted(others))}; set `answer_column` "
                f"to {there}none (`null`) where the questions have no labels"
            )
        if self._unread is not None:
            column, place = self._unread
            raise UserError(
                f"{place}: there is no {wanted!r} but {column!r}, which isn't read; call the column {wanted!r} in "
                "every row, or set `answer_column`, to none (`null`) where the questions have no labels"
            )

    def _metric(self, row: Row, place: str) -> str | None:
        """The name of the rule in the row's metric column, or None where there is none."""
        column = self.columns.metric
        name = None if column is None else row.get(column)
        if name is None or isinstance(name, str) and not name.strip():
            return None
        known = [*metrics.names(), metrics.JUDGE]
        if not isinstance(name, str):
            raise UserError(f"{place}: {column!r} is {_shown(name)}; expected the name of a metric: {', '.join(known)}")
        if name.strip() not in known:
            hint = sources.near(name.strip(), known) or f"; use one of: {', '.join(known)}"
            raise UserError(f"{place}: {column!r} is {name!r}, which is no metric{hint}")
        return name.strip()

    def check_metrics(self) -> None:
        """A misspelt metric column must not pass for one that is empty throughout."""
        wanted = self.columns.metric
        if wanted is not None and wanted not in self._seen_columns:
            others = sorted(self._seen_columns)
            raise UserError(
                f"{self.rows.name} has no column {wanted!r}{sources.near(wanted, others)}; set `metric_column` to one "
                f"of: {', '.join(others)}; or leave it out"
            )

    def _missing(self, row: Row, index: int, what: str, column: str) -> NoReturn:
        place = self.rows.place(index)
        known = list(row) if self._all_columns is None else self._all_columns
        if column in known or (what == "image" and set(self.columns.images) & set(known)):
            raise UserError(f"{place}: no {what} ({column!r} is empty); add it or leave the row out")
        raise UserError(
            f"{place}: there is no {column!r}{sources.near(column, known)}, only: {', '.join(map(repr, known))}; "
            f"set `{what}_column` to the one that holds the {what}"
        )

    def _id(self, row: Row, index: int) -> str:
        given = row.get("id")
        if given is None:
            question_id = f"{self.name}/{index}"
        elif isinstance(given, str | int) and not isinstance(given, bool):
            question_id = str(given)
        else:
            raise UserError(f"{self.rows.place(index)}: 'id' is {_shown(given)}; expected text or a whole number")
        _whole(question_id, self.rows.place(index), "id")
        return self._claim(question_id, index)

    def _claim(self, question_id: str, index: int) -> str:
        """The id, which nothing may have had before, a constructed one (`row/3`, `a#1`) like one that is given."""
        first = self._seen_ids.setdefault(question_id, index)
        if first != index:
            raise UserError(
                f"{self.rows.place(index)}: the id {question_id!r} was used before ({self.rows.place(first)}); "
                "ids must differ: change one or remove the column"
            )
        return question_id


def _like_answer(column: str) -> bool:
    name = column.lower()
    return name in LIKE_ANSWERS or name.startswith("answer") or name.endswith(("_answer", "_label"))


def _whole(text: str, place: str, column: str) -> None:
    """Refuse text that no tokenizer and no file takes as it is."""
    try:
        whole = b"\0" not in text.encode()
    except UnicodeEncodeError:
        whole = False
    if not whole:
        raise UserError(
            f"{place}: {column!r} holds a zero byte or half a character (a lone surrogate); mend the text or leave the "
            "row out"
        )


def _answer(value: Any, place: str, column: str) -> tuple[str | None, tuple[str, ...]]:
    """(the answer, all accepted answers where there are several)."""
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        given = [item for item in value if item.strip()]
        if not given:
            return None, ()
        most_frequent = Counter(given).most_common(1)[0][0]  # the first of equally frequent ones
        return most_frequent, tuple(given) if len(given) > 1 else ()
    if value is None or isinstance(value, str):
        return (value if value and value.strip() else None), ()
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value), ()
    raise UserError(
        f"{place}: {column!r} is {_shown(value)}; expected text or a list of texts: write the answer as text"
    )


def _shown(value: Any) -> str:
    text = repr(value)
    return f"{text if len(text) <= 40 else text[:40] + '...'} ({type(value).__name__})"
