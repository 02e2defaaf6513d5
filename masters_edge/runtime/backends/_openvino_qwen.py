"""Qwen2.5-VL's and Qwen3-VL's vision in the graphs that openvino-genai runs: patches, positions, layers with mergers.

What openvino-genai computes between those graphs is computed here with numpy: angles, windows, places in the learned
table. In: pixel_values and image_grid_thw of one picture. Out: its features, DeepStack behind them where there is any.
"""

from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field, model_validator

from masters_edge.runtime import settings

_NEVER = np.finfo(np.float32).min  # added to the score of what must not be attended to


class Rope(settings.Read):
    """How positions turn into angles."""

    rope_theta: Annotated[float, Field(gt=0, le=1e12)] = 10_000.0


class Tower(settings.Read):
    """The vision encoder's sizes; windows are Qwen2.5-VL's, a table of positions Qwen3-VL's."""

    spatial_merge_size: settings.Small
    hidden_size: settings.Count
    num_heads: settings.Count
    patch_size: settings.Side
    window_size: settings.Side | None = None
    num_position_embeddings: settings.Count | None = None
    rope_parameters: Rope | None = None

    @model_validator(mode="after")
    def _fit(self) -> "Tower":
        if self.hidden_size // self.num_heads < 4:
            raise ValueError("hidden_size is too small for num_heads")
        if self.window_size is not None and self.window_size < self.patch_size * self.spatial_merge_size:
            raise ValueError("window_size is smaller than a patch")
        return self


class Config(settings.Read):
    """`config.json`."""

    vision_config: Tower


class QwenVision:
    """Call it with the vision part's inputs. `graphs` are compiled models by part."""

    def __init__(self, folder: Path, graphs: dict[str, Any]) -> None:
        config = settings.checked(folder, "config.json", Config)["vision_config"]
        self._merge = config["spatial_merge_size"]
        self._head = config["hidden_size"] // config["num_heads"]
        self._theta = (config.get("rope_parameters") or {}).get("rope_theta", 10_000.0)
        self._patches, self._layers = graphs["vision_patches"], graphs["vision_encoder"]
        self._positions = graphs.get("vision_positions")
        if self._positions is None:
            self._window = config["window_size"] // config["patch_size"] // self._merge
        else:
            self._side = round(config["num_position_embeddings"] ** 0.5)

    def __call__(self, inputs: dict[str, np.ndarray]) -> np.ndarray:
        """Features float32 [image tokens, width]."""
        _, height, width = (int(side) for side in inputs["image_grid_thw"][0])
        row, column = self._places(height, width)
        hidden = self._patches([inputs["pixel_values"]])[0]
        count = len(hidden)
        feed = {"attention_mask": np.zeros((1, count, count), np.float32), "rotary_pos_emb": self._angles(row, column)}
        if self._positions is None:
            # Patches may stay where they are: the mask says who shares a window.
            window = row // self._merge // self._window * width + column // self._merge // self._window
            feed["window_attention_mask"] = np.where(window[:, None] == window, np.float32(0), _NEVER)[None]
            feed["window_index"] = np.arange(count // self._merge**2)
        else:
            entries, shares = self._neighbours(row, column, height, width)
            hidden = hidden + (self._positions([entries])[0] * shares[:, :, None]).sum(0)
        main, *deep = self._layers({"hidden_states": hidden, **feed}).to_tuple()
        levels = deep[0] if deep else []  # float32 [levels, image tokens, width]
        return np.concatenate([main, *levels], axis=-1)

    def _places(self, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
        """Row and column of each patch, int64 [patches]; patches come in blocks of merge * merge."""
        merge = self._merge
        grid = np.indices((height, width)).reshape(2, height // merge, merge, width // merge, merge)
        row, column = grid.transpose(0, 1, 3, 2, 4).reshape(2, -1)
        return row, column

    def _angles(self, row: np.ndarray, column: np.ndarray) -> np.ndarray:
        """float32 [patches, head_size / 2]: half of them turn by row, half by column."""
        size = self._head // 2
        frequencies = 1 / np.float32(self._theta) ** (np.arange(0, size, 2, dtype=np.float32) / size)
        places = np.stack([row, column], axis=1).astype(np.float32)
        return (places[:, :, None] * frequencies).reshape(len(row), size)

    def _neighbours(
        self, row: np.ndarray, column: np.ndarray, height: int, width: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """The table's four entries around each patch, int64 [4, patches], and their shares, float32 [4, patches]."""
        rows, columns = _stretch(row, height, self._side), _stretch(column, width, self._side)
        pairs = [(above, left) for above in rows for left in columns]
        entries = [above * self._side + left for (above, _), (left, _) in pairs]
        return np.stack(entries), np.stack([down * across for (_, down), (_, across) in pairs])


def _stretch(places: np.ndarray, size: int, side: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """The two of `side` entries along one axis that lie next to each place, with their shares."""
    exact = places.astype(np.float32) * np.float32(side - 1) / np.float32(max(size - 1, 1))
    lower = np.floor(exact)
    share, index = exact - lower, lower.astype(np.int64)
    return [(index, 1 - share), (np.minimum(index + 1, side - 1), share)]
