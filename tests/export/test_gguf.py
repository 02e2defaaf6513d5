"""GGUF files carry torchao's integers, and a real llama.cpp answers from them with PyTorch's greedy tokens."""

import base64
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("gguf")
pytest.importorskip("xllamacpp")

import gguf
import xllamacpp
from gguf.quants import dequantize

from masters_edge.common.errors import UserError
from masters_edge.export.gate import integers
from masters_edge.export.gguf_files import blocks, tokenizer
from masters_edge.export.quantize.record import QuantizedTensor
from masters_edge.export.student import load
from masters_edge.export.targets import Lowering
from masters_edge.export.targets import gguf as target
from masters_edge.runtime.prompt import Prompt
from tests import tiny, wide
from tests.advice import follows
from tests.export import gguf_bundles as made_of

FAMILIES = ["smolvlm", "idefics3", "qwen2_5_vl", "qwen3_vl", "internvl3", "internvl3_5"]
# Of log-probabilities, in nats, on pictures handed over as the student sees them. llama.cpp looks GELU up in a float16
# table (SmolVLM's encoder: 5e-3), and has the tanh kind only where the Qwens' mergers and InternVL have the exact one.
LARGEST_ERROR = {"smolvlm": 1.5e-2, "idefics3": 1.5e-2}
OTHERS = 8e-2


def pictures(name: str) -> list:
    """A picture of one tile, one of several, a tall one."""
    if name.startswith("internvl"):  # at the size of their tiles, as llama.cpp makes the small copy from those
        return [tiny.picture(*size, seed=index) for index, size in enumerate([(32, 32), (64, 32), (32, 96)])]
    return [tiny.picture(*size, seed=index) for index, size in enumerate([(32, 32), (70, 51), (20, 90)])]


@pytest.mark.parametrize(
    "name", wide.cells([*FAMILIES, "smolvlm_whole", "smolvlm_tiled", "smolvlm_square"], ["smolvlm_tiled", "qwen3_vl"])
)
def test_llama_cpp_answers_with_pytorchs_greedy_tokens(name: str) -> None:
    of = made_of.made(name, "fp32")
    backend = made_of.backend(of, exact=True)
    worst = 0.0
    for image in pictures(name):
        reference = made_of.reference(of, image)
        vocabulary = reference.logits.shape[-1]
        question = made_of.question(of, image)
        answer = backend.answer(question, made_of.NEW_TOKENS, made_of.stop_ids(of), top=vocabulary)
        assert answer.token_ids == reference.answer
        first = reference.input_ids.shape[1] - 1
        expected = torch.log_softmax(torch.from_numpy(reference.logits[0, first:]).double(), dim=-1).numpy()
        assert answer.top
        for place, found in answer.top.items():
            assert len(found) == vocabulary
            worst = max(worst, *(abs(expected[place, token] - value) for token, value in found.items()))
    backend.close()
    assert worst < LARGEST_ERROR.get(name.partition("_")[0], OTHERS)


@pytest.mark.parametrize("scheme", wide.cells(["int4", "int8", "smallest"], ["smallest"]))
@pytest.mark.parametrize("name", FAMILIES)
def test_integers_in_the_files_are_torchaos_bit_for_bit(name: str, scheme: str) -> None:
    of = made_of.made(name, scheme)
    assert of.lowering.weights.tensors
    integers.check(target.integers(of.shipped, of.graphs), of.lowering.weights.tensors)


