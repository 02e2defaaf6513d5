"""How openvino-genai's VLMPipeline cuts a VLM into graphs, and the settings it reads (CONTRACTS).

It computes Qwen's rotary angles, windows and positions itself, so those families' vision is cut in two or three, and
Qwen3-VL's decoder takes the DeepStack features of image tokens apart from the embeddings. For families it doesn't know
the graphs stay as they are. In: the student and its parts. Out: the parts to write, each with its file.
"""

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from masters_edge.export.graphs import Part
from masters_edge.export.graphs._decoder import decoder_part, embed_part
from masters_edge.export.graphs.qwen_vl import WideDecoder, run_block
from masters_edge.export.settings import write_json
from masters_edge.export.student import LoadedStudent

VISION = "openvino_vision_embeddings_model.xml"
MERGER = "openvino_vision_embeddings_merger_model.xml"
POSITIONS = "openvino_vision_embeddings_pos_model.xml"
EMBED = "openvino_text_embeddings_model.xml"
DECODER = "openvino_language_model.xml"
QWEN = ("qwen2_5_vl", "qwen3_vl")
_TEXT = "model.language_model"
_DYNAMIC = torch.export.Dim.DYNAMIC


def split(student: LoadedStudent, parts: list[Part]) -> list[tuple[Part, str]]:
    """The parts to write and their files; `parts` are the family's own."""
    whole, embed, decoder = parts
    if student.model_type not in QWEN:
        return [(whole, VISION), (embed, EMBED), (decoder, DECODER)]
    if student.model_type == "qwen2_5_vl":
        return [(_patches(student), VISION), (_windowed_merger(student), MERGER), (embed, EMBED), (decoder, DECODER)]
    vision = [(_patches(student), VISION), (_positions(student), POSITIONS), (_merger(student), MERGER)]
    if not _levels(student):  # a student with too few layers left
        return [*vision, (embed, EMBED), (decoder, DECODER)]
    return [*vision, (embed_part(student, _TEXT), EMBED), (_deepstack_decoder(student), DECODER)]


def adapt_settings(student: LoadedStudent, folder: Path) -> None:
    """Say in the settings files what openvino-genai asks for under other names than transformers."""
    if student.model_type == "internvl":
        _add(folder / "config.json", {"model_type": "internvl_chat"})
        size = dict(student.processor.image_processor.size)
        tile = {"size": {**size, "shortest_edge": size["height"]}, "crop_size": size}
        _add(folder / "preprocessor_config.json", tile)
        # Where there is this file too, openvino-genai reads the picture's settings from it.
        path = folder / "processor_config.json"
        _add(path, {"image_processor": json.loads(path.read_text(encoding="utf-8"))["image_processor"] | tile})


class Patches(nn.Module):
    """hidden_states float32 [patches, values] -> last_hidden_state float32 [patches, hidden]."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.visual = model.model.visual

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        # The kernel covers the whole patch: a matrix product, which runtimes do faster than the convolution.
        proj = self.visual.patch_embed.proj
        return nn.functional.linear(hidden_states, proj.weight.flatten(1), proj.bias)


class Positions(nn.Module):
    """input int64 [4, patches], places in the learned table -> last_hidden_state float32 [4, patches, hidden]."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.visual = model.model.visual

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return self.visual.pos_embed(input)


