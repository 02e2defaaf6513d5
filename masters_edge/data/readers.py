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
from masters_edge.data.images import ImageFinder
from masters_edge.data.records import Question
from masters_edge.data.rows import Row, Rows
from masters_edge.scoring import metrics

if TYPE_CHECKING:
    from masters_edge.recipe.schema import Source


@dataclass(frozen=True, slots=True)
class Columns:
    image: str
    question: str
    answer: str
    metric: str | None = None

    @property
    def images(self) -> tuple[str, ...]:
        """Where the image may stand: datasets' imagefolder calls it file_name, TRL and ms-swift images."""
        return (self.image, "file_name", "images") if self.image == "image" else (self.image,)

    @property
    def all(self) -> list[str]:
        metric = [] if self.metric is None else [self.metric]
        return [*self.images, "images", self.question, self.answer, *metric, "id", *chat.COLUMNS]


def read_source(source: "Source", base: Path) -> list[Question]:
    """All questions of a recipe's `data.train` or `data.test`; `base`: the recipe's folder. As `read`."""
    values = source.model_dump()
    root = values.pop("image_root")
    return read(values.pop("source"), base=base, image_root=Path(root) if root else None, **values)


def read(
    source: str,
    *,
    split: str | None = None,
    base: Path,
    image_column: str = "image",
    question_column: str = "question",
    answer_column: str = "answer",
    metric_column: str | None = None,
    image_root: Path | None = None,
) -> list[Question]:
    """All questions of a source, in its order.

    A relative `source` or `image_root` starts at `base` (the recipe's folder); a relative image path starts at
    `image_root`, or else at the folder of the metadata file (of the saved data set; of the recipe for a hub id).
    An answer that is missing or blank is None; a whole number becomes text; of a list of texts the most frequent is
    the answer and all are kept in `answers`. Ids come from a column `id`, or else count the rows. `metric_column` names
    the rule that scores answers to each question (or `judge`); where it is empty the question has none of its own.

    Holds one light record a question: embedded images are read (and hashed, about a second per gigabyte) once to find
    equal ones, but not kept. Parquet is mapped through datasets' cache on disk. Raises UserError for a missing source,
    split, column or image file, an invalid row, an image that isn't one, an id used twice, an unknown metric, and no
    rows at all.
    """
    if source == "easy-vqa":
        if split is None:
            raise UserError(f"easy-vqa needs a `split`; set it to one of: {', '.join(easy_vqa.SPLITS)}")
        if metric_column is not None:
            raise UserError(f"easy-vqa has no column {metric_column!r}; leave `metric_column` out")
        return easy_vqa.read(split)
    columns = Columns(image_column, question_column, answer_column, metric_column)
    found = sources.find(source, split, base, columns.all)
    root = found.root if image_root is None else base / at_home(str(image_root))
    reader = _Reader(found.rows, columns, ImageFinder(found.rows, root, found.name), found.name)
    questions = [question for index, row in enumerate(found.rows) for question in reader.questions(row, index)]
    if not questions:
        raise UserError(f"{found.rows.name} holds no questions; give a data set with at least one row")
    reader.check_answers()
    reader.check_metrics()
    return questions


class _Reader:
    """Turns the rows of one source into questions, and remembers what only the whole data set can tell."""

    def __init__(self, rows: Rows, columns: Columns, images: ImageFinder, name: str) -> None:
        self.rows = rows
        self.columns = columns
        self.images = images
        self.name = name
        self._all_columns: list[str] | None = getattr(rows, "columns", None)
        self._seen_columns: set[str] = set(self._all_columns or ())
        self._seen_ids: dict[str, int] = {}
        self._plain = False

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
        image, image_id = self.images.find(row[image_column], index, (image_column,))
        answer, answers = _answer(row.get(self.columns.answer), place, self.columns.answer)
        return [Question(self._id(row, index), text, image, image_id, answer, answers, self._metric(row, place))]

    def _chat(self, row: Row, index: int) -> list[Question]:
        """A chat record's questions: the first has the record's id, the following ones #1, #2 behind it."""
        row_id = self._id(row, index)
        metric = self._metric(row, self.rows.place(index))
        found = []
        for number, exchange in enumerate(chat.exchanges(row, self.rows.place(index), (self.columns.image, "images"))):
            image, image_id = self.images.find(exchange.image, index, exchange.keys)
            question_id = f"{row_id}#{number}" if number else row_id
            found.append(Question(question_id, exchange.text, image, image_id, exchange.answer, metric=metric))
        return found

    def check_answers(self) -> None:
        """A data set may have no answers; a misspelt column of answers must not pass for that."""
        wanted = self.columns.answer
        if not self._plain or wanted in self._seen_columns:
            return
        others = self._seen_columns - {*self.columns.images, self.columns.question, "id"}
        hint = sources.near(wanted, sorted(others))
        if wanted != "answer" or hint and any(name.startswith("answer") for name in others):
            raise UserError(
                f"{self.rows.name} has no column {wanted!r}{hint}; set `answer_column` to one of: "
                f"{', '.join(sorted(others)) or 'nothing (there is no other column)'}"
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
                f"of: {', '.join(others) or 'nothing (there is no column)'}"
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
        first = self._seen_ids.setdefault(question_id, index)
        if first != index:
            raise UserError(
                f"{self.rows.place(index)}: the id {question_id!r} was used before ({self.rows.place(first)}); "
                "ids must differ: change one or remove the column"
            )
        return question_id


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
