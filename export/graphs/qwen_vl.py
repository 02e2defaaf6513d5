"""Qwen2.5-VL and Qwen3-VL: vision encoder with merger for pictures of any size, token embedding, decoder with M-RoPE.

Names, shapes and dimension names are those that transformers.js and onnxruntime-genai expect (CONTRACTS). Everything
that depends on the grid (positions, frames, windows) is computed in the graph from `image_grid_thw` with whole numbers.
Qwen3-VL's DeepStack travels as wide embeddings, `[main | level 0 | level 1 ...]` on the last axis: that is what the
vision part gives, what a token's embedding is filled up to with zeros, and what the decoder takes apart again.
"""

from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import DynamicCache

from masters_edge.export.gate import reference
from masters_edge.export.graphs import Part
from masters_edge.export.graphs._decoder import Decoder, Embed, decoder_part, embed_part
from masters_edge.export.student import LoadedStudent

MODEL_TYPES = ("qwen2_5_vl", "qwen3_vl")
WEIGHTS = {
    "vision": "model.visual.",  # with the mergers of DeepStack
    "connector": "model.visual.merger.",
    "embeddings": "model.language_model.embed_tokens.",
    "decoder": "model.language_model.",
    "head": "lm_head.",
}
LAYERS = {"vision_encoder": "model.visual.blocks", "decoder": "model.language_model.layers"}
_TEXT = "model.language_model"
_DYNAMIC = torch.export.Dim.DYNAMIC


def parts(student: LoadedStudent) -> list[Part]:
    """Vision encoder with merger, token embedding, decoder with head."""
    text_model = student.model.model.language_model
    embed, decoder = Embed(text_model.embed_tokens), Decoder(text_model, student.model.lm_head)
    if _levels(student.model):
        embed = WideEmbed(text_model.embed_tokens, _width(student.model))
        decoder = WideDecoder(text_model, student.model.lm_head)
    width = _width(student.model)
    return [
        _vision_part(student),
        embed_part(student, _TEXT, embed, width),
        decoder_part(student, _TEXT, decoder, width, axes=(3,)),
    ]


class Grid:
    """Where every patch lies; patches come picture by picture, frame by frame, and in blocks of merge * merge.

    All are int64 [patches]: `row`, `column` in the frame, its `height` and `width` in patches; `frame` and `window`
    are numbers that two patches share exactly where they lie in the same one.
    """

    def __init__(self, patches: int, image_grid_thw: torch.Tensor, merge: int, window: int) -> None:
        """`merge` and `window` are the sides of a block in patches, and of an attention window in blocks."""
        times, heights, widths = image_grid_thw.unbind(-1)
        ends = (times * heights * widths).cumsum(0)
        index = torch.arange(patches)
        picture = (index[:, None] >= ends[None, :]).sum(1)
        self.height, self.width = heights[picture], widths[picture]
        first = (ends - times * heights * widths)[picture]
        inside = (index - first) % (self.height * self.width)
        block, corner = inside // (merge * merge), inside % (merge * merge)
        blocks = self.width // merge
        block_row, block_column = block // blocks, block % blocks
        self.row = block_row * merge + corner // merge
        self.column = block_column * merge + corner % merge
        # A frame's number is that of its first patch, and it has more patches than windows.
        self.frame = index - inside
        self.window = self.frame + block_row // window * blocks + block_column // window


