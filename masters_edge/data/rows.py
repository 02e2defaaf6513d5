"""Rows of a data set by number, whatever the file: JSON lines, a JSON list, CSV, Parquet, a `datasets` data set.

In: a path or a loaded data set. Out: `Rows`, which iterates once from the first row to the last, fetches a single row
again later (how an embedded image is read), and says in words where a row stands. Pixels are never decoded, and only
CSV and JSON lists are held in memory.
"""

import csv
import io
import json
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from masters_edge.common.errors import UserError

Row = dict[str, Any]


class Rows(Protocol):
    name: str
    """The file or data set, as messages call it."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Row]: ...

    def __getitem__(self, index: int) -> Row: ...

    def place(self, index: int) -> str:
        """Where the row stands, e.g. 'questions.jsonl, line 4'."""


def _row(value: Any, place: str) -> Row:
    if not isinstance(value, dict):
        raise UserError(
            f'{place}: expected an object such as {{"image": "a.png", "question": "..."}}, '
            f"found {type(value).__name__}; mend or remove it"
        )
    return value


def _not_utf8(place: str, error: UnicodeDecodeError) -> UserError:
    return UserError(f"{place}: the text isn't UTF-8 (byte {error.start}); save the file as UTF-8")


class JsonLines:
    """A .jsonl file; holds 16 bytes a row (where its line starts, its number) and reads a line again when asked."""

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        self.path = path
        self._starts = array("Q")
        self._lines = array("Q")  # line numbers: blank lines are no rows
        with path.open("rb") as file:
            start = 0
            for number, line in enumerate(file, 1):
                if line.strip(b"\xef\xbb\xbf \t\r\n"):
                    self._starts.append(start)
                    self._lines.append(number)
                start += len(line)

    def __len__(self) -> int:
        return len(self._starts)

    def __iter__(self) -> Iterator[Row]:
        with self.path.open("rb") as file:
            for index, start in enumerate(self._starts):
                file.seek(start)
                yield self._parse(file.readline(), index)

    def __getitem__(self, index: int) -> Row:
        with self.path.open("rb") as file:
            file.seek(self._starts[index])
            return self._parse(file.readline(), index)

    def place(self, index: int) -> str:
        return f"{self.name}, line {self._lines[index]}"

    def _parse(self, line: bytes, index: int) -> Row:
        place = self.place(index)
        try:
            value = json.loads(line.decode("utf-8-sig" if index == 0 else "utf-8"))
        except UnicodeDecodeError as error:
            raise _not_utf8(place, error) from None
        except json.JSONDecodeError as error:
            raise UserError(
                f"{place}: not valid JSON ({error.msg} at column {error.colno}); "
                "every line must hold one whole JSON object"
            ) from None
        except RecursionError:
            raise UserError(f"{place}: the JSON is nested too deeply; expected one flat object a line") from None
        except ValueError as error:  # a whole number of more digits than Python reads
            raise UserError(f"{place}: the JSON holds what can't be read ({error}); mend the line") from None
        return _row(value, place)


class MemoryRows:
    """A JSON list or a CSV file, held in memory."""

    def __init__(self, name: str, rows: list[Row], places: list[str]) -> None:
        self.name = name
        self._rows = rows
        self._places = places

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[Row]:
        return iter(self._rows)

    def __getitem__(self, index: int) -> Row:
        return self._rows[index]

    def place(self, index: int) -> str:
        return f"{self.name}, {self._places[index]}"


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise _not_utf8(str(path), error) from None


def json_list(path: Path) -> MemoryRows:
    try:
        values = json.loads(_text(path))
    except json.JSONDecodeError as error:
        if error.msg == "Extra data":
            raise UserError(
                f"{path}, line {error.lineno}: expected one JSON list, found a second JSON value; "
                "put the objects into a list, or rename a file with one object a line to .jsonl"
            ) from None
        raise UserError(
            f"{path}, line {error.lineno}: not valid JSON ({error.msg} at column {error.colno}); "
            "the file must hold one list of objects"
        ) from None
    except RecursionError:
        raise UserError(f"{path}: the JSON is nested too deeply; expected a list of flat objects") from None
    except ValueError as error:  # a whole number of more digits than Python reads
        raise UserError(f"{path}: the JSON holds what can't be read ({error}); mend the file") from None
    if not isinstance(values, list):
        raise UserError(
            f"{path}: expected a list of objects with image and question, found {type(values).__name__}; "
            "put the objects into a list, or rename a file with one object a line to .jsonl"
        )
    places = [f"item {index} (counting from 0)" for index in range(len(values))]
    return MemoryRows(str(path), [_row(v, f"{path}, {place}") for v, place in zip(values, places)], places)


def csv_rows(path: Path) -> MemoryRows:
    """A CSV file with a header line; an empty cell is a missing value."""
    rows: list[Row] = []
    places: list[str] = []
    reader = csv.reader(io.StringIO(_text(path), newline=""))
    try:
        header = next(reader, [])
        twice = next((column for column in header if header.count(column) > 1), None)
        if twice is not None:
            raise UserError(f"{path}, line 1: the header names the column {twice!r} twice; rename or remove one")
        for cells in reader:
            if not cells:
                continue
            if len(cells) != len(header):
                raise UserError(
                    f"{path}, line {reader.line_num}: {len(cells)} cells, but the header names {len(header)} columns; "
                    'put text that holds commas between double quotes ("")'
                )
            rows.append({key: cell or None for key, cell in zip(header, cells)})
            places.append(f"line {reader.line_num}")
    except csv.Error as error:
        raise UserError(
            f"{path}, line {reader.line_num}: not valid CSV ({error}); mend the line, or use JSON lines"
        ) from None
    return MemoryRows(str(path), rows, places)


class Table:
    """A `datasets.Dataset` (memory-mapped Arrow): rows as stored, images as bytes, class labels by their names."""

    def __init__(self, name: str, dataset: Any, columns: list[str]) -> None:
        self.name = name
        self.columns = list(dataset.column_names)
        kept = dataset.select_columns([column for column in columns if column in self.columns])
        self._stored = {name: feature for name, feature in kept.features.items() if _is_stored_otherwise(feature)}
        self._arrow = kept.with_format("arrow")

    def __len__(self) -> int:
        return len(self._arrow)

    def __iter__(self) -> Iterator[Row]:
        for batch in self._arrow.iter(batch_size=32):  # small: a batch holds the images' bytes
            yield from map(self._plain, batch.to_pylist())

    def __getitem__(self, index: int) -> Row:
        return self._plain(self._arrow[index].to_pylist()[0])

    def place(self, index: int) -> str:
        return f"{self.name}, row {index} (counting from 0)"

    def _plain(self, row: Row) -> Row:
        for column, feature in self._stored.items():
            row[column] = _as_meant(feature, row[column])
        return row


def _parts(feature: Any) -> list[Any]:
    """What a nested feature of `datasets` is made of: a struct's fields or a list's item."""
    if isinstance(feature, dict):
        return list(feature.values())
    return [feature.feature] if hasattr(feature, "feature") else []


def _is_stored_otherwise(feature: Any) -> bool:
    return type(feature).__name__ in ("Json", "ClassLabel") or any(map(_is_stored_otherwise, _parts(feature)))


def _as_meant(feature: Any, value: Any) -> Any:
    """Undo what `datasets` stores otherwise: mixed values (text here, a list of parts there) as JSON text, and class
    labels as their numbers, -1 for none."""
    if value is None:
        return None
    if type(feature).__name__ == "Json":
        return json.loads(value) if isinstance(value, str) else value
    if type(feature).__name__ == "ClassLabel":
        return feature.names[value] if 0 <= value < len(feature.names) else None
    if isinstance(feature, dict):
        return {key: _as_meant(part, value.get(key)) for key, part in feature.items()}
    if hasattr(feature, "feature"):
        return [_as_meant(feature.feature, item) for item in value]
    return value