@pytest.mark.parametrize("name", ["smolvlm", "qwen2_5_vl"])
def test_what_the_blocks_mean_to_ggml_is_what_pytorch_computes_with(name: str) -> None:
    """Dequantized by the gguf package, not by the code that packed them; rows put in order by hand."""
    of = made_of.made(name, "int4")
    model = dict(of.student.model.named_parameters())
    files = {file: gguf.GGUFReader(of.shipped / file) for file in set(of.graphs.values())}
    found = {t.name: dequantize(t.data, t.tensor_type) for f in files.values() for t in f.tensors}
    kinds = {t.name: t.tensor_type.name for f in files.values() for t in f.tensors}
    layer = "model.text_model.layers.0." if name == "smolvlm" else "model.language_model.layers.0."
    assert np.array_equal(found["blk.0.ffn_down.weight"], model[f"{layer}mlp.down_proj.weight"].numpy())
    queries = model[f"{layer}self_attn.q_proj.weight"].numpy()
    if name == "smolvlm":  # four heads of 16 rows, whose halves take turns
        turns = [16 * head + half + 8 * which for head in range(4) for half in range(8) for which in (0, 1)]
        assert np.array_equal(found["blk.0.attn_q.weight"], queries[turns])
        assert np.array_equal(
            found["v.blk.1.ffn_up.weight"], model["model.vision_model.encoder.layers.1.mlp.fc1.weight"].numpy()
        )
        assert kinds["v.blk.1.ffn_down.weight"] == "F32"  # 144 input features
    else:
        assert np.array_equal(found["blk.0.attn_q.weight"], queries)
        fused = model["model.visual.blocks.1.attn.qkv.weight"].numpy()
        assert np.array_equal(found["v.blk.1.attn_k.weight"], fused[32:64])
    assert kinds["blk.0.attn_q.weight"] == kinds["v.blk.1.attn_q.weight"] == "Q4_0"
    assert kinds["token_embd.weight"] == "F32"


@pytest.mark.parametrize("name", FAMILIES)
def test_int4_answers_as_pytorch_does_with_the_same_integers(name: str) -> None:
    of = made_of.made(name, "int4")
    image = pictures(name)[0]
    expected = made_of.reference(of, image)
    backend = made_of.backend(of, exact=True)
    answer = backend.answer(made_of.question(of, image), made_of.NEW_TOKENS, made_of.stop_ids(of))
    backend.close()
    assert answer.token_ids == expected.answer
    # As it ships, activations are rounded to 8 bits: near, not equal.
    shipped = made_of.backend(of, exact=False)
    vocabulary = expected.logits.shape[-1]
    answer = shipped.answer(made_of.question(of, image), made_of.NEW_TOKENS, made_of.stop_ids(of), top=vocabulary)
    shipped.close()
    chances = torch.log_softmax(torch.from_numpy(expected.logits[0, expected.input_ids.shape[1] - 1 :]), dim=-1)
    same = [place for place in answer.top if answer.token_ids[:place] == expected.answer[:place]]
    assert same
    for place in same:
        assert max(abs(float(chances[place, token]) - value) for token, value in answer.top[place].items()) < 0.5


def test_packing_by_hand() -> None:
    values = np.concatenate([np.arange(-8, 8), np.arange(7, -9, -1)]).astype(np.int8).reshape(1, 32)
    zeros, scales = np.zeros((1, 1), np.int8), np.array([[0.5]], np.float16)
    four = blocks.encode(QuantizedTensor("w", values, scales, zeros, bits=4, group_size=32))
    assert four.shape == (1, 18) and four[0, :5].tolist() == [0x00, 0x38, 0xF0, 0xE1, 0xD2]
    eight = blocks.encode(QuantizedTensor("w", values, scales, zeros, bits=8, group_size=32))
    assert eight.shape == (1, 34) and eight[0, 2:5].tolist() == [0xF8, 0xF9, 0xFA]
    # One scale for 64 values is written twice.
    wide = QuantizedTensor("w", np.tile(values, (1, 2)), scales, zeros, bits=4, group_size=64)
    assert np.array_equal(blocks.encode(wide), np.concatenate([four, four], axis=1))
    assert not blocks.fits(QuantizedTensor("w", values, scales, zeros + 1, bits=4, group_size=32))


def test_int8_of_rows_that_fill_no_blocks_stays_float32_and_is_said() -> None:
    of = made_of.made("smolvlm", "int8")
    assert sum("144 input features" in note for note in of.lowering.weights.notes) == 2


def test_a_float16_plan_halves_matrices_only() -> None:
    of = made_of.made("internvl3", "fp16")
    kinds = {
        t.name: t.tensor_type.name for f in set(of.graphs.values()) for t in gguf.GGUFReader(of.shipped / f).tensors
    }
    assert kinds["blk.0.attn_q.weight"] == kinds["v.blk.0.attn_q.weight"] == kinds["token_embd.weight"] == "F16"
    for name in ("v.position_embd.weight", "v.class_embd", "v.blk.0.ls1.weight", "blk.0.attn_norm.weight"):
        assert kinds[name] == "F32"
    image = pictures("internvl3")[0]
    backend = made_of.backend(of, exact=True)
    answer = backend.answer(made_of.question(of, image), made_of.NEW_TOKENS, made_of.stop_ids(of))
    backend.close()
    assert answer.token_ids == made_of.reference(of, image).answer