class VisionEncoder(nn.Module):
    """pixel_values float32 [patches, values], image_grid_thw int64 [pictures, 3] -> image features float32
    [patches / merge ** 2, width]. This is Qwen3-VL's; every patch attends to its whole frame."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.visual = model.model.visual

    def forward(self, pixel_values: torch.Tensor, image_grid_thw: torch.Tensor) -> torch.Tensor:
        tower = self.visual
        grid = Grid(pixel_values.shape[0], image_grid_thw, tower.spatial_merge_size, window=1)
        hidden = self.patches(pixel_values) + self.positions(grid)
        rotation, frames = self.rotation(grid), same(grid.frame)
        levels = []
        for index, block in enumerate(tower.blocks):
            hidden = run_block(block, hidden, rotation, frames)
            if index in tower.deepstack_visual_indexes:
                merger = tower.deepstack_merger_list[tower.deepstack_visual_indexes.index(index)]
                levels.append(merger(hidden))
        return torch.cat([tower.merger(hidden), *levels], dim=-1)

    def patches(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """The patch embedding, float32 [patches, hidden]: its kernel covers the whole patch, so the convolution is a
        matrix product, which runtimes do five times faster."""
        proj = self.visual.patch_embed.proj
        return nn.functional.linear(pixel_values, proj.weight.flatten(1), proj.bias)

    def rotation(self, grid: Grid) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosines and sines float32 [patches, 1, head_size]: half of each head turns by row, half by column."""
        places = torch.stack([grid.row, grid.column], dim=1).float()
        angles = (places[:, :, None] * self.visual.rotary_pos_emb.inv_freq).flatten(1)
        angles = torch.cat([angles, angles], dim=-1)[:, None, :]
        return angles.cos(), angles.sin()

    def positions(self, grid: Grid) -> torch.Tensor:
        """The learned square table of positions stretched to the frame, corner on corner, between its four nearest
        entries: float32 [patches, hidden]."""
        table = self.visual.pos_embed
        side = int(table.num_embeddings**0.5)
        rows = _stretch(grid.row, grid.height, side)
        columns = _stretch(grid.column, grid.width, side)
        places = torch.stack([row * side + column for row, _ in rows for column, _ in columns], dim=1)
        shares = torch.stack([across * along for _, across in rows for _, along in columns], dim=1)
        return (table(places) * shares[:, :, None]).sum(1)


class WindowedVisionEncoder(VisionEncoder):
    """Qwen2.5-VL's: most layers attend inside windows. transformers sorts the patches by window for that; here they
    stay where they are, and a mask tells which share one."""

    def forward(self, pixel_values: torch.Tensor, image_grid_thw: torch.Tensor) -> torch.Tensor:
        tower = self.visual
        window = tower.window_size // tower.spatial_merge_size // tower.patch_size
        grid = Grid(pixel_values.shape[0], image_grid_thw, tower.spatial_merge_size, window)
        hidden = self.patches(pixel_values)
        rotation, frames, windows = self.rotation(grid), same(grid.frame), same(grid.window)
        for index, block in enumerate(tower.blocks):
            hidden = run_block(block, hidden, rotation, frames if index in tower.fullatt_block_indexes else windows)
        return tower.merger(hidden)


def same(numbers: torch.Tensor) -> torch.Tensor:
    """int64 [patches] -> float32 [1, patches, patches] to add to the scores: 0 where two patches share the number."""
    # A mask of bools would bring a NaN check into every layer.
    return (numbers[:, None] != numbers[None, :])[None].float() * torch.finfo(torch.float32).min


def run_block(
    block: Any, hidden: torch.Tensor, rotation: tuple[torch.Tensor, torch.Tensor], mask: torch.Tensor
) -> torch.Tensor:
    """One layer of the tower, both families': hidden float32 [patches, hidden]."""
    attention = block.attn
    patches = hidden.shape[0]
    qkv = attention.qkv(block.norm1(hidden)).reshape(patches, 3, attention.num_heads, -1)
    query, key, value = qkv.unbind(1)
    query, key = _rotate(query, *rotation), _rotate(key, *rotation)
    query, key, value = (heads.transpose(0, 1)[None] for heads in (query, key, value))
    mixed = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask[None])
    hidden = hidden + attention.proj(mixed[0].transpose(0, 1).reshape(patches, -1))
    return hidden + block.mlp(block.norm2(hidden))


class WideEmbed(Embed):
    """input_ids int64 [batch, tokens] -> inputs_embeds float32 [batch, tokens, width], zeros behind the embedding."""

    def __init__(self, embed_tokens: nn.Module, width: int) -> None:
        super().__init__(embed_tokens)
        self.width = width

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        embeds = super().forward(input_ids)
        return nn.functional.pad(embeds, (0, self.width - embeds.shape[-1]))


class WideDecoder(Decoder):
    """Qwen3-VL's: what comes behind the hidden size is added after the first layer, the second, and so on."""

    def run(
        self,
        inputs_embeds: torch.Tensor,
        attention_mask: torch.Tensor,
        position_ids: torch.Tensor,
        cache: DynamicCache,
    ) -> torch.Tensor:
        main, *levels = inputs_embeds.split(self.text_model.config.hidden_size, dim=-1)
        # transformers' own way picks the image tokens by a mask, which a graph can't do without a shape it can't know.
        hooks = [
            layer.register_forward_hook(lambda layer, inputs, output, level=level: output + level)
            for layer, level in zip(self.text_model.layers, levels)
        ]
        try:
            return super().run(main, attention_mask, position_ids, cache)
        finally:
            for hook in hooks:
                hook.remove()


