"""Memory of a computation at full size without computing it: floats have shapes only, whole numbers are real.

The model's own transformers code runs on torch's meta device, forward and backward, and every storage it makes is
counted from its birth to its death. What decides shapes (token ids, masks, image grids, pixels) is computed for real,
so any family runs unchanged. No figure here is a formula about a model.

What a device does and the meta device doesn't is put in by hand, each with its source: autocast's casts
(ATen/autocast_mode.h: the list of ops, weights cast once per pass and kept for the backward pass), and fused attention
(`torch.nn.functional.scaled_dot_product_attention`: no scores are kept, a bool mask becomes an additive one of the
query's number format in every layer).
"""

import contextlib
import weakref
from collections import Counter
from collections.abc import Iterator
from typing import Any
from unittest import mock

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

aten = torch.ops.aten
_INDEXING = (aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default)


class Memory(TorchDispatchMode):
    """Counts the bytes alive of everything that is computed inside the block.

    `peaks`: for each section, what was alive when it was fullest, in bytes by the section that made it. Tensors from
    before the block are not counted.
    """

    def __init__(self) -> None:
        super().__init__()
        self.peaks: dict[str, Counter[str]] = {}
        self.alive: Counter[str] = Counter()
        self._section = self._at = "other"
        self._total, self._fullest = 0, dict[str, int]()
        self._known: dict[int, tuple[int, str]] = {}

    @contextlib.contextmanager
    def section(self, name: str, *, moment: bool = True) -> Iterator[None]:
        """What is made inside is counted under `name`; without `moment`, it has no peak of its own."""
        before, self._section, self._at = (self._section, self._at), name, name if moment else self._at
        self._note()
        try:
            yield
        finally:
            self._section, self._at = before

    def rename(self, tensor: torch.Tensor, name: str) -> None:
        """Count a tensor's storage under another name from now on."""
        key = tensor.untyped_storage()._cdata
        size, section = self._known.get(key, (0, name))
        self._known[key] = (size, name)
        self.alive[section] -= size
        self.alive[name] += size

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for tensor in tree_flatten((args, kwargs))[0]:  # weights, and whatever else was there before
            if isinstance(tensor, torch.Tensor):
                self._count(tensor.untyped_storage(), size=0)
        out = self._run(func, args, dict(kwargs or {}))
        for tensor in tree_flatten(out)[0]:
            if isinstance(tensor, torch.Tensor):
                self._count(tensor.untyped_storage())
        return out

    def _run(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        tensors = [t for t in tree_flatten((args, kwargs))[0] if isinstance(t, torch.Tensor)]
        on_meta = [t for t in tensors if t.is_meta]
        if not on_meta:
            wanted = kwargs.get("device")
            if wanted is not None and torch.device(wanted).type == "meta" and (tensors or _whole(kwargs, args)):
                kwargs["device"] = torch.device("cpu")
            return func(*args, **kwargs)
        if len(on_meta) < len(tensors):
            if func in _INDEXING:
                args = (args[0], _positions(args[1]), *args[2:])
            args, kwargs = tree_map(_shape_only, (args, kwargs))
        if kwargs.get("device") is not None:  # code that moves a tensor to where its whole numbers are
            kwargs["device"] = torch.device("meta")
        return func(*args, **kwargs)

    def _count(self, storage: Any, size: int | None = None) -> None:
        key = storage._cdata
        if key in self._known:
            return
        size = storage.nbytes() if size is None else size
        self._known[key] = (size, self._section)
        self.alive[self._section] += size
        self._total += size
        self._note()
        weakref.finalize(storage, self._gone, key)

    def _gone(self, key: int) -> None:
        size, section = self._known.pop(key)
        self.alive[section] -= size
        self._total -= size

    def _note(self) -> None:
        if self._total > self._fullest.get(self._at, -1):
            self._fullest[self._at], self.peaks[self._at] = self._total, Counter(self.alive)


def _whole(kwargs: dict[str, Any], args: Any) -> bool:
    """Whether a factory makes whole numbers: those decide shapes, so they are made for real."""
    dtype = kwargs.get("dtype")
    if dtype is not None:
        return not dtype.is_floating_point
    return all(isinstance(a, int) for a in tree_flatten(args)[0])


def _positions(indices: Any) -> list[Any]:
    """Bool masks as the positions they name, which need no values afterwards."""
    found: list[Any] = []
    for index in indices:
        if isinstance(index, torch.Tensor) and index.dtype == torch.bool and not index.is_meta:
            found += index.nonzero().unbind(-1)
        else:
            found.append(index)
    return found


def _shape_only(value: Any) -> Any:
    if not isinstance(value, torch.Tensor) or value.is_meta:
        return value
    return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")


class Device(TorchFunctionMode):
    """Autocast and fused attention for tensors on the meta device, as a CPU or a GPU has them.

    Args:
        memory: counts weights' casts and attention masks by themselves.
        autocast: run matrix products and convolutions in bfloat16, as `torch.autocast` does.
        gpu: whether attention is that of a GPU.
    """

    def __init__(self, memory: Memory, *, autocast: bool, gpu: bool) -> None:
        super().__init__()
        self.memory, self.autocast, self.gpu = memory, autocast, gpu
        self._cast: dict[int, torch.Tensor] | None = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.nn.functional.scaled_dot_product_attention:
            return self._attention(*args, **kwargs)
        if self.autocast and func in _LOWER:
            args, kwargs = tree_map(self._lower, (args, kwargs))
        elif self.autocast and func in _FULL:
            args, kwargs = tree_map(_full, (args, kwargs))
        return func(*args, **kwargs)

    def _lower(self, value: Any) -> Any:
        if not isinstance(value, torch.Tensor) or value.dtype != torch.float32:
            return value
        if not (isinstance(value, torch.nn.Parameter) and value.requires_grad) or self._cast is None:
            return value.bfloat16()
        if id(value) not in self._cast:
            with self.memory.section("bf16 copies", moment=False):
                self._cast[id(value)] = value.bfloat16()
        return self._cast[id(value)]

    @contextlib.contextmanager
    def asked(self) -> Iterator[None]:
        """While it lasts, code that asks torch about the meta device's autocast, or switches it off, means this one."""
        enabled, dtype, block = torch.is_autocast_enabled, torch.get_autocast_dtype, torch.autocast

        @contextlib.contextmanager
        def switched(on: bool) -> Iterator[None]:
            before, self.autocast = self.autocast, on and self.autocast
            try:
                yield
            finally:
                self.autocast = before

        def autocast(device_type: str, *args: Any, **kwargs: Any) -> Any:
            if device_type == "meta":
                return switched(kwargs.get("enabled", True))
            return block(device_type, *args, **kwargs)

        changes: dict[str, Any] = {
            "is_autocast_enabled": lambda *kind: self.autocast if kind == ("meta",) else enabled(*kind),
            "get_autocast_dtype": lambda kind: torch.bfloat16 if kind == "meta" else dtype(kind),
            "autocast": autocast,
        }
        with contextlib.ExitStack() as stack:
            for name, change in changes.items():
                stack.enter_context(mock.patch.object(torch, name, change))
            yield

    def end_of_pass(self) -> None:
        """Autocast forgets its casts of weights when its outermost block ends; what is computed again has its own."""
        self._cast = None

    def _attention(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attn_mask: torch.Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> torch.Tensor:
        if self.autocast:
            query, key, value = (t.bfloat16() for t in (query, key, value))
        if enable_gqa and key.shape[1] != query.shape[1]:
            groups = query.shape[1] // key.shape[1]
            key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
        if attn_mask is not None and attn_mask.dtype == torch.bool:
            with self.memory.section("attention masks", moment=False):
                attn_mask = torch.zeros(attn_mask.shape, dtype=query.dtype, device=query.device)
        if not self.gpu:
            return aten._scaled_dot_product_flash_attention_for_cpu(
                query, key, value, dropout_p, is_causal, attn_mask=attn_mask, scale=scale
            )[0]
        if attn_mask is not None:
            attn_mask = attn_mask.expand(*query.shape[:2], *attn_mask.shape[2:])
        keeps = torch.is_grad_enabled() and any(t.requires_grad for t in (query, key, value))
        return aten._scaled_dot_product_efficient_attention(
            query, key, value, attn_mask, keeps, dropout_p, is_causal, scale=scale
        )[0]


def _full(value: Any) -> Any:
    return value.float() if isinstance(value, torch.Tensor) and value.dtype == torch.bfloat16 else value


_F = torch.nn.functional
_LOWER = {
    _F.linear, _F.conv2d, _F.conv3d, torch.conv2d, torch.conv3d, torch.matmul, torch.bmm, torch.mm, torch.baddbmm,
    torch.addmm, torch.Tensor.matmul, torch.Tensor.__matmul__, torch.Tensor.__rmatmul__, torch.Tensor.bmm,
}  # fmt: skip
_FULL = {_F.layer_norm, torch.layer_norm, _F.softmax, torch.softmax, torch.Tensor.softmax, torch.log_softmax, torch.pow}
_FULL |= {torch.Tensor.pow, torch.Tensor.__pow__, _F.log_softmax, torch.rsqrt, torch.Tensor.rsqrt}
