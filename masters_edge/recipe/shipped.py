"""The recipes that come with masters-edge: which there are, where they lie, and the text of one's own copy.

In a clone they are `recipes/`, in an installed masters-edge the package's own data: the same files. Whatever they name
beside them, as the demo's checkpoints, comes with them. A board has none.
"""

import difflib
import json
import re
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from masters_edge.common.errors import UserError

_BESIDE = re.compile(r"(?<![\w./])\./[\w./-]+")
_EDITORS = re.compile(r"^# yaml-language-server:.*\n", re.MULTILINE)


@dataclass(frozen=True)
class Shipped:
    """`name` is the path without its ending, as in `accelerate/fsdp2`; `about` is the file's first sentence."""

    name: str
    path: Path
    about: str


def shipped() -> list[Shipped]:
    """All of them: the recipes by name, then the settings for several processes.

    Raises:
        UserError: this installation has none.
    """
    try:
        folder = Path(str(resources.files("masters_edge.recipes")))
    except ModuleNotFoundError:
        raise UserError(
            "this masters-edge comes without recipes, as a board's does; install it with: pip install masters-edge"
        ) from None
    return [
        Shipped(path.relative_to(folder).with_suffix("").as_posix(), path, _about(path))
        for path in (*sorted(folder.glob("*.yaml")), *sorted(folder.glob("accelerate/*.yaml")))
    ]


def find(name: str) -> Shipped:
    """The recipe of that name, with or without `.yaml`.

    Raises:
        UserError: there is none; says which there are.
    """
    known = {one.name: one for one in shipped()}
    if (found := known.get(name.removesuffix(".yaml"))) is not None:
        return found
    near = difflib.get_close_matches(name, known, n=1)
    remedy = f"did you mean {near[0]}?" if near else f"there are: {', '.join(known)}"
    raise UserError(f"no recipe {name!r} comes with masters-edge; {remedy}")


def copied(name: str) -> str:
    """The text for a file of one's own, comments and all, which may lie anywhere on this machine.

    What lies beside the recipe, such as the demo's checkpoints, is named by its whole path; everything else that is no
    hub id starts at the copy's folder, as in any recipe, and is for its owner to bring.
    """
    found = find(name)
    text = found.path.read_text(encoding="utf-8")
    if _EDITORS.search(text) is None:  # no recipe
        return text
    lines = [line.partition("#") for line in text.splitlines(keepends=True)]
    moved = "".join(
        _BESIDE.sub(lambda near: _whole(near[0], found.path.parent), line[0]) + "".join(line[1:]) for line in lines
    )
    note = f"# A copy of masters-edge's recipe {found.name}. Paths start at the folder of this file"
    note += ".\n" if moved == text else "; the checkpoints' are masters-edge's own.\n"
    note += "# For an editor that completes and checks it: masters-edge schema > recipe.schema.json\n"
    return _EDITORS.sub(f"{note}# yaml-language-server: $schema=./recipe.schema.json\n", moved, count=1)


def _whole(near: str, folder: Path) -> str:
    """A path beside the recipe as a quoted absolute one; as it is where nothing lies there."""
    return json.dumps((folder / near).as_posix(), ensure_ascii=False) if (folder / near).exists() else near


def _about(path: Path) -> str:
    """The first sentence of the comment at the top."""
    comment = path.read_text(encoding="utf-8").splitlines()[0].removeprefix("#").strip()
    return re.split(r"(?<=\.)\s", comment)[0].rstrip(".")
