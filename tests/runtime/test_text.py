"""Streaming never shows half a character, and its pieces are the answer."""

from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from masters_edge.runtime.text import TextStream


def bytes_tokenizer() -> Tokenizer:
    """One id per byte, and a special token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=257,
        special_tokens=["<end>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([], trainer)
    return tokenizer


TOKENIZER = bytes_tokenizer()


def stream(ids: list[int]) -> tuple[str, list[str]]:
    pieces: list[str] = []
    text = TextStream(TOKENIZER, pieces.append)
    for token in ids:
        text.feed(token)
    return text.finish(), pieces


@given(st.text(max_size=20))
def test_pieces_join_to_the_text(text: str) -> None:
    whole, pieces = stream([*TOKENIZER.encode(text).ids, TOKENIZER.token_to_id("<end>")])
    assert whole == text.replace("<end>", "").strip()
    assert "".join(pieces) == whole
    assert "\ufffd" not in "".join(pieces) or "\ufffd" in text


def test_an_answer_cut_inside_a_character() -> None:
    whole, pieces = stream(TOKENIZER.encode("ok 🟢").ids[:-1])
    assert whole.startswith("ok ")
    assert "".join(pieces) == whole
    assert pieces[:2] == ["o", "k"]


def test_without_a_listener_the_text_is_the_same() -> None:
    quiet = TextStream(TOKENIZER)
    for token in TOKENIZER.encode(" été ").ids:
        quiet.feed(token)
    assert quiet.finish() == "été"
