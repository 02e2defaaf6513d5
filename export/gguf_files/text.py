"""A student's language model in llama.cpp's words: architecture, metadata, tensor names.

llama.cpp's Llama rotates neighbouring values where transformers rotates halves, so rows of its queries and keys change
places; the Qwens' do not.
"""

from typing import Any

from masters_edge.export.gguf_files.files import Content, Piece, renamed
from masters_edge.export.student import LoadedStudent

ARCHITECTURES = {
    "llama": "llama",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "qwen2_5_vl_text": "qwen2vl",
    "qwen3_vl_text": "qwen3vl",
}
_LAYER = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def unsupported(student: LoadedStudent) -> str | None:
    """Why llama.cpp can't run this language model, if it can't."""
    config = student.model.config.text_config
    if config.model_type not in ARCHITECTURES:
        return f"llama.cpp's file for a language model of type {config.model_type!r} is not written here"
    rope = config.rope_parameters
    if rope.get("rope_type", "default") != "default":
        return f"the rotary positions of type {rope['rope_type']!r} are not written to GGUF here"
    if getattr(config, "use_sliding_window", False):
        return "sliding-window attention is not written to GGUF here"
    return None


def content(student: LoadedStudent, tokenizer: dict[str, Any]) -> Content:
    """The model's file; `tokenizer` are the keys of `tokenizer.py`."""
    config = student.model.config.text_config
    prefix = _prefix(student)
    table = {f"{prefix}layers.#.{ours}": f"blk.#.{theirs}" for ours, theirs in _LAYER.items()}
    table |= {f"{prefix}embed_tokens": "token_embd", f"{prefix}norm": "output_norm", "lm_head": "output"}
    parameters = dict(student.model.named_parameters(remove_duplicate=False))
    names = [name for name in parameters if name.startswith((prefix, "lm_head."))]
    embedding, head = f"{prefix}embed_tokens.weight", "lm_head.weight"
    twin = head if parameters[head] is parameters[embedding] else None
    if twin is not None:
        names = [name for name in names if name != head]  # llama.cpp takes the embedding where there is no head
    pieces = {
        theirs: Piece(name, heads=_heads(config, theirs), twin=twin if name == embedding else None)
        for name, theirs in renamed(names, table).items()
    }
    architecture = ARCHITECTURES[config.model_type]
    return Content(architecture, _keys(student, architecture) | tokenizer, pieces, {})


def _prefix(student: LoadedStudent) -> str:
    """`model.language_model.` or the like: where the token embedding lies."""
    embedding = student.model.get_input_embeddings()
    name = next(name for name, module in student.model.named_modules() if module is embedding)
    return name.removesuffix("embed_tokens")


def _heads(config: Any, name: str) -> int:
    if config.model_type != "llama":
        return 0
    if ".attn_q." in name:
        return config.num_attention_heads
    return config.num_key_value_heads if ".attn_k." in name else 0


def _keys(student: LoadedStudent, architecture: str) -> dict[str, Any]:
    config = student.model.config.text_config
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    keys: dict[str, Any] = {
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "block_count": config.num_hidden_layers,
        "feed_forward_length": config.intermediate_size,
        "vocab_size": student.model.get_input_embeddings().weight.shape[0],
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.key_length": head,
        "attention.value_length": head,
        "attention.layer_norm_rms_epsilon": float(config.rms_norm_eps),
        "rope.dimension_count": head,
        "rope.freq_base": float(config.rope_parameters["rope_theta"]),
    }
    sections = config.rope_parameters.get("mrope_section")
    if sections is not None:
        keys["rope.dimension_sections"] = [*sections, 0]
    deepstack = getattr(student.model.config.vision_config, "deepstack_visual_indexes", None)
    if deepstack is not None:
        keys["n_deepstack_layers"] = len(deepstack)
    return {f"{architecture}.{key}": value for key, value in keys.items()}
