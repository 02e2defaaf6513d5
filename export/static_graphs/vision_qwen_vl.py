"""Qwen2.5-VL's and Qwen3-VL's vision encoder as a static program: pictures of any shape up to a number of patches.

Patches behind the picture's own are padding: they see each other only, and their features are cut off by the runtime.
What depends on the grid is computed in the graph with whole numbers, and what depends on float16 is looked up.
"""

from typing import Any

import torch
from torch import nn

from masters_edge.export.graphs import qwen_vl
from masters_edge.export.static_graphs.decoder import NO
from masters_edge.export.student import LoadedStudent

MODEL_TYPES = ("qwen2_5_vl", "qwen3_vl")
PATCHES = 4096  # at most; attention is computed between all of them for every picture


def unsupported(student: LoadedStudent) -> str | None:
    """Why there can be no static vision encoder, or None."""
    most = _patches(student)
    if most > PATCHES:
        pixels = PATCHES * student.model.config.vision_config.patch_size**2
        return (
            f"a static graph computes all patches for every picture, and the student's pictures may have {most}; set "
            f"size.longest_edge in its preprocessor_config.json to {pixels} (pixels, {PATCHES} patches) or less"
        )
    return None


def vision_encoder(student: LoadedStudent) -> tuple[nn.Module, dict[str, torch.Tensor]]:
    """The module and its inputs."""
    config, patches = student.model.config.vision_config, _patches(student)
    values = config.in_channels * config.temporal_patch_size * config.patch_size**2
    inputs = {"pixel_values": torch.zeros(patches, values), "image_grid_thw": torch.tensor([[1, 2, 2]])}
    return StaticVisionEncoder(student.model, patches), inputs


class StaticVisionEncoder(qwen_vl.VisionEncoder):
    """pixel_values float32 [PATCHES, values], image_grid_thw int [1, 3] -> image_features float32
    [PATCHES / merge ** 2, width], those of padding at the end."""

    cosines: torch.Tensor
    sines: torch.Tensor

    def __init__(self, model: Any, patches: int) -> None:
        super().__init__(model)
        tower = self.visual
        self.merge = tower.spatial_merge_size
        windowed = hasattr(tower, "window_size")
        self.window = tower.window_size // self.merge // tower.patch_size if windowed else 1
        self.whole = tower.fullatt_block_indexes if windowed else range(len(tower.blocks))
        places = torch.arange(patches // self.merge)[:, None].float() * tower.rotary_pos_emb.inv_freq
        self.register_buffer("cosines", places.cos(), persistent=False)
        self.register_buffer("sines", places.sin(), persistent=False)

    def forward(self, pixel_values: torch.Tensor, image_grid_thw: torch.Tensor) -> torch.Tensor:
        tower = self.visual
        grid = StaticGrid(pixel_values.shape[0], image_grid_thw, self.merge, self.window)
        hidden = self.patches(pixel_values)
        if hasattr(tower, "pos_embed"):
            hidden = hidden + self.positions(grid)
        rotation = self.rotation(grid)
        frames, windows = _apart(grid.frame), _apart(grid.window)
        levels = []
        for index, block in enumerate(tower.blocks):
            hidden = qwen_vl.run_block(block, hidden, rotation, frames if index in self.whole else windows)
            if index in getattr(tower, "deepstack_visual_indexes", ()):
                levels.append(tower.deepstack_merger_list[tower.deepstack_visual_indexes.index(index)](hidden))
        return torch.cat([tower.merger(hidden), *levels], dim=-1)

    def rotation(self, grid: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosines and sines float32 [patches, 1, head_size], looked up by row and by column."""
        places = torch.stack([grid.row, grid.column], dim=1)
        turned = [table[places].flatten(1) for table in (self.cosines, self.sines)]
        cosines, sines = (torch.cat([half, half], dim=-1)[:, None, :] for half in turned)
        return cosines, sines

    def positions(self, grid: Any) -> torch.Tensor:
        """As the dynamic one, but shares come from whole numbers: exact in float16 up to its last digit."""
        table = self.visual.pos_embed
        side = int(table.num_embeddings**0.5)
        rows, columns = _stretch(grid.row, grid.height, side), _stretch(grid.column, grid.width, side)
        found = [
            table(row * side + column) * (across * along)[:, None] for row, across in rows for column, along in columns
        ]
        return found[0] + found[1] + found[2] + found[3]


class StaticGrid:
    """As qwen_vl.Grid for one picture of one frame, int [patches]; padding lies in a frame and a window of its own."""

    def __init__(self, patches: int, image_grid_thw: torch.Tensor, merge: int, window: int) -> None:
        self.height, self.width = image_grid_thw[0, 1], image_grid_thw[0, 2]
        index = torch.arange(patches, dtype=image_grid_thw.dtype)
        padding = (index >= self.height * self.width).to(index.dtype)
        inside = index * (1 - padding)
        block, corner = inside // (merge * merge), inside % (merge * merge)
        blocks = self.width // merge
        block_row, block_column = block // blocks, block % blocks
        self.row = block_row * merge + corner // merge
        self.column = block_column * merge + corner % merge
        self.frame = padding
        # A picture has fewer windows than patches.
        self.window = (block_row // window * blocks + block_column // window) * (1 - padding) + padding * patches


def _stretch(places: torch.Tensor, size: torch.Tensor, side: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """The two nearest of `side` entries along one axis: each int [patches], with its share float32 [patches]."""
    # Bounds are counted, for Core ML clamps floats only.
    last = size - 1 + (size < 2).to(size.dtype)
    scaled = places * (side - 1)
    lower, upper = scaled // last, (scaled % last).float() / last.float()
    return [(lower, 1 - upper), (lower + (lower < side - 1).to(lower.dtype), upper)]


def _apart(numbers: torch.Tensor) -> torch.Tensor:
    """int [patches] -> float32 [1, patches, patches] to add to the scores: 0 where two patches share the number."""
    return (numbers[:, None] != numbers[None, :])[None].float() * NO


def _patches(student: LoadedStudent) -> int:
    """Most patches that a picture has."""
    size = student.processor.image_processor.size
    pixels = size.get("longest_edge") or size["max_pixels"]
    return int(pixels) // student.model.config.vision_config.patch_size**2