def test_who_cuts_the_pictures() -> None:
    def projector(name: str) -> str:
        of = made_of.made(name, "fp32")
        return gguf.GGUFReader(of.exact / target.VISION).get_field("clip.projector_type").contents()

    assert projector("smolvlm_tiled") == "idefics3"
    assert projector("smolvlm_whole") == projector("smolvlm") == "d1omni_v"  # no token for two line breaks


@follows(
    "gguf.py: llama.cpp cuts {} into other tokens than the student's tokenizer, whose way to cut words is not written"
)
def test_a_wrong_way_to_cut_words_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    of = made_of.made("smolvlm_tiled", "fp32")  # its two line breaks are one token, or two, as words are cut
    monkeypatch.setattr(tokenizer, "_way", lambda state, student: "llama-bpe")
    with pytest.raises(UserError, match="llama.cpp cuts 'spaces,.* into other tokens"):
        target.write(Lowering(of.student, of.lowering.weights, [], tmp_path))
    # Another target has the tokenizer itself.
    assert (
        Prompt(of.exact).tokenizer.encode("spaces,\n\na").ids
        == of.student.processor.tokenizer("spaces,\n\na").input_ids
    )


def test_a_tokenizer_that_llama_cpp_has_no_name_for() -> None:
    state = {"model": {"type": "BPE"}, "pre_tokenizer": {"type": "Whitespace"}}
    student = made_of.made("smolvlm_whole", "fp32").student
    with pytest.raises(UserError, match="has no name for"):
        tokenizer._way(state, student)


def test_ends_that_are_none_to_the_student_have_other_names() -> None:
    of = made_of.made("internvl3", "fp32")
    texts = gguf.GGUFReader(of.exact / target.MODEL).get_field("tokenizer.ggml.tokens").contents()
    assert texts[0] == "<not an end: <|endoftext|>>" and texts[2] == "<|im_end|>"


@pytest.mark.parametrize(
    ("family", "why"),
    [("llava_onevision", "does not cut and join pictures as this family"), ("qwen2_5_vl", "windows of 112 pixels")],
)
def test_what_llama_cpp_cannot_do_is_said_in_a_sentence(family: str, why: str, tmp_path: Path) -> None:
    reason = target.unsupported(load(tiny.FAMILIES[family](tmp_path)))
    assert reason is not None and why in reason


def test_full_attention_in_every_layer_is_refused_as_llama_cpp_would_abort() -> None:
    student = load(made_of.student("qwen2_5_vl"))
    assert target.unsupported(student) is None
    student.model.config.vision_config.fullatt_block_indexes = [0, 1]
    assert "but not all" in str(target.unsupported(student))


@pytest.mark.parametrize("name", ["qwen2_5_vl", "qwen3_vl"])
def test_the_chat_interface_of_an_unmodified_server_answers_the_same(name: str) -> None:
    """Only the files: llama.cpp's own chat template handling, picture markers and preprocessing."""
    of = made_of.made(name, "fp32")
    image = tiny.picture(64, 48)  # whole patches, between the smallest and the largest picture
    params = xllamacpp.CommonParams()
    params.model.path, params.mmproj.path = str(of.exact / target.MODEL), str(of.exact / target.VISION)
    params.n_ctx, params.n_parallel, params.verbosity, params.warmup, params.port = 512, 1, -1, False, 0
    params.cpuparams.n_threads = 1
    server = xllamacpp.Server(params)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    url = f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    content = [
        {"type": "image_url", "image_url": {"url": url}},
        {"type": "text", "text": made_of.QUESTION},
    ]
    reply = server.handle_chat_completions(
        {
            "messages": [{"role": "user", "content": content}],
            "max_tokens": made_of.NEW_TOKENS,
            "temperature": 0.0,
            "logit_bias": [[of.student.model.config.image_token_id, False]],
            "verbose": True,
            "return_tokens": True,
        }
    )
    assert reply["__verbose"]["tokens"] == made_of.reference(of, image).answer, json.dumps(reply)[:500]
