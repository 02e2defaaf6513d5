"""MIL operators in torch: those that the static graphs become. Meanings: coremltools' `mil/ops/defs` (iOS 15 to 18).

Every function takes a `Cast` and the operator's parameters by their MIL names; tensors are torch tensors, constants
that are no tensors (strings, flags) come as they are.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from masters_edge.common.errors import UserError

Tensor = torch.Tensor
# What is said of an operator that the packages of known families don't hold.
UNPROVEN = "can't be interpreted here, so the Core ML export can't be proven; no bundle was written"
_DTYPES = {
    "fp32": torch.float32,
    "fp16": torch.float16,
    "int32": torch.int32,
    "int16": torch.int32,
    "uint16": torch.int32,
    "int8": torch.int32,
    "uint8": torch.int32,
    "bool": torch.bool,
}


class Cast:
    """How numbers are held: with `exact`, every float is float32."""

    def __init__(self, exact: bool) -> None:
        self.exact = exact

    def tensor(self, value: Any) -> Tensor:
        """A constant as a tensor; narrow integers become int32."""
        array = np.array(value)
        if array.dtype == np.float16 and self.exact:
            array = array.astype(np.float32)
        if array.dtype.kind in "iu" and array.dtype != np.int32:
            array = array.astype(np.int32)
        return torch.from_numpy(array)

    def to(self, x: Tensor, dtype: str) -> Tensor:
        wanted = _DTYPES[dtype]
        return x.to(torch.float32 if self.exact and wanted == torch.float16 else wanted)


def _unary(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda cast, x: function(x)


def _binary(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda cast, x, y: function(x, y)


def _linear(cast: Cast, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return functional.linear(x, weight, bias)


def _matmul(cast: Cast, x: Tensor, y: Tensor, transpose_x: Any = False, transpose_y: Any = False) -> Tensor:
    return (x.mT if transpose_x else x) @ (y.mT if transpose_y else y)


def _conv(
    cast: Cast, x: Tensor, weight: Tensor, strides: Tensor, groups: Any = 1, bias: Tensor | None = None, **rest: Any
) -> Tensor:
    if rest.get("pad_type", "valid") != "valid" and np.any(_ints(rest.get("pad", [0]))):
        raise UserError(f"a convolution with padding {UNPROVEN}")
    convolve = functional.conv3d if weight.ndim == 5 else functional.conv2d
    return convolve(x, weight, bias, stride=_ints(strides), groups=int(groups))


def _attention(cast: Cast, query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None) -> Tensor:
    return functional.scaled_dot_product_attention(query, key, value, attn_mask=attn_mask)


def _gather(cast: Cast, x: Tensor, indices: Tensor, axis: Any, **_: Any) -> Tensor:
    axis, indices = int(axis), torch.as_tensor(indices).long()
    found = torch.index_select(x, axis, indices.reshape(-1))
    return found.reshape(*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])


def _layer_norm(
    cast: Cast, x: Tensor, axes: Tensor, epsilon: Any, gamma: Tensor | None = None, beta: Tensor | None = None
) -> Tensor:
    return functional.layer_norm(x, [x.shape[axis] for axis in _ints(axes)], gamma, beta, float(epsilon))


def _split(cast: Cast, x: Tensor, axis: Any, split_sizes: Any = None, num_splits: Any = None) -> list[Tensor]:
    sizes = _ints(split_sizes) if split_sizes is not None else x.shape[int(axis)] // int(num_splits)
    return list(torch.split(x, sizes, int(axis)))


def _concat(cast: Cast, values: list[Any], axis: Any, interleave: Any = False) -> Tensor:
    return torch.cat([torch.atleast_1d(torch.as_tensor(value)) for value in values], int(axis))


def _stack(cast: Cast, values: list[Any], axis: Any) -> Tensor:
    return torch.stack([torch.as_tensor(value) for value in values], int(axis))


def _reshape(cast: Cast, x: Tensor, shape: Any) -> Tensor:
    return x.reshape(_ints(shape))


def _transpose(cast: Cast, x: Tensor, perm: Any) -> Tensor:
    return x.permute(_ints(perm))


def _expand_dims(cast: Cast, x: Tensor, axes: Any) -> Tensor:
    for axis in sorted(_ints(axes)):
        x = x.unsqueeze(axis)
    return x


def _squeeze(cast: Cast, x: Tensor, axes: Any = None) -> Tensor:
    return x.squeeze() if axes is None else x.squeeze(tuple(_ints(axes)))


def _reduce(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def run(cast: Cast, x: Tensor, axes: Any = None, keep_dims: Any = False) -> Tensor:
        return function(x, _ints(axes) if axes is not None else list(range(x.ndim)), keepdim=bool(keep_dims))

    return run


def _rsqrt(cast: Cast, x: Tensor, epsilon: Any = 0.0) -> Tensor:
    return torch.rsqrt(x + float(epsilon))


def _gelu(cast: Cast, x: Tensor, mode: Any = "EXACT") -> Tensor:
    return functional.gelu(x, approximate="tanh" if "TANH" in str(mode) else "none")


def _pad(cast: Cast, x: Tensor, pad: Any, mode: Any = "constant", constant_val: Any = 0.0) -> Tensor:
    if str(mode) != "constant":
        raise UserError(f"padding of mode {mode} {UNPROVEN}")
    pairs = np.array(_ints(pad)).reshape(-1, 2)[::-1]
    return functional.pad(x, [int(n) for n in pairs.reshape(-1)], value=float(constant_val))


def _slice(
    x: Tensor,
    begin: Any,
    end: Any,
    stride: Any = None,
    begin_mask: Any = None,
    end_mask: Any = None,
    squeeze_mask: Any = None,
) -> tuple:
    begins, ends = _ints(begin), _ints(end)
    steps = _ints(stride) if stride is not None else [1] * len(begins)
    masks = [
        [bool(m) for m in _ints(mask)] if mask is not None else [False] * len(begins)
        for mask in (begin_mask, end_mask, squeeze_mask)
    ]
    places: list[Any] = []
    for axis, (first, last, step) in enumerate(zip(begins, ends, steps)):
        if masks[2][axis]:
            places.append(first)
        else:
            places.append(slice(None if masks[0][axis] else first, None if masks[1][axis] else last, step))
    return tuple(places)


def _slice_by_index(cast: Cast, x: Tensor, begin: Any, end: Any, **how: Any) -> Tensor:
    return x[_slice(x, begin, end, **how)]


def _slice_update(cast: Cast, x: Tensor, update: Tensor, begin: Any, end: Any, **how: Any) -> Tensor:
    found = x.clone()
    places = _slice(x, begin, end, **how)
    if found[places].shape != update.shape:
        raise ValueError(f"{tuple(update.shape)} doesn't fit the place {tuple(found[places].shape)} it is written to")
    found[places] = update
    return found


def _blockwise_shift_scale(cast: Cast, data: Any, scale: Any, offset: Any = None) -> Tensor:
    """The weight that integers mean: (data - offset) x scale, each scale for a block along every axis."""
    values = np.array(data).astype(np.float32)
    if offset is not None:
        values -= _spread(np.array(offset).astype(np.float32), values.shape)
    found = values * _spread(np.array(scale).astype(np.float32), values.shape)
    half = np.array(scale).dtype == np.float16 and not cast.exact
    return torch.from_numpy(found.astype(np.float16) if half else found)


def _spread(blocks: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    for axis, size in enumerate(shape):
        blocks = np.repeat(blocks, size // blocks.shape[axis], axis=axis)
    return blocks


def _ints(value: Any) -> list[int]:
    return [int(i) for i in torch.atleast_1d(torch.as_tensor(value))]


OPERATORS: dict[str, Callable[..., Any]] = {
    **{name: _unary(getattr(torch, name)) for name in (
        "logical_not", "cos", "sin", "sigmoid", "exp", "tanh", "sqrt",
    )},
    **{name: _binary(getattr(torch, name)) for name in (
        "add", "sub", "mul", "pow", "maximum", "minimum", "greater_equal", "greater", "less", "less_equal",
        "not_equal", "logical_and", "logical_or",
    )},
    "equal": _binary(torch.eq),
    "real_div": _binary(torch.div),
    "floor_div": _binary(lambda x, y: torch.div(x, y, rounding_mode="floor")),
    "mod": _binary(torch.remainder),
    "silu": _unary(functional.silu),
    "relu": _unary(functional.relu),
    "identity": _unary(lambda x: x),
    "linear": _linear,
    "matmul": _matmul,
    "conv": _conv,
    "scaled_dot_product_attention": _attention,
    "softmax": lambda cast, x, axis=-1: x.softmax(int(axis)),
    "gather": _gather,
    "layer_norm": _layer_norm,
    "split": _split,
    "concat": _concat,
    "stack": _stack,
    "reshape": _reshape,
    "transpose": _transpose,
    "expand_dims": _expand_dims,
    "squeeze": _squeeze,
    "tile": lambda cast, x, reps: x.tile(_ints(reps)),
    "reduce_mean": _reduce(torch.mean),
    "reduce_sum": _reduce(torch.sum),
    "reduce_max": _reduce(torch.amax),
    "rsqrt": _rsqrt,
    "gelu": _gelu,
    "pad": _pad,
    "select": lambda cast, cond, a, b: torch.where(cond, a, b),
    "cast": lambda cast, x, dtype: cast.to(x, str(dtype)),
    "slice_by_index": _slice_by_index,
    "slice_update": _slice_update,
    "constexpr_blockwise_shift_scale": _blockwise_shift_scale,
}  # fmt: skip