def _rotate(heads: torch.Tensor, cosines: torch.Tensor, sines: torch.Tensor) -> torch.Tensor:
    """float32 [patches, heads, head_size], turned."""
    left, right = heads.chunk(2, dim=-1)
    return heads * cosines + torch.cat([-right, left], dim=-1) * sines


def _stretch(places: torch.Tensor, sizes: torch.Tensor, side: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """The two nearest of `side` entries along one axis: each int64 [patches], with its share float32 [patches]."""
    exact = places.float() * (side - 1) / (sizes - 1).clamp(min=1)
    lower = exact.floor()
    upper_share = exact - lower
    index = lower.long()
    return [(index, 1 - upper_share), ((index + 1).clamp(max=side - 1), upper_share)]


def _levels(model: Any) -> int:
    """How many levels of DeepStack the student has."""
    tower = model.model.visual
    return sum(index < len(tower.blocks) for index in getattr(tower, "deepstack_visual_indexes", []))


def _width(model: Any) -> int:
    """Of image features and token embeddings."""
    return (1 + _levels(model)) * model.config.text_config.hidden_size


def _vision_part(student: LoadedStudent) -> Part:
    config = student.model.config.vision_config
    values = config.in_channels * config.temporal_patch_size * config.patch_size**2
    merge = config.spatial_merge_size
    grid = torch.tensor([[1, 2 * merge, 3 * merge], [1, 4 * merge, 2 * merge]])
    encoder = VisionEncoder if student.model_type == "qwen3_vl" else WindowedVisionEncoder
    return Part(
        name="vision_encoder",
        module=encoder(student.model),
        example=(torch.randn(int(grid.prod(-1).sum()), values), grid),
        dynamic=({0: _DYNAMIC}, {0: _DYNAMIC}),
        inputs=["pixel_values", "image_grid_thw"],
        outputs=["image_features"],
        dimensions={
            "pixel_values": ["num_patches", values],
            "image_grid_thw": ["num_images", 3],
            "image_features": ["num_image_tokens", _width(student.model)],
        },
        prefixes={"visual": "model.visual"},
    )


class Reference(reference.Reference):
    """Of these families: patches, their grid, and which tokens stand for them."""

    def __init__(self, student: LoadedStudent, image: Any, question: str, max_new_tokens: int) -> None:
        hook = student.model.register_forward_pre_hook(_answer_is_text, with_kwargs=True)
        try:
            super().__init__(student, image, question, max_new_tokens)
        finally:
            hook.remove()

    @staticmethod
    def see(inputs: Any) -> dict[str, torch.Tensor]:
        return {name: inputs[name] for name in ("pixel_values", "image_grid_thw", "mm_token_type_ids")}

    def look(self, model: Any, seen: dict[str, torch.Tensor]) -> torch.Tensor:
        found = model.get_image_features(seen["pixel_values"], seen["image_grid_thw"], return_dict=True)
        levels = getattr(found, "deepstack_features", None) or []
        return torch.cat([torch.cat(list(level)) for level in (found.pooler_output, *levels)], dim=-1)

    def graph_inputs(self, student: LoadedStudent, seen: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
        return {name: seen[name].numpy() for name in ("pixel_values", "image_grid_thw")}

    def positions(self, model: Any, ids: torch.Tensor, seen: dict[str, torch.Tensor]) -> np.ndarray:
        found, _ = model.model.get_rope_index(
            ids, mm_token_type_ids=seen["mm_token_type_ids"], image_grid_thw=seen["image_grid_thw"]
        )
        return found.numpy()


def _answer_is_text(model: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
    """`mm_token_type_ids` as long as the ids: those of the prompt, then zeros."""
    kinds, ids = kwargs.get("mm_token_type_ids"), kwargs.get("input_ids")
    if kinds is not None and ids is not None:
        missing = max(0, ids.shape[1] - kinds.shape[1])
        kwargs["mm_token_type_ids"] = nn.functional.pad(kinds, (0, missing))
    return args, kwargs
