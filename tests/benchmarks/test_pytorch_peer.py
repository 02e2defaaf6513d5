"""The PyTorch peer on a tiny random SmolVLM, against transformers called by hand."""

from pathlib import Path

import pytest
from PIL import Image

pytest.importorskip("torch")
pytest.importorskip("transformers")

from masters_edge.benchmarks import Settings, Subject, bench
from masters_edge.benchmarks.peers import pytorch
from masters_edge.benchmarks.suites import Suite

QUESTIONS = ["what is in this image?", "is there a triangle?", "what color is the shape in this image? yes"]


@pytest.fixture(scope="module")
def checkpoint(models: Path) -> Path:
    return models / "student"


@pytest.fixture(scope="module")
def peer(checkpoint: Path) -> pytorch.PyTorchAnswerer:
    return pytorch.open_subject(str(checkpoint), threads=1)


def pictures() -> list[Image.Image]:
    return [Image.new("RGB", (32, 32), colour) for colour in ("red", "blue", "green")]


def test_answers_equal_generates_own(peer: pytorch.PyTorchAnswerer, checkpoint: Path) -> None:
    import torch

    from masters_edge import families

    model, processor = families.load_model(str(checkpoint)), families.load_processor(str(checkpoint))
    for image, question in zip(pictures(), QUESTIONS):
        content = [{"type": "image"}, {"type": "text", "text": question}]
        prompt = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        inputs = processor(text=prompt, images=[image], return_tensors="pt")
        with torch.no_grad():
            ids = model.generate(
                **inputs,
                do_sample=False,
                max_new_tokens=model.generation_config.max_new_tokens,
                suppress_tokens=[model.config.image_token_id],
            )
        text = processor.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).strip()
        assert text and peer.answer(image, question).text == text


def test_the_checkpoints_own_settings_change_no_answer(peer: pytorch.PyTorchAnswerer) -> None:
    own = peer.model.generation_config
    plain, before = peer.answer(pictures()[0], QUESTIONS[0]).text, own.to_dict()
    own.update(repetition_penalty=1.5, do_sample=True, temperature=1e-6, min_new_tokens=12)
    try:
        assert peer.answer(pictures()[0], QUESTIONS[0]).text == plain
    finally:
        own.update(
            **{name: before[name] for name in ("repetition_penalty", "do_sample", "temperature", "min_new_tokens")}
        )


def test_batched_answers_equal_single_ones(peer: pytorch.PyTorchAnswerer) -> None:
    """Prompts of three lengths, padded on the left; breaks where they are padded on the right."""
    single = [peer.answer(image, question).text for image, question in zip(pictures(), QUESTIONS)]
    assert peer.answer_many(pictures(), QUESTIONS) == single and len(set(single)) > 1


def test_stages_add_up(peer: pytorch.PyTorchAnswerer) -> None:
    answer = peer.answer(pictures()[0], QUESTIONS[0])
    assert answer.vision_ms and answer.prefill_ms and answer.ttft_ms
    assert answer.preprocess_ms + answer.vision_ms + answer.prefill_ms == pytest.approx(answer.ttft_ms)
    assert answer.ttft_ms <= answer.total_ms and answer.prefill_ms > 0
    assert answer.decode_tokens_per_s


def test_facts(peer: pytorch.PyTorchAnswerer, checkpoint: Path) -> None:
    facts = peer.facts
    assert (facts.runtime, facts.scheme) == ("pytorch", "float32")
    assert facts.size_bytes >= (checkpoint / "model.safetensors").stat().st_size >= 3.9 * (facts.parameters or 0)
    assert "torch" in facts.versions


def test_size_counts_neither_optimizer_nor_a_second_copy_of_the_weights(tmp_path: Path) -> None:
    for name, size in {
        "model.safetensors": 100,
        "config.json": 10,
        "pytorch_model.bin": 100,
        "optimizer.bin": 7,
    }.items():
        (tmp_path / name).write_bytes(b"x" * size)
    assert pytorch._size(str(tmp_path)) == 110


@pytest.mark.wide
def test_measured_in_a_process_of_its_own(checkpoint: Path, suite: Suite, tmp_path: Path) -> None:
    subject = Subject("student before", "student before", checkpoint, "checkpoint")
    settings = Settings(latency_questions=5, threads=1)
    found = bench([subject], suite, settings, out=tmp_path / "results.json").measurements[0]
    assert found.batched and found.accuracy.asked == 20 and found.latency.cold_start_ms
    assert found.latency.total_ms and found.latency.total_ms.n == 5
