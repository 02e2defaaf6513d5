"""From the name of a source in a recipe to its rows: which file, folder, local data set or hub id it is.

In: the text from the recipe, a split, the recipe's folder. Out: `Source`: rows, the folder relative image paths start
at, and the name question ids begin with.
"""

import difflib
import importlib.util
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from masters_edge.common.errors import UserError
from masters_edge.common.files import at_home
from masters_edge.data.rows import JsonLines, Rows, Table, csv_rows, json_list

SUFFIXES = (".jsonl", ".json", ".parquet", ".csv")
METADATA = tuple(stem + suffix for stem in ("questions", "metadata") for suffix in SUFFIXES)
HUB_ID = re.compile(r"(?P<name>[A-Za-z0-9][\w.-]*(/[\w.-]+)?)(:(?P<config>[^:/\\]+))?")


class Unavailable(UserError):
    """The source isn't there: no such file, folder or hub id, or nothing here that could fetch or open it."""


@dataclass(frozen=True, slots=True)
class Source:
    rows: Rows
    root: Path
    name: str


def find(source: str, split: str | None, base: Path, columns: list[str]) -> Source:
    """Open the source; `columns` are those kept of a table that has more."""
    check(source, base)
    path = base / at_home(source)
    if path.is_file():
        return _file(path, split, columns)
    if path.is_dir():
        return _folder(path, None, split, columns)
    before, colon, config = source.rpartition(":")
    if colon and (base / at_home(before)).is_dir():
        return _folder(base / at_home(before), config, split, columns)
    match = HUB_ID.fullmatch(source)
    assert match is not None, source  # `check`
    return _hub(match["name"], match["config"], split, base, columns)


def check(source: str, base: Path) -> None:
    """That the source is there, as far as a look at the disk tells: a hub id may be there or not.

    Raises:
        Unavailable: there is no such file or folder, and no hub id looks so.
    """
    path = base / at_home(source)
    before, colon, _ = source.rpartition(":")
    if path.is_file() or path.is_dir() or colon and (base / at_home(before)).is_dir():
        return
    looks_local = source.startswith((".", "~")) or Path(source).suffix in SUFFIXES
    if looks_local or HUB_ID.fullmatch(source) is None:
        raise Unavailable(f"there is no data set {path}{_nearest_entry(path)}; mend `source` in the recipe")


def near(word: str, words: list[str]) -> str:
    """', did you mean ...?' where a word is near."""
    found = difflib.get_close_matches(word, words, n=1, cutoff=0.6)
    return f" (did you mean {found[0]!r}?)" if found else ""


def _nearest_entry(path: Path) -> str:
    try:
        return near(path.name, sorted(entry.name for entry in path.parent.iterdir()))
    except OSError:
        return f" (there is no folder {path.parent} either)" if not path.parent.is_dir() else ""


def _file(path: Path, split: str | None, columns: list[str]) -> Source:
    if split is not None:
        raise UserError(f"{path} is one file without splits, but split {split!r} is asked for; remove `split`")
    suffix = path.suffix.lower()
    rows: Rows
    if suffix == ".parquet":
        rows = Table(str(path), _load(str(path), lambda hf: _parquet(hf, path)), columns)
    elif suffix == ".jsonl":
        rows = JsonLines(path)
    elif suffix == ".json":
        rows = json_list(path)
    elif suffix == ".csv":
        rows = csv_rows(path)
    else:
        raise UserError(f"{path}: the suffix {path.suffix!r} isn't read; expected one of: {', '.join(SUFFIXES)}")
    return Source(rows, path.parent, path.stem)


def _parquet(hf: Any, path: Path) -> Any:
    import pyarrow.parquet

    if pyarrow.parquet.read_metadata(path).num_rows == 0:  # datasets fails on it with a message about batch sizes
        raise UserError(f"{path} holds no questions; give a data set with at least one row")
    return hf.Dataset.from_parquet(str(path.resolve()))


def _saved(hf: Any, path: Path) -> Any:
    try:
        return hf.load_from_disk(str(path))
    except IndexError:  # what datasets 5.2 says to a saved data set without rows
        raise UserError(f"{path} holds no questions, or one of its splits holds none; save it without that") from None


