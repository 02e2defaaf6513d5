"""Where this user's caches go: what can be made again, but takes a while."""

import os
import sys
from pathlib import Path


def folder() -> Path:
    """`MASTERS_EDGE_CACHE` where it is set, else the system's usual place below the user's home."""
    if given := os.environ.get("MASTERS_EDGE_CACHE"):
        return Path(given)
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "masters-edge" / "cache"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "masters-edge"
    base = Path(os.environ.get("XDG_CACHE_HOME") or "")
    return (base if base.is_absolute() else Path.home() / ".cache") / "masters-edge"
