"""The cells of a table that `make test` runs, and the others, which `make test-all` adds."""

from collections.abc import Iterable
from typing import Any

import pytest


def cells(every: Iterable[Any], fast: Iterable[Any]) -> list[Any]:
    """Parameters for `pytest.mark.parametrize`: all of `every`, those that aren't in `fast` marked wide.

    Raises:
        ValueError: `fast` has one that `every` hasn't.
    """
    every, fast = list(every), list(fast)
    if unknown := [cell for cell in fast if cell not in every]:
        raise ValueError(f"no such cells: {unknown}")
    return [
        pytest.param(*cell, marks=marks) if isinstance(cell, tuple) else pytest.param(cell, marks=marks)
        for cell in every
        for marks in ([] if cell in fast else [pytest.mark.wide],)
    ]
