"""coremltools, imported without its chatter, and with one of its mistakes put right.

Its warnings concern versions it was not tested with, parts that only a Mac has, and types it maps (int64 to int32,
states to float16), all of which is meant here. Its progress bars give way to ours.
"""

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

logging.getLogger("coremltools").setLevel(logging.ERROR)

import coremltools  # noqa: E402
from coremltools.converters.mil import Builder, register_torch_op  # noqa: E402
from coremltools.converters.mil.frontend.milproto.load import load as load_program  # noqa: E402
from coremltools.converters.mil.frontend.torch import ops  # noqa: E402
from coremltools.converters.mil.mil import types  # noqa: E402
from coremltools.converters.mil.mil.passes import pass_pipeline  # noqa: E402

__all__ = ["coremltools", "load_program", "types", "without_bars"]


@register_torch_op(override=True)
def gelu(context: Any, node: Any) -> None:
    """coremltools 9 overlooks the keyword of an exported gelu and takes the exact one for the tanh approximation."""
    asked = [value[0] if isinstance(value, tuple) else value for value in (node.kwinputs or {}).values()]
    mode = "TANH_APPROXIMATION" if "tanh" in asked else "EXACT"
    context.add(Builder.gelu(x=context[node.inputs[0]], mode=mode, name=node.name))


@contextlib.contextmanager
def without_bars() -> Iterator[None]:
    """Conversions inside the block draw no progress bars."""
    bars = ops._tqdm, pass_pipeline.tqdm
    try:
        ops._tqdm = pass_pipeline.tqdm = lambda items, **_: items
        yield
    finally:
        ops._tqdm, pass_pipeline.tqdm = bars