class Merger(nn.Module):
    """Qwen3-VL's layers and mergers: hidden_states float32 [patches, hidden], attention_mask float32
    [1, patches, patches] added to the scores, rotary_pos_emb float32 [patches, head_size / 2] -> last_hidden_state
    float32 [tokens, width], deepstack_feature_lists float32 [levels, tokens, width] where there are levels."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.visual = model.model.visual

    def forward(
        self, hidden_states: torch.Tensor, attention_mask: torch.Tensor, rotary_pos_emb: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        tower, rotation, levels = self.visual, _rotation(rotary_pos_emb), []
        for index, block in enumerate(tower.blocks):
            hidden_states = run_block(block, hidden_states, rotation, attention_mask)
            if index in tower.deepstack_visual_indexes:
                merger = tower.deepstack_merger_list[tower.deepstack_visual_indexes.index(index)]
                levels.append(merger(hidden_states))
        return (tower.merger(hidden_states), *([torch.stack(levels)] if levels else []))


class WindowedMerger(nn.Module):
    """Qwen2.5-VL's: as `Merger`, but layers attend inside windows: the blocks of patches are put in the order of
    window_index int64 [tokens], in which window_attention_mask float32 [1, patches, patches] is given."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.visual = model.model.visual

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor,
        window_attention_mask: torch.Tensor,
        window_index: torch.Tensor,
        rotary_pos_emb: torch.Tensor,
    ) -> torch.Tensor:
        tower = self.visual
        hidden = self._ordered(hidden_states, window_index)
        rotation = _rotation(self._ordered(rotary_pos_emb, window_index))
        for index, block in enumerate(tower.blocks):
            mask = attention_mask if index in tower.fullatt_block_indexes else window_attention_mask
            hidden = run_block(block, hidden, rotation, mask)
        return tower.merger(hidden)[torch.argsort(window_index)]

    def _ordered(self, values: torch.Tensor, window_index: torch.Tensor) -> torch.Tensor:
        patches, width = values.shape
        unit = self.visual.spatial_merge_unit
        return values.reshape(patches // unit, unit, width)[window_index].reshape(patches, width)


class DeepstackDecoder(WideDecoder):
    """Qwen3-VL's, with image tokens' DeepStack features beside the embeddings: visual_pos_masks bool [batch, tokens]
    says where they go, deepstack_visual_embeds float32 [levels, image tokens, hidden] has them in order."""

    def forward(  # type: ignore[override]
        self,
        inputs_embeds: torch.Tensor,
        attention_mask: torch.Tensor,
        position_ids: torch.Tensor,
        visual_pos_masks: torch.Tensor,
        deepstack_visual_embeds: torch.Tensor,
        past: list[torch.Tensor],
    ) -> tuple[torch.Tensor, ...]:
        # Lengths come from inputs_embeds alone: paged attention has the tokens as batch there, and not in the mask.
        batch, tokens, hidden = inputs_embeds.shape
        flat = visual_pos_masks.flatten()
        rank = (flat.long().cumsum(0) - 1).clamp(min=0)
        here = flat.reshape(batch, tokens, 1).to(inputs_embeds.dtype)
        levels = [
            level.index_select(0, rank).reshape(batch, tokens, hidden) * here for level in deepstack_visual_embeds
        ]
        return super().forward(torch.cat([inputs_embeds, *levels], dim=-1), attention_mask, position_ids, past)


def _rotation(angles: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines float32 [patches, 1, head_size] of angles [patches, head_size / 2]."""
    angles = torch.cat([angles, angles], dim=-1)[:, None, :]
    return angles.cos(), angles.sin()


def _patches(student: LoadedStudent) -> Part:
    config = student.model.config.vision_config
    values = config.in_channels * config.temporal_patch_size * config.patch_size**2
    return Part(
        name="vision_patches",
        module=Patches(student.model),
        example=(torch.randn(8, values),),
        dynamic=({0: _DYNAMIC},),
        inputs=["hidden_states"],
        outputs=["last_hidden_state"],
        dimensions={"hidden_states": ["patches", values], "last_hidden_state": ["patches", config.hidden_size]},
        prefixes={"visual": "model.visual"},
    )


def _positions(student: LoadedStudent) -> Part:
    return Part(
        name="vision_positions",
        module=Positions(student.model),
        example=(torch.ones(4, 8, dtype=torch.long),),
        dynamic=({1: _DYNAMIC},),
        inputs=["input"],
        outputs=["last_hidden_state"],
        dimensions={"input": ["neighbours", "patches"]},
        prefixes={"visual": "model.visual"},
    )


def _merger(student: LoadedStudent) -> Part:
    config = student.model.config.vision_config
    angles, patches = config.hidden_size // config.num_heads // 2, 8 * config.spatial_merge_size**2
    return Part(
        name="vision_encoder",
        module=Merger(student.model),
        example=(
            torch.randn(patches, config.hidden_size),
            torch.zeros(1, patches, patches),
            torch.randn(patches, angles),
        ),
        dynamic=({0: _DYNAMIC}, {1: _DYNAMIC, 2: _DYNAMIC}, {0: _DYNAMIC}),
        inputs=["hidden_states", "attention_mask", "rotary_pos_emb"],
        outputs=["last_hidden_state", "deepstack_feature_lists"][: 2 if _levels(student) else 1],
        dimensions={
            "hidden_states": ["patches", config.hidden_size],
            "attention_mask": [1, "patches", "patches"],
            "rotary_pos_emb": ["patches", angles],  # openvino-genai needs to know its width
        },
        prefixes={"visual": "model.visual"},
    )


def _windowed_merger(student: LoadedStudent) -> Part:
    part = _merger(student)
    hidden, mask, angles = part.example
    tokens = len(hidden) // student.model.config.vision_config.spatial_merge_size**2
    square = {1: _DYNAMIC, 2: _DYNAMIC}
    part.module = WindowedMerger(student.model)
    part.example = (hidden, mask, mask.clone(), torch.arange(tokens), angles)
    part.dynamic = ({0: _DYNAMIC}, square, square, {0: _DYNAMIC}, {0: _DYNAMIC})
    part.inputs = ["hidden_states", "attention_mask", "window_attention_mask", "window_index", "rotary_pos_emb"]
    part.outputs = ["last_hidden_state"]
    part.dimensions |= {"window_attention_mask": [1, "patches", "patches"], "window_index": ["tokens"]}
    return part


def _deepstack_decoder(student: LoadedStudent) -> Part:
    model = student.model
    part = decoder_part(student, _TEXT, DeepstackDecoder(model.model.language_model, model.lm_head), axes=(3,))
    embeds, mask, positions, past = part.example
    first, second, third, cache = part.dynamic
    levels = _levels(student)
    images = torch.zeros(embeds.shape[:2], dtype=torch.bool)
    part.example = (embeds, mask, positions, images, torch.randn(levels, 4, embeds.shape[-1]), past)
    part.dynamic = (first, second, third, {0: _DYNAMIC, 1: _DYNAMIC}, {1: _DYNAMIC}, cache)
    part.inputs[3:3] = ["visual_pos_masks", "deepstack_visual_embeds"]
    part.dimensions |= {
        "visual_pos_masks": ["batch_size", "sequence_length"],
        "deepstack_visual_embeds": [levels, "num_image_tokens", embeds.shape[-1]],
    }
    return part


def _levels(student: LoadedStudent) -> int:
    """How many levels of DeepStack the student's vision gives."""
    tower = student.model.model.visual
    return sum(index < len(tower.blocks) for index in getattr(tower, "deepstack_visual_indexes", []))


def _add(path: Path, settings: dict[str, Any]) -> None:
    write_json(path, json.loads(path.read_text(encoding="utf-8")) | settings)
