"""ablation.png: arms by group as a forest plot, from the values of `ablation.json`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any


def draw(found: Mapping[str, Any], path: Path) -> None:
    """placeholder"""
