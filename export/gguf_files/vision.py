"""A student's vision encoder in llama.cpp's words: the `mmproj` file, one function for each family.

Each returns the file's content and how the runtime hands pictures over (`Pictures`). Where llama.cpp's own arithmetic
differs from PyTorch's, the docstring says so; the order of things is that of its `tools/mtmd/clip.cpp`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from masters_edge.export.gguf_files.files import Content, Piece, renamed
from masters_edge.export.student import LoadedStudent

# Projectors whose files older programs wrote with the two halves of the MLP exchanged: llama.cpp changes them back
# when the lower one looks like the upper one, which it always does where both widths are the same.
_EXCHANGED = {"ffn_up": "ffn_down", "ffn_down": "ffn_up"}


@dataclass(frozen=True)
class Pictures:
    """How pictures reach llama.cpp.

    `layout`: "frames" (each frame a picture of its own, all text between them ours), "tiled" (one picture, which
    llama.cpp cuts and puts its own text around) or "patches" (one picture of whole patches). `replaces`: what of the
    prompt a picture and the text llama.cpp puts around it stand for. `settings`: for llama.cpp at loading time.
    """

    layout: str
    replaces: str
    settings: dict[str, int]


def unsupported(student: LoadedStudent) -> str | None:
    """Why llama.cpp can't run this vision encoder, if it can't."""
    config, model_type = student.model.config.vision_config, student.model_type
    if model_type not in FAMILIES:
        return "llama.cpp's multimodal code does not cut and join pictures as this family does"
    if model_type == "qwen2_5_vl":
        if config.window_size != 112:
            return f"llama.cpp looks through windows of 112 pixels, this student through {config.window_size}"
        full, step = config.fullatt_block_indexes, config.fullatt_block_indexes[0] + 1
        if step < 2 or list(full) != list(range(step - 1, config.depth, step)):
            return f"llama.cpp wants every n-th vision layer but not all to see everything, here {list(full)} do"
    if model_type.startswith("qwen") and (config.spatial_merge_size, config.temporal_patch_size) != (2, 2):
        return "llama.cpp joins 2 x 2 patches of 2 frames, this student others"
    if model_type == "internvl" and config.use_qk_norm:
        return "queries and keys normalised in the vision encoder are not written to GGUF here"
    return None


def content(student: LoadedStudent) -> tuple[Content, Pictures]:
    """The `mmproj` file of a supported student, and how pictures are handed over."""
    return FAMILIES[student.model_type](student)


def notes(student: LoadedStudent) -> list[str]:
    """What the manifest should say of a supported student's pictures."""
    _, pictures = content(student)
    if pictures.layout == "frames":
        return [
            "llama.cpp's own idefics3 code writes texts for tiles that this student's pictures don't have, so the "
            "mmproj file has a projector that writes none (d1omni_v): other llama.cpp programs need the text around a "
            "picture in the prompt, and --image-min-tokens 1"
        ]
    if student.model_type == "internvl":
        return [
            "of a picture cut into tiles llama.cpp makes the small copy from the cut one, transformers from the "
            "picture as given: answers can differ a little"
        ]
    return []


