"""Ways to choose a weight's integers and scales, by name. Nothing heavy is imported before one is asked for."""

import importlib
from collections.abc import Callable
from typing import Any

from masters_edge.common import registry

# Module in this folder and its function, which has the signature of `rtn.rtn`.
METHODS = {"rtn": "rtn.rtn", "hqq": "calibrate.hqq", "gptq": "calibrate.gptq"}


def method(name: str) -> Callable[..., Any]:
    """The function called `name`; raises UserError with the nearest name where there is none."""
    registry.check(name, "quantization method", METHODS)
    module, function = METHODS[name].split(".")
    return getattr(importlib.import_module(f"{__package__}.{module}"), function)