def _folder(path: Path, config: str | None, split: str | None, columns: list[str]) -> Source:
    """A saved data set, a folder of images with its metadata file, or a folder of Parquet as the hub lays it out."""
    name = path.resolve().name
    if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
        loaded = _load(str(path), lambda hf: _saved(hf, path))
        return Source(*_one_split(loaded, str(path), split, columns, path, name))
    inner = path / split if split is not None else path
    metadata = [inner / file for file in METADATA if (inner / file).is_file()]
    if len(metadata) > 1:
        both = " and ".join(file.name for file in metadata[:2])
        raise UserError(f"{inner} holds both {both}; keep one, or name the file itself as `source`")
    if metadata:
        found = _file(metadata[0], None, columns)
        return Source(found.rows, inner, name if split is None else f"{name}/{split}")
    splits = sorted({file.parent.name for pattern in METADATA for file in path.glob(f"*/{pattern}")})
    if splits:
        raise _which_split(str(path), split, splits)
    if any(path.rglob("*.parquet")):
        loaded = _load(str(path), lambda hf: hf.load_dataset(str(path.resolve()), config))
        return Source(*_one_split(loaded, str(path), split, columns, path, name))
    present = next((file for file in METADATA if (path / file).is_file()), None)
    if present:
        raise UserError(f"{path} holds {present} and no splits, but split {split!r} is asked for; remove `split`")
    raise UserError(
        f"{path} holds no questions; expected one of {', '.join(METADATA)} beside the images, Parquet files, "
        "or a folder that datasets' save_to_disk wrote"
    )


def _hub(hub_id: str, config: str | None, split: str | None, base: Path, columns: list[str]) -> Source:
    shown = hub_id if config is None else f"{hub_id}:{config}"
    loaded = _load(shown, lambda hf: hf.load_dataset(hub_id, config, split=split), here=base / shown)
    chosen = split if split is not None and not isinstance(loaded, dict) else None
    if chosen is not None:
        return Source(Table(f"{shown} ({chosen})", loaded, columns), base, f"{shown}/{chosen}")
    return Source(*_one_split(loaded, shown, split, columns, base, shown))


def _one_split(
    loaded: Any, shown: str, split: str | None, columns: list[str], root: Path, name: str
) -> tuple[Rows, Path, str]:
    """The split asked for of a DatasetDict, or its only one; a Dataset as it is."""
    if not isinstance(loaded, dict):
        if split is not None and str(loaded.split) != split:
            raise UserError(f"{shown} is one data set without splits, but split {split!r} is asked for; remove `split`")
        return Table(shown, loaded, columns), root, name
    names = list(loaded)
    if split is None and len(names) == 1:
        split = names[0]
    if split not in names:
        raise _which_split(shown, split, names)
    return Table(f"{shown} ({split})", loaded[split], columns), root, f"{name}/{split}"


def _which_split(shown: str, split: str | None, there: list[str]) -> UserError:
    asked = f"no split {split!r}" if split is not None else "several splits and no `split` is given"
    return UserError(f"{shown} has {asked}; set `split` to one of: {', '.join(there)}")


def _load(shown: str, load: Callable[[Any], Any], here: Path | None = None) -> Any:
    """Call `load` with the `datasets` library; its errors become one sentence. `here`: where no local file was."""
    if importlib.util.find_spec("datasets") is None:
        raise Unavailable(f"reading {shown} needs the datasets library; run: pip install 'masters-edge[distill]'")
    import datasets
    from datasets.exceptions import DatasetNotFoundError, DatasetsError

    local = f" (and there is no file or folder {here})" if here is not None else ""
    try:
        return load(datasets)
    except DatasetNotFoundError:
        raise Unavailable(
            f"there is no data set {shown!r} on the hub, or it is private{local}; "
            "mend `source`, or log in with `hf auth login`"
        ) from None
    except ConnectionError as error:
        raise Unavailable(
            f"the hub can't be reached for the data set {shown!r}{local} ({_brief(error)}); "
            "connect, or give a local file or folder as `source`"
        ) from None
    except (DatasetsError, OSError, ValueError, RuntimeError, TypeError) as error:
        raise UserError(f"the data set {shown} can't be loaded: {_brief(error.__cause__ or error)}") from None


def _brief(error: BaseException) -> str:
    """The first line of a library's message."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".")[:300] if lines else type(error).__name__