def smolvlm(student: LoadedStudent) -> tuple[Content, Pictures]:
    """SmolVLM and Idefics3. ggml looks GELU up in a float16 table: about 5e-4 off in each MLP.

    llama.cpp's own `idefics3` always cuts a picture into tiles, with a text for each. A student that reads its picture
    whole gets a projector that writes no text (`d1omni_v`), so that the runtime writes what the student knows. That
    projector is an MLP where the connector is one matrix: shifted so far up that GELU lets everything through, and
    back down by the second layer (an identity).
    """
    config = student.model.config
    vision = config.vision_config
    prefix = "model.vision_model."
    table = {
        f"{prefix}embeddings.patch_embedding": "v.patch_embd",
        f"{prefix}embeddings.position_embedding": "v.position_embd",
        f"{prefix}post_layernorm": "v.post_ln",
        "model.connector.modality_projection.proj": "mm.1",
    }
    layer = {
        "layer_norm1": "ln1", "layer_norm2": "ln2", "mlp.fc1": "ffn_up", "mlp.fc2": "ffn_down",
        "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
        "self_attn.out_proj": "attn_out",
    }  # fmt: skip
    keys = _keys(
        student, vision, vision.num_attention_heads, vision.num_hidden_layers, vision.image_size, vision.layer_norm_eps
    )
    keys |= {"use_gelu": True, "vision.projector.scale_factor": config.scale_factor}
    placeholder = str(student.processor.image_token)
    arrays: dict[str, np.ndarray] = {}
    if cut_by_llamacpp(student):
        keys |= {"projector_type": "idefics3", "vision.preproc_image_size": _images(student).size["longest_edge"]}
        table["model.connector.modality_projection.proj"] = "mm.model.fc"
        if vision.intermediate_size == vision.hidden_size:
            layer = {ours: _EXCHANGED.get(theirs, theirs) for ours, theirs in layer.items()}
        pictures = Pictures("tiled", placeholder, {})
    else:
        keys |= {"projector_type": "d1omni_v"}
        up = _bound(student) + 8.0
        arrays = {"mm.1.bias": up, "mm.2.weight": np.eye(len(up), dtype=np.float32), "mm.2.bias": -up}
        tokens = (vision.image_size // vision.patch_size // config.scale_factor) ** 2
        pictures = Pictures("frames", placeholder, {"image_min_tokens": 1, "image_max_tokens": tokens})
    table |= {f"{prefix}encoder.layers.#.{ours}": f"v.blk.#.{theirs}" for ours, theirs in layer.items()}
    pieces = _pieces(student, (prefix, "model.connector."), table)
    return _content(keys, pieces, arrays), pictures


def cut_by_llamacpp(student: LoadedStudent) -> bool:
    """Whether the student's pictures always become tiles just as llama.cpp's `idefics3` makes them, text included."""
    images, tokenizer = _images(student), student.processor.tokenizer
    longest, side = images.size.get("longest_edge", 0), images.max_image_size["longest_edge"]
    tiles = images.do_image_splitting and longest > side and longest % side == 0
    return bool(tiles) and len(tokenizer("\n\n", add_special_tokens=False).input_ids) == 1


def qwen2_5_vl(student: LoadedStudent) -> tuple[Content, Pictures]:
    """Qwen2.5-VL. The merger's exact GELU becomes ggml's, the tanh kind from a float16 table: about 1e-3 off."""
    vision = student.model.config.vision_config
    layer = {"norm1": "ln1", "norm2": "ln2", "attn.proj": "attn_out"}
    mlp = {"mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down"}
    if vision.intermediate_size == vision.hidden_size:
        mlp = {ours: _EXCHANGED.get(theirs, theirs) for ours, theirs in mlp.items()}
    table = {"merger.ln_q": "v.post_ln", "merger.mlp.0": "mm.0", "merger.mlp.2": "mm.2"}
    keys = {"use_silu": True, "vision.n_wa_pattern": vision.fullatt_block_indexes[0] + 1}
    return _qwen(student, "qwen2.5vl_merger", 560, keys, layer | mlp, table)


def qwen3_vl(student: LoadedStudent) -> tuple[Content, Pictures]:
    """Qwen3-VL with DeepStack. GELU as in Qwen2.5-VL, in every MLP."""
    vision = student.model.config.vision_config
    layer = {
        "norm1": "ln1", "norm2": "ln2", "attn.qkv": "attn_qkv", "attn.proj": "attn_out",
        "mlp.linear_fc1": "ffn_up", "mlp.linear_fc2": "ffn_down",
    }  # fmt: skip
    table = {
        "patch_embed.proj": "v.patch_embd", "pos_embed": "v.position_embd", "merger.norm": "v.post_ln",
        "merger.linear_fc1": "mm.0", "merger.linear_fc2": "mm.2",
    }  # fmt: skip
    for index, deep in enumerate(vision.deepstack_visual_indexes):
        for ours, theirs in (("norm", "norm"), ("linear_fc1", "fc1"), ("linear_fc2", "fc2")):
            table[f"deepstack_merger_list.{index}.{ours}"] = f"v.deepstack.{deep}.{theirs}"
    deepstack = [index in vision.deepstack_visual_indexes for index in range(vision.depth)]
    keys = {"use_gelu": True, "vision.spatial_merge_size": 2, "vision.is_deepstack_layers": deepstack}
    side = math.isqrt(vision.num_position_embeddings) * vision.patch_size
    return _qwen(student, "qwen3vl_merger", side, keys, layer, table)


def internvl(student: LoadedStudent) -> tuple[Content, Pictures]:
    """InternVL3 and 3.5. GELU as in Qwen2.5-VL, in every MLP.

    llama.cpp puts the class token after the patches and adds the position table as it lies in the file, so the table's
    first row, the class token's, goes last. It makes the small copy of a cut picture from the cut one, transformers
    from the picture as given.
    """
    config = student.model.config
    vision = config.vision_config
    prefix = "model.vision_tower."
    layer = {
        "layernorm_before": "ln1", "layernorm_after": "ln2", "mlp.fc1": "ffn_up", "mlp.fc2": "ffn_down",
        "attention.q_proj": "attn_q", "attention.k_proj": "attn_k", "attention.v_proj": "attn_v",
        "attention.projection_layer": "attn_out",
    }  # fmt: skip
    table = {f"{prefix}encoder.layer.#.{ours}": f"v.blk.#.{theirs}" for ours, theirs in layer.items()}
    table |= {
        f"{prefix}embeddings.patch_embeddings.projection": "v.patch_embd",
        f"{prefix}layernorm": "v.post_ln",
        "model.multi_modal_projector.layer_norm": "mm.model.mlp.0",
        "model.multi_modal_projector.linear_1": "mm.model.mlp.1",
        "model.multi_modal_projector.linear_2": "mm.model.mlp.3",
    }
    values = dict(student.model.named_parameters())
    named = {f"{prefix}embeddings.cls_token", f"{prefix}embeddings.position_embeddings"}
    arrays = {"v.class_embd": values[f"{prefix}embeddings.cls_token"].detach().numpy().reshape(-1)}
    positions = values[f"{prefix}embeddings.position_embeddings"].detach().numpy()[0]
    arrays["v.position_embd.weight"] = np.roll(positions, -1, axis=0)
    for number in range(vision.num_hidden_layers):
        for which in (1, 2):
            name = f"{prefix}encoder.layer.{number}.lambda_{which}"
            arrays[f"v.blk.{number}.ls{which}.weight"] = values[name].detach().numpy()
            named.add(name)
    side, patch = _first(vision.image_size), _first(vision.patch_size)
    keys = _keys(
        student, vision, vision.num_attention_heads, vision.num_hidden_layers, side, vision.layer_norm_eps, patch
    )
    images = _images(student)
    keys |= {
        "projector_type": "internvl",
        "use_gelu": True,
        "vision.projector.scale_factor": round(1 / config.downsample_ratio),
        "vision.preproc_min_tiles": images.min_patches,
        "vision.preproc_max_tiles": images.max_patches,
    }
    pieces = _pieces(student, (prefix, "model.multi_modal_projector."), table, named)
    return _content(keys, pieces, arrays), Pictures("tiled", student.processor.image_token, {})


FAMILIES: dict[str, Callable[[LoadedStudent], tuple[Content, Pictures]]] = {
    "smolvlm": smolvlm,
    "idefics3": smolvlm,
    "qwen2_5_vl": qwen2_5_vl,
    "qwen3_vl": qwen3_vl,
    "internvl": internvl,
}


def _qwen(
    student: LoadedStudent, projector: str, side: int, more: dict[str, Any], layer: dict[str, str], rest: dict[str, str]
) -> tuple[Content, Pictures]:
    """What both Qwens share: a convolution over two frames as two over one, and pictures of any number of patches."""
    vision = student.model.config.vision_config
    prefix = "model.visual."
    table = {f"{prefix}blocks.#.{ours}": f"v.blk.#.{theirs}" for ours, theirs in layer.items()}
    table |= {f"{prefix}{ours}": theirs for ours, theirs in rest.items()}
    convolution = f"{prefix}patch_embed.proj.weight"
    values = dict(student.model.named_parameters())
    frames = values[convolution].detach().numpy()
    arrays = {"v.patch_embd.weight": frames[:, :, 0], "v.patch_embd.weight.1": frames[:, :, 1]}
    named = {convolution}
    pieces = {}
    if projector == "qwen2.5vl_merger":  # its graph reads queries, keys and values from three tensors
        width = vision.hidden_size
        for number in range(vision.depth):
            for kind in ("weight", "bias"):
                name = f"{prefix}blocks.{number}.attn.qkv.{kind}"
                named.add(name)
                for place, letter in enumerate("qkv"):
                    rows = (place * width, (place + 1) * width)
                    pieces[f"v.blk.{number}.attn_{letter}.{kind}"] = Piece(name, rows=rows)
    pieces |= _pieces(student, (prefix,), table, named)
    images = _images(student)
    keys = _keys(student, vision, vision.num_heads, vision.depth, side, 1e-6)
    keys |= {
        "projector_type": projector,
        "vision.image_min_pixels": images.size["shortest_edge"],
        "vision.image_max_pixels": images.size["longest_edge"],
    }
    replaces = f"<|vision_start|>{student.processor.image_token}<|vision_end|>"
    return _content(keys | more, pieces, arrays), Pictures("patches", replaces, {})


def _keys(
    student: LoadedStudent, vision: Any, heads: int, layers: int, side: int, epsilon: float, patch: int | None = None
) -> dict[str, Any]:
    images = _images(student)
    return {
        "has_vision_encoder": True,
        "vision.embedding_length": vision.hidden_size,
        "vision.feed_forward_length": vision.intermediate_size,
        "vision.block_count": layers,
        "vision.projection_dim": student.model.config.text_config.hidden_size,
        "vision.attention.head_count": heads,
        "vision.attention.layer_norm_epsilon": float(epsilon),
        "vision.image_size": side,
        "vision.patch_size": vision.patch_size if patch is None else patch,
        "vision.image_mean": [float(value) for value in images.image_mean],
        "vision.image_std": [float(value) for value in images.image_std],
    }


def _content(keys: dict[str, Any], pieces: dict[str, Piece], arrays: dict[str, np.ndarray]) -> Content:
    return Content("clip", {f"clip.{key}": value for key, value in keys.items()}, pieces, arrays)


def _pieces(
    student: LoadedStudent,
    prefixes: tuple[str, ...],
    table: dict[str, str],
    named: frozenset[str] | set[str] = frozenset(),
) -> dict[str, Piece]:
    """The vision encoder's parameters by llama.cpp's names, but for those `named` elsewhere."""
    names = [name for name, _ in student.model.named_parameters() if name.startswith(prefixes) and name not in named]
    return {theirs: Piece(name) for name, theirs in renamed(names, table).items()}


def _bound(student: LoadedStudent) -> np.ndarray:
    """How far down the connector's outputs can go, float32 [hidden]: what comes in was normalised just before.

    A patch is weight * z + bias with |z| = sqrt(width), so by Cauchy and Schwarz one patch's share of an output is at
    most sqrt(width) times the length of its row of the matrix times the weight, plus the bias's share.
    """
    tower, projection = student.model.model.vision_model.post_layernorm, student.model.model.connector
    matrix = projection.modality_projection.proj.weight.detach().numpy().astype(np.float64)
    weight, bias = (tensor.detach().numpy().astype(np.float64) for tensor in (tower.weight, tower.bias))
    shares = matrix.reshape(len(matrix), -1, len(weight))
    lengths = np.sqrt(((shares * weight) ** 2).sum(axis=-1)).sum(axis=-1) * math.sqrt(len(weight))
    return (lengths + np.abs((shares * bias).sum(axis=(1, 2)))).astype(np.float32)


def _images(student: LoadedStudent) -> Any:
    return student.processor.image_processor


def _first(value: Any) -> int:
    return int(value[0] if isinstance(value, (list, tuple)) else value)
