"""What backends of static graphs share: frames one by one, prompts in chunks, masks and places in the KV cache.

A runtime says how its functions are called (`Runner`); `StaticStudent` makes a `Backend` of it. Shapes are read off
the graphs: the length of the decoder's mask is the context, `prefill`'s number of tokens the chunk.
"""

from collections.abc import Callable, Mapping
from typing import Protocol

import numpy as np

from masters_edge.common.errors import UserError

NO = -1e4  # what the mask says of places not to be seen; stays finite in float16


class Runner(Protocol):
    """Calls functions of the three parts; holds the decoder's state."""

    name: str

    def shapes(self, part: str, function: str) -> dict[str, tuple[int, ...]]:
        """Shape of each input of a function."""

    def run(self, part: str, function: str, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        """The function's one output, float32; the decoder's functions change the state."""

    def forget(self) -> None:
        """Start from an empty state."""


class StaticStudent:
    """The `Backend` protocol over static graphs."""

    def __init__(self, runner: Runner) -> None:
        self.runner, self.name = runner, runner.name
        self._taken = runner.shapes("vision_encoder", "main")
        decoder = runner.shapes("decoder", "prefill")
        self.chunk, self.context = decoder["attention_mask"][2:]
        self.axes = decoder["position_ids"][0]
        self.start()

    def vision(self, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        """The family's vision inputs, a batch of one -> features float32 [n, width]."""
        return look(self._taken, inputs, lambda feed: self.runner.run("vision_encoder", "main", feed))

    def embed(self, input_ids: np.ndarray) -> np.ndarray:
        """int64 [1, tokens] -> float32 [1, tokens, width]."""
        pieces, done, total = [], 0, input_ids.shape[1]
        while done < total:
            length = min(self.chunk, total - done) if total - done > 1 else 1
            function = "decode" if length == 1 else "prefill"
            ids = _padded(input_ids[:, done : done + length], self.chunk if function == "prefill" else 1, axis=1)
            pieces.append(self.runner.run("embed_tokens", function, {"input_ids": ids})[:, :length])
            done += length
        return np.concatenate(pieces, axis=1)

    def start(self, kept: int = 0) -> int:
        """Forget the KV cache."""
        self._length = 0
        self.runner.forget()
        return 0

    def forward(self, inputs_embeds: np.ndarray, position_ids: np.ndarray, last: bool = False) -> np.ndarray:
        """float32 [1, t, width], int64 [1, t] or [3, 1, t] -> logits float32 [1, t, vocab]; the cache grows by t.

        Raises UserError where the cache would overflow.
        """
        total = inputs_embeds.shape[1]
        if self._length + total > self.context:
            raise UserError(
                f"prompt and answer are longer than the bundle's {self.context} tokens; ask for a shorter answer, "
                "or give a smaller picture"
            )
        positions = np.broadcast_to(position_ids.reshape(-1, 1, total), (self.axes, 1, total))
        pieces, done = [], 0
        while done < total:
            # The padding of a last chunk is written behind its tokens, where the next ones overwrite it, unless it
            # would reach past the end of the cache.
            whole = total - done > 1 and self._length + self.chunk <= self.context
            count = min(self.chunk, total - done) if whole else 1
            piece = slice(done, done + count)
            pieces.append(self._step("prefill" if whole else "decode", inputs_embeds[:, piece], positions[..., piece]))
            done += count
        return np.concatenate(pieces, axis=1)

    def _step(self, function: str, embeds: np.ndarray, positions: np.ndarray) -> np.ndarray:
        count, length = embeds.shape[1], self.chunk if function == "prefill" else 1
        last = self._length + np.minimum(np.arange(length), count - 1)  # what each row sees up to; padding sees as much
        mask = np.where(np.arange(self.context)[None] <= last[:, None], 0.0, NO).astype(np.float32)
        feed = {
            "inputs_embeds": _padded(embeds, length, axis=1),
            "attention_mask": mask[None, None],
            "position_ids": _padded(positions, length, axis=2),
            "cache_position": np.array([self._length], np.int64),
        }
        self._length += count
        return self.runner.run("decoder", function, feed)[:, :count]


def look(
    taken: Mapping[str, tuple[int, ...]], inputs: Mapping[str, np.ndarray], run: Callable[[dict], np.ndarray]
) -> np.ndarray:
    """Features float32 [n, width]. `taken`: shapes of the graph's inputs; `run` calls it.

    Frames or tiles go one after another; a picture that is rows of patches is filled up to the graph's number of them.
    Raises UserError for a picture that the graph can't take.
    """
    if "image_grid_thw" in taken:
        return _look_at_patches(taken["pixel_values"], inputs, run)
    pixels, mask = inputs["pixel_values"], inputs.get("pixel_attention_mask")
    if mask is not None and not mask.all():
        raise UserError("this bundle reads whole frames, and the picture leaves part of one empty; resize it first")
    shape = taken["pixel_values"][1:]
    if pixels.shape[-3:] != shape:
        found, wanted = (" x ".join(map(str, size[:-3:-1])) for size in (pixels.shape, shape))
        raise UserError(
            f"this bundle reads frames of {wanted} pixels, not {found}; its settings don't fit its graphs: "
            "export it again"
        )
    seen = [run({"pixel_values": frame[None]}) for frame in pixels.reshape(-1, *shape)]
    if "feature_rows" in inputs:
        return _packed(seen, inputs["feature_rows"], inputs["feature_weights"])
    return np.concatenate(seen)


def _look_at_patches(
    shape: tuple[int, ...], inputs: Mapping[str, np.ndarray], run: Callable[[dict], np.ndarray]
) -> np.ndarray:
    """Qwen-VL: the features of padding come last and are cut off."""
    pixels, grid = inputs["pixel_values"], inputs["image_grid_thw"]
    if len(pixels) > shape[0] or len(grid) != 1 or grid[0, 0] != 1:
        raise UserError(
            f"this bundle reads one picture of at most {shape[0]} patches, not {len(pixels)}; make it smaller"
        )
    found = run({"pixel_values": _padded(pixels, shape[0], axis=0), "image_grid_thw": grid})
    return found[: len(found) * len(pixels) // shape[0]]


def _packed(tiles: list[np.ndarray], rows: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """LLaVA-OneVision: each feature a weighted sum of four rows of all tiles' patches and the newline, which is every
    tile's last row (`families/llava_onevision.py`)."""
    table = np.concatenate([*(tile[:-1] for tile in tiles), tiles[0][-1:]])
    return np.einsum("nk,nkw->nw", weights, table[rows]).astype(np.float32)


def _padded(array: np.ndarray, length: int, axis: int) -> np.ndarray:
    """Zeros behind the array, up to `length` along one axis."""
    missing = [(0, length - array.shape[axis] if index == axis else 0) for index in range(array.ndim)]
    return np.ascontiguousarray(np.pad(array, missing))
