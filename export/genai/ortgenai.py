"""What onnxruntime-genai needs beside the ONNX graphs of a bundle, so that it loads the folder as it is.

In: a folder with the graphs and settings of a Qwen2.5-VL or Qwen3-VL. Out: `genai_config.json`, the image processor's
JSON, and one more small graph, the embedding with the image's features put in place. Vision and decoder are the
bundle's own files (CONTRACTS).
"""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from masters_edge.export.settings import write_json
from masters_edge.export.student import LoadedStudent

MODEL_TYPES = ("qwen2_5_vl", "qwen3_vl")
EMBEDDING = "onnx/embedding.onnx"
# Its usual name, processor_config.json, is one that transformers writes with other content.
IMAGE_PROCESSOR = "genai_image_processor.json"


def write(student: LoadedStudent, folder: Path, graphs: dict[str, str]) -> None:
    """Add the files to `folder`, whose `graphs` (part -> file) are finished."""
    path = folder / EMBEDDING
    tokens = onnx.load(folder / graphs["embed_tokens"], load_external_data=False)
    onnx.save(with_features(tokens, student.model.config.image_token_id), path)
    write_json(folder / "genai_config.json", _config(student, tokens, graphs))
    write_json(folder / IMAGE_PROCESSOR, _image_processor(student))


def with_features(model: onnx.ModelProto, image_token_id: int) -> onnx.ModelProto:
    """The token embedding as input_ids, image_features -> inputs_embeds.

    The k-th image token gets the k-th feature; where features run out, as behind the prompt where there are none, an
    image token keeps its own embedding. External weights stay where they are, so save it beside the original.
    """
    extended = onnx.ModelProto()
    extended.CopyFrom(model)
    graph = extended.graph
    ids, embeds = graph.input[0].name, graph.output[0].name
    for node in graph.node:
        node.output[:] = ["token_embeds" if name == embeds else name for name in node.output]
        node.input[:] = ["token_embeds" if name == embeds else name for name in node.input]
    width = graph.output[0].type.tensor_type.shape.dim[-1].dim_value
    graph.input.append(helper.make_tensor_value_info("image_features", TensorProto.FLOAT, ["num_image_tokens", width]))
    constants = {"image_token": np.asarray(image_token_id, np.int64), "zero": np.zeros(1, np.int64)}
    graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in constants.items())
    graph.node.extend(
        [
            helper.make_node("Equal", [ids, "image_token"], ["is_image"]),
            helper.make_node("NonZero", ["is_image"], ["found"]),
            helper.make_node("Transpose", ["found"], ["every_place"], perm=[1, 0]),
            helper.make_node("Shape", ["image_features"], ["features"], start=0, end=1),
            helper.make_node("Slice", ["every_place", "zero", "features", "zero"], ["places"]),
            helper.make_node("ScatterND", ["token_embeds", "places", "image_features"], [embeds]),
        ]
    )
    return extended


def _config(student: LoadedStudent, tokens: onnx.ModelProto, graphs: dict[str, str]) -> dict[str, Any]:
    config, generation, ends = student.model.config, student.model.generation_config, student.end_ids
    text, vision = config.text_config, config.vision_config
    names = {
        f"{which}_{kind}_names": f"{stem}.%d.{kind}" for which, stem in _CACHE.items() for kind in ("key", "value")
    }
    session = {"log_id": "onnxruntime-genai", "provider_options": []}
    return {
        "model": {
            "type": student.model_type,
            "bos_token_id": _first(generation.bos_token_id, text.bos_token_id, ends[0]),
            "eos_token_id": ends,
            "pad_token_id": _first(generation.pad_token_id, text.pad_token_id, ends[0]),
            "context_length": text.max_position_embeddings,
            "vocab_size": text.vocab_size,
            "image_token_id": config.image_token_id,
            "video_token_id": config.video_token_id,
            "vision_start_token_id": config.vision_start_token_id,
            "decoder": {
                "session_options": session,
                "filename": graphs["decoder"],
                # What travels between the graphs: with DeepStack more than the model's own hidden size.
                "hidden_size": tokens.graph.output[0].type.tensor_type.shape.dim[-1].dim_value,
                "head_size": getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads,
                "num_attention_heads": text.num_attention_heads,
                "num_hidden_layers": text.num_hidden_layers,
                "num_key_value_heads": text.num_key_value_heads,
                "inputs": {
                    **{name: name for name in ("inputs_embeds", "attention_mask", "position_ids")},
                    **{name: value for name, value in names.items() if name.startswith("past")},
                },
                "outputs": {
                    "logits": "logits",
                    **{name: value for name, value in names.items() if name.startswith("present")},
                },
            },
            "embedding": {
                "filename": EMBEDDING,
                "inputs": {"input_ids": "input_ids", "image_features": "image_features"},
                "outputs": {"inputs_embeds": "inputs_embeds"},
            },
            "vision": {
                "filename": graphs["vision_encoder"],
                "config_filename": IMAGE_PROCESSOR,
                "spatial_merge_size": vision.spatial_merge_size,
                "patch_size": vision.patch_size,
                "tokens_per_second": float(getattr(vision, "tokens_per_second", 2.0)),  # of video
                "inputs": {"pixel_values": "pixel_values", "image_grid_thw": "image_grid_thw"},
                "outputs": {"image_features": "image_features"},
            },
        },
        "search": {
            "do_sample": False,
            "max_length": text.max_position_embeddings,
            "min_length": 0,
            "num_beams": 1,
            "temperature": 1.0,
            "top_k": 1,
            "top_p": 1.0,
            "repetition_penalty": 1.0,
            # The graphs give a grown cache back; they don't write into one of fixed length.
            "past_present_share_buffer": False,
        },
    }


_CACHE = {"past": "past_key_values", "present": "present"}


def _image_processor(student: LoadedStudent) -> dict[str, Any]:
    """transformers' settings in the words of onnxruntime-extensions."""
    images = student.processor.image_processor
    merge = {"patch_size": images.patch_size, "merge_size": images.merge_size}
    steps: list[tuple[str, dict[str, Any]]] = [
        ("DecodeImage", {"color_space": "RGB"}),
        ("ConvertRGB", {}),
        (
            "Resize",
            {
                "smart_resize": 1,
                "min_pixels": images.size["shortest_edge"],
                "max_pixels": images.size["longest_edge"],
                "width": 540,  # asked for, and not used by smart_resize
                "height": 360,
                **merge,
            },
        ),
        ("Rescale", {"rescale_factor": images.rescale_factor}),
        ("Normalize", {"mean": list(images.image_mean), "std": list(images.image_std), student.model_type: 1}),
        ("PatchImage", {"temporal_patch_size": images.temporal_patch_size, **merge}),
    ]
    operations = [
        {"operation": {"name": kind, "type": kind, **({"attrs": about} if about else {})}} for kind, about in steps
    ]
    return {"processor": {"name": f"{student.model_type}_image_processor", "transforms": operations}}


def _first(*values: int | None) -> int:
    """The first that is given."""
    return next(value for value in values if value is not None)
