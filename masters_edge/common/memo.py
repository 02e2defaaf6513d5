"""What a process that trains one student after another keeps from run to run; nothing unless it asks for that.

For workers of `masters-edge ablate`, whose runs read the same questions and build the same prompts again and again.
"""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

Value = TypeVar("Value")

_MOST = 4  # of each kind, the most recently used
_kept: dict[str, OrderedDict[Hashable, Any]] | None = None


def begin() -> None:
    """From now on `once` keeps what it makes. For processes that nobody changes files under."""
    global _kept
    if _kept is None:
        _kept = {}


def once(kind: str, key: Callable[[], Hashable], make: Callable[[], Value]) -> Value:
    """What `make` returns, or returned for this kind and key before."""
    if _kept is None:
        return make()
    own, name = _kept.setdefault(kind, OrderedDict()), key()
    if name not in own:
        own[name] = make()
    own.move_to_end(name)
    while len(own) > _MOST:
        own.popitem(last=False)
    return own[name]
