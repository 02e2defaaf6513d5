"""A student's tokenizer as GGUF metadata: byte-level BPE, the only kind the families here have.

llama.cpp does not read how text is cut into words before the merges; it knows a list of ways by name. The name comes
from comparing `tokenizer.json` with those ways; the target compares llama.cpp's ids with the tokenizer's own.
"""

import json
import unicodedata
from typing import Any

from gguf import TokenType

from masters_edge.common.errors import UserError
from masters_edge.export.student import LoadedStudent

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_QWEN2 = _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_LLAMA3 = _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
# llama.cpp's name of a way to cut words -> the steps `tokenizer.json` gives for it.
WAYS: dict[str, list[tuple[str, Any]]] = {
    "gpt-2": [("ByteLevel", True)],
    "smollm": [("Digits", True), ("ByteLevel", True)],
    "qwen2": [("Split", _QWEN2), ("ByteLevel", False)],
    "llama-bpe": [("Split", _LLAMA3), ("ByteLevel", False)],
}
# llama.cpp ends an answer at these (`special_eog_ids` in llama-vocab.cpp), whatever the student's settings say.
ENDS = {
    "<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<|flush|>", "<|calls|>", "<end_of_turn>", "</s>",
    "<|endoftext|>", "<|eom_id|>", "<EOT>", "_<EOT>", "[EOT]", "[EOS]", "<|end_of_text|>", "<end_of_utterance>",
    "<eos>", "<turn|>", "<|tool_response|>",
}  # fmt: skip
# What a wrong way to cut words would stumble over, and what a normaliser changes: letters taken apart, signs that stand
# for others.
PROBES = [
    "Is there a circle? Yes, there's one; it isn't 1234567 px wide.",
    "  two  spaces,\n\na line break\n and a tab\t.",
    "naïve café — 東京 привет 🙂",
    "IT'S 3.14159, don't you THINK?",
    unicodedata.normalize("NFD", "naïve café, tiếng Việt, 한글"),
    "\N{ANGSTROM SIGN}, \N{OHM SIGN}, \N{CJK COMPATIBILITY IDEOGRAPH-F90A}",
]


def keys(student: LoadedStudent) -> dict[str, Any]:
    """The `tokenizer.*` keys; raises UserError for a tokenizer llama.cpp can't do."""
    tokenizer = student.processor.tokenizer
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    rows = student.model.get_input_embeddings().weight.shape[0]
    tokens, types = _tokens(state, rows)  # ids without a row can be in no prompt and in no answer
    for index in _not_ends(student, rows):
        tokens[index] = f"<not an end: {tokens[index]}>"
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in state["model"]["merges"]]
    found: dict[str, Any] = {
        "model": "gpt2",
        "pre": _way(state, student),
        "tokens": tokens,
        "token_type": types,
        "merges": merges,
        "add_bos_token": False,  # where the student has one, its chat template writes it
        "add_eos_token": False,
        "add_space_prefix": False,
    }
    named = {"bos": tokenizer.bos_token_id, "padding": tokenizer.pad_token_id}
    named |= dict(zip(("eos", "eot", "eom"), student.end_ids))
    found |= {f"{name}_token_id": int(token) for name, token in named.items() if token is not None and token < rows}
    return {f"tokenizer.ggml.{key}": value for key, value in found.items()} | {
        "tokenizer.chat_template": student.processor.chat_template
    }


def _not_ends(student: LoadedStudent, rows: int) -> list[int]:
    """Tokens that llama.cpp would take for an answer's end though the student doesn't, and that no template contains.

    They get another name in the file, so that an answer goes on behind them as PyTorch's does.
    """
    vocabulary = student.processor.tokenizer.get_vocab()
    stops, template = set(student.end_ids), student.processor.chat_template
    found = {vocabulary[text] for text in ENDS & set(vocabulary) if text not in template}
    return [index for index in found - stops if index < rows]


def _tokens(state: dict[str, Any], rows: int) -> tuple[list[str], list[int]]:
    """Every id's text and type; ids that the embedding has and the tokenizer lacks are unused."""
    texts = {index: text for text, index in state["model"]["vocab"].items()}
    kinds = dict.fromkeys(texts, TokenType.NORMAL)
    for added in state["added_tokens"]:
        texts[added["id"]] = added["content"]
        kinds[added["id"]] = TokenType.CONTROL if added["special"] else TokenType.USER_DEFINED
    tokens = [texts.get(index, f"[PAD{index}]") for index in range(rows)]
    return tokens, [int(kinds.get(index, TokenType.UNUSED)) for index in range(rows)]


def _way(state: dict[str, Any], student: LoadedStudent) -> str:
    if state["model"].get("type") != "BPE" or state["model"].get("byte_fallback"):
        raise UserError(
            f"the tokenizer of {student.folder} is no byte-level BPE, the only kind written to GGUF here; export to "
            "another target, such as onnx"
        )
    steps = _steps(state["pre_tokenizer"])
    for name, way in WAYS.items():
        if steps == way:
            return name
    raise UserError(
        f"the tokenizer of {student.folder} cuts words in a way that llama.cpp has no name for here ({steps}); "
        f"expected that of one of: {', '.join(WAYS)}; export to another target, such as onnx"
    )


def _steps(step: dict[str, Any] | None) -> list[tuple[str, Any]]:
    """The steps that matter, each with the setting that does."""
    if step is None:
        return []
    kind = step["type"]
    if kind == "Sequence":
        return [inner for part in step["pretokenizers"] for inner in _steps(part)]
    if kind == "ByteLevel" and not step.get("add_prefix_space"):
        return [(kind, step.get("use_regex", True))]
    if kind == "Digits":
        return [(kind, step["individual_digits"])]
    if kind == "Split" and step.get("behavior") == "Isolated" and not step.get("invert"):
        return [(kind, step["pattern"].get("Regex"))]
    return [(kind, step)]
