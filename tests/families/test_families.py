"""Every family against transformers' own processor and model: prompts, pixels, the grouped forward, generation."""

import copy
import functools
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from masters_edge.common.errors import UserError
from masters_edge.data.records import Question
from masters_edge.engines import Request, sampled
from masters_edge.engines.transformers import Engine
from masters_edge.families import load_config, load_model, load_processor, loading, video_slot
from masters_edge.families.base import Family, family_of
from masters_edge.families.prompts import Prompter, check_image_tokens
from masters_edge.objective import probe, sequences
from masters_edge.recipe.schema import Responses
from tests import tiny, wide

SIZES = [(64, 20), (100, 100), (16, 16), (33, 170)]  # width, height


@dataclass
class Built:
    """A tiny checkpoint of one family, loaded."""

    folder: Path
    model: Any
    processor: Any
    family: Family

    @property
    def prompter(self) -> Prompter:
        return Prompter(self.processor, self.family, self.model.config)

    def plain(self, question: Question, response: list[int] | None = None) -> dict[str, torch.Tensor]:
        """What transformers' processor makes of the question, and the response behind it."""
        image = tiny.Image.open(question.image)
        inputs = dict(self.processor(text=self.prompter.text(question), images=[image], return_tensors="pt"))
        for name in ("input_ids", "attention_mask", "mm_token_type_ids"):
            if name in inputs and response:
                new = {"input_ids": response, "attention_mask": [1] * len(response)}.get(name, [0] * len(response))
                inputs[name] = torch.cat([inputs[name], torch.tensor([new])], dim=1)
        return inputs


@pytest.fixture(scope="module", params=tiny.FAMILIES)
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Built:
    folder = tiny.FAMILIES[request.param](tmp_path_factory.mktemp("families") / request.param, seed=3)
    model = load_model(str(folder))
    return Built(folder, model, load_processor(str(folder)), family_of(model.config))


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> list[Question]:
    """One question about a picture of each size; they become different numbers of image tokens."""
    folder = tmp_path_factory.mktemp("pictures")
    found = []
    for number, (width, height) in enumerate(SIZES):
        path = folder / f"{number}.png"
        tiny.picture(width, height, seed=number).save(path)
        text = ["what is in this image?", "is there a triangle?"][number % 2]
        found.append(Question(id=f"q{number}", text=text, image=path, image_id=str(number)))
    return found


def test_prompts_and_pixels_are_the_processors(built: Built, questions: list[Question]) -> None:
    prompter, lengths = built.prompter, set()
    for question in questions:
        ids, image = prompter(question)
        expected = built.plain(question)
        assert ids == expected["input_ids"][0].tolist()
        text = built.family.text_inputs(built.model.config, torch.tensor([ids]))
        names = set(expected) - {"input_ids", "attention_mask"}
        assert names == set(image) | set(text)
        for name, value in {**image, **text}.items():
            torch.testing.assert_close(value, expected[name], atol=0, rtol=0, check_dtype=name != "mm_token_type_ids")
        lengths.add(len(ids))
    assert len(lengths) > 1


def test_the_processor_is_called_once_for_an_image_and_a_text(built: Built, questions: list[Question]) -> None:
    calls: list[str] = []

    class Counting(type(built.processor)):  # type: ignore[misc]
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            calls.append(kwargs["text"])
            return super().__call__(*args, **kwargs)

    processor = copy.copy(built.processor)
    processor.__class__ = Counting
    prompter = Prompter(processor, built.family, built.model.config)
    other = Question("q9", "another question?", questions[0].image, questions[0].image_id)
    first, image = prompter(questions[0])
    assert prompter(questions[0]) == (first, image) and len(calls) == 1
    ids, same = prompter(other)
    assert len(calls) == 2 and same is image and ids == built.prompter(other)[0] != first


def test_image_tokens_are_the_features_the_model_makes(built: Built, questions: list[Question]) -> None:
    config, counts = built.model.config, []
    for question in questions:
        ids, image = built.prompter(question)
        with torch.no_grad():
            features = built.model.get_image_features(**image, return_dict=True).pooler_output
        features = features.flatten(0, 1) if isinstance(features, torch.Tensor) else torch.cat(list(features))
        counts.append(built.family.image_tokens(config, image))
        assert counts[-1] == len(features) == ids.count(config.image_token_id)
    assert len(set(counts)) > 1


RESPONSES, OWNER = [[40, 41], [42], [43, 44, 45, 46], [47, 48, 49], [50, 51]], [0, 1, 1, 3, 1]


@pytest.mark.parametrize("attention", wide.cells(["sdpa", "eager"], ["sdpa"]))
@pytest.mark.parametrize("dtype", wide.cells([torch.float64, torch.float32], [torch.float64]))
def test_grouped_forward_is_the_plain_one(
    built: Built, questions: list[Question], dtype: torch.dtype, attention: str
) -> None:
    """Logits, and gradients of a loss by every parameter: rows of several responses against each response alone."""
    model = copy.deepcopy(built.model).to(dtype)
    model.set_attn_implementation(attention)
    prompts, images = zip(*(built.prompter(question) for question in questions))
    batch = sequences.pack(prompts, images, RESPONSES, OWNER, built.processor.tokenizer.pad_token_id)
    grouped = model.get_output_embeddings()(sequences.response_hidden(model, built.family, batch))
    alone = []
    for response, owner in zip(RESPONSES, OWNER):
        logits = model(**built.plain(questions[owner], response)).logits
        alone.append(logits[0, -len(response) - 1 : -1])
    plain = torch.cat(alone)
    largest = plain.abs().max().item()
    tight = 3e-6 if dtype == torch.float64 else 1e-5  # norms and softmax compute in float32 whatever the model's dtype
    torch.testing.assert_close(grouped, plain, atol=tight * largest, rtol=0)

    weights = torch.randn(plain.shape, generator=torch.Generator().manual_seed(0), dtype=dtype)
    found, expected = _gradients(model, (grouped * weights).sum()), _gradients(model, (plain * weights).sum())
    assert found.keys() == expected.keys()
    assert any("vis" in name for name in found)
    # LLaVA-OneVision takes its features before the vision encoder's last norm: PhaseTrainer freezes that one under DDP.
    assert (len(found) == len(list(model.parameters()))) == (model.config.model_type != "llava_onevision")
    steepest = max(gradient.abs().max().item() for gradient in expected.values())
    for name, gradient in found.items():
        # Biases of keys have no gradient but rounding (softmax doesn't see them), hence the second part.
        room = tight * (10 * expected[name].abs().max().item() + steepest / 100)
        assert (gradient - expected[name]).abs().max().item() <= room, name


def _gradients(model: Any, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}


def test_answers_of_a_batch_are_those_alone(built: Built, questions: list[Question]) -> None:
    """Greedy as transformers generates it from the processor's own inputs; samples whatever the batch."""
    engines = [Engine(built.model, built.prompter, 6, batch) for batch in (1, 7, 64)]
    requests = [sampled(q, 3, 0) for q in questions] + [Request(q) for q in questions]
    one, *others = (engine.answer(requests, Responses(max_new_tokens=6)) for engine in engines)
    assert all(other == one for other in others)
    assert [len(responses) for responses in one] == [3] * len(questions) + [1] * len(questions)
    assert len({tuple(ids) for responses in one[: len(questions)] for ids in responses}) > len(questions)
    assert len({tuple(responses[0]) for responses in one[len(questions) :]}) > 1  # the picture matters
    for question, responses in zip(questions, one[len(questions) :]):
        inputs = built.plain(question)
        out = built.model.generate(**inputs, max_new_tokens=6, do_sample=False, suppress_tokens=engines[0].placeholders)
        assert responses[0] == engines[0]._cut(out[0, inputs["input_ids"].shape[1] :].tolist())


def test_the_image_is_encoded_once_per_question(built: Built, questions: list[Question], seen: list[int]) -> None:
    engine = Engine(built.model, built.prompter, 4, 64)
    engine.answer([sampled(q, 4, 0) for q in questions], Responses(max_new_tokens=4))
    prompts, images = zip(*(built.prompter(question) for question in questions))
    batch = sequences.pack(prompts, images, RESPONSES, OWNER, built.processor.tokenizer.pad_token_id)
    with torch.no_grad():
        sequences.response_hidden(built.model, built.family, batch)
    tokens = sum(built.family.image_tokens(built.model.config, image) for image in images)
    assert seen == [tokens, tokens]


@pytest.fixture
def seen(built: Built, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """How many features each call of the model's `get_image_features` made."""
    inner, found = built.model.base_model, []
    compute = inner.get_image_features

    @functools.wraps(compute)  # generate looks at its signature
    def counted(*args: Any, **kwargs: Any) -> Any:
        output = compute(*args, **kwargs)
        features = output.pooler_output
        found.append(features.shape[:-1].numel() if isinstance(features, torch.Tensor) else sum(map(len, features)))
        return output

    monkeypatch.setattr(inner, "get_image_features", counted)
    yield found


def test_no_response_holds_a_placeholder(built: Built, questions: list[Question]) -> None:
    model = copy.deepcopy(built.model)
    engine = Engine(model, built.prompter, 3, 4)
    assert model.config.image_token_id in engine.placeholders
    head = model.get_output_embeddings()
    with torch.no_grad():  # a head that would always write the placeholders
        bias = torch.zeros(head.weight.shape[0])
        bias[engine.placeholders] = 1e4
        head.bias = torch.nn.Parameter(bias)
    (answer,) = engine.answer([sampled(questions[0], 2, 0)], Responses(max_new_tokens=3))
    assert not {token for response in answer for token in response} & set(engine.placeholders)


def test_after_generation_the_model_can_be_copied_and_trained(built: Built, questions: list[Question]) -> None:
    Engine(built.model, built.prompter, 2, 4).greedy(questions[:2])
    model = copy.deepcopy(built.model)
    prompts, images = zip(*(built.prompter(question) for question in questions[:2]))
    batch = sequences.pack(prompts, images, [[40], [41]], [0, 1], built.processor.tokenizer.pad_token_id)
    sequences.response_hidden(model, built.family, batch).sum().backward()


def misfit(folder: Path, target: Path) -> Path:
    """A copy of the checkpoint whose processor writes too many placeholders, or too few."""
    shutil.copytree(folder, target)
    path = target / "processor_config.json"
    settings = json.loads(path.read_text())
    for name in ("image_seq_len", "image_seq_length", "num_image_tokens"):
        if name in settings:
            settings[name] *= 4
    if "merge_size" in settings["image_processor"]:
        settings["image_processor"]["merge_size"] = 1
    path.write_text(json.dumps(settings))
    return target


def test_a_processor_that_does_not_fit_is_one_sentence(built: Built, questions: list[Question], tmp_path: Path) -> None:
    source = str(misfit(built.folder, tmp_path / "misfit"))
    model_type = built.model.config.model_type
    prompter = Prompter(load_processor(source), built.family, load_config(source))
    sentence = rf"question q\d: .*misfit \({model_type}\) writes \d+ image placeholders .* makes \d+ features"
    with pytest.raises(UserError, match=sentence):
        prompter(questions[0])
    with pytest.raises(UserError, match=sentence):
        check_image_tokens([built.prompter, prompter], questions)


def test_pictures_take_pillows_way_with_torchvision_too(
    built: Built, questions: list[Question], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What `AutoProcessor` gives where torchvision is installed is put in by hand: it isn't, here."""
    real = loading.load_pretrained

    def as_with_torchvision(auto_class: Any, source: str, **options: Any) -> Any:
        found = real(auto_class, source, **options)
        if hasattr(found, "image_processor"):
            name = type(found.image_processor).__name__.removesuffix("Pil")
            found.image_processor = type(name, (), {})()  # no picture comes out of it
        return found

    monkeypatch.setattr(loading, "load_pretrained", as_with_torchvision)
    prompter = Prompter(loading.load_processor(str(built.folder)), built.family, built.model.config)
    for question in questions[:2]:
        (ids, seen), (expected_ids, expected) = prompter(question), built.prompter(question)
        assert ids == expected_ids and seen.keys() == expected.keys()
        assert all(torch.equal(seen[name], expected[name]) for name in seen)


@pytest.mark.parametrize("torchvision", [False, True])
def test_processors_made_here_may_have_the_slot_with_torchvision_too(
    torchvision: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers.models.auto.video_processing_auto import AutoVideoProcessor
    from transformers.processing_utils import ProcessorMixin

    monkeypatch.setattr(ProcessorMixin, "check_argument_for_proper_class", lambda self, name, argument: "checked")
    monkeypatch.setattr(AutoVideoProcessor, "from_pretrained", "transformers' own")
    monkeypatch.setattr(video_slot, "is_torchvision_available", lambda: torchvision)
    video_slot.fill()
    check = ProcessorMixin.check_argument_for_proper_class
    assert check(None, "video_processor", video_slot.VideoSlot()) is video_slot.VideoSlot
    assert check(None, "tokenizer", "t") == "checked"
    assert (AutoVideoProcessor.from_pretrained == "transformers' own") == torchvision


def test_every_size_is_checked_once_and_heard(built: Built, questions: list[Question]) -> None:
    heard: list[tuple[int, int]] = []
    prompter = built.prompter
    check_image_tokens([prompter, built.prompter], questions * 2, lambda *progress: heard.append(progress))
    count = len(SIZES)
    assert heard == [(n, count) for n in range(1, count + 1)] + [
        (n, 3 * count) for n in range(count + 1, 3 * count + 1)
    ]


def test_a_placeholder_in_the_question_is_refused(built: Built, questions: list[Question]) -> None:
    token = built.processor.tokenizer.convert_ids_to_tokens(built.model.config.image_token_id)
    asked = Question("q9", f"{token} what?", questions[0].image, "0")
    with pytest.raises(UserError, match="question q9 has .* in its text"):
        built.prompter(asked)


def test_an_image_that_the_processor_refuses_is_one_sentence(tmp_path: Path) -> None:
    source = str(tiny.qwen2_5_vl(tmp_path / "model"))
    tiny.picture(500, 2).save(tmp_path / "line.png")
    prompter = Prompter(load_processor(source), family_of(load_config(source)), load_config(source))
    with pytest.raises(UserError, match=r"question q0: .* refuses the image of 500 x 2 pixels: absolute aspect ratio"):
        check_image_tokens([prompter], [Question("q0", "what?", tmp_path / "line.png", "0")])


def test_sixty_four_sizes_of_many_with_both_ends(tmp_path: Path) -> None:
    source = str(tiny.smolvlm(tmp_path / "model"))
    prompter = Prompter(load_processor(source), family_of(load_config(source)), load_config(source))
    asked = []
    for number in range(90):
        path = tmp_path / f"{number}.png"
        tiny.picture(20 + number, 20).save(path)
        asked.append(Question(str(number), "what?", path, str(number)))
    check_image_tokens([prompter], asked)
    checked = set(prompter._images)
    assert len(checked) == 64 and {"0", "89"} <= checked


def test_a_family_that_is_not_built_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "paligemma"}))
    known = "idefics3, internvl, llava_onevision, qwen2_5_vl, qwen3_vl, smolvlm"
    with pytest.raises(UserError, match=rf"'paligemma' model, and no family .* use one of: {known}"):
        family_of(load_config(str(tmp_path)), "my-teacher")


def test_every_family_passes_the_probe_of_its_decoder(built: Built) -> None:
    probe.check(built.model.config, 40, built.family.model_types[0])


# How the real checkpoints on the hub name their image processors, in files that older versions of transformers wrote.
HUB_NAMES = {
    "qwen2_5_vl": "Qwen2VLImageProcessor",
    "qwen3_vl": "Qwen2VLImageProcessorFast",
    "internvl3": "GotOcr2ImageProcessorFast",
    "llava_onevision": "LlavaOnevisionImageProcessor",
}


@pytest.mark.parametrize("name", HUB_NAMES)
def test_processor_files_as_on_the_hub_load(name: str, questions: list[Question], tmp_path: Path) -> None:
    """`preprocessor_config.json` and `video_preprocessor_config.json` beside a short `processor_config.json`."""
    source = tiny.FAMILIES[name](tmp_path / "model")
    expected = Prompter(load_processor(str(source)), family_of(load_config(str(source))), load_config(str(source)))
    settings = json.loads((source / "processor_config.json").read_text())
    images = settings.pop("image_processor") | {
        "image_processor_type": HUB_NAMES[name],
        "processor_class": settings["processor_class"],
    }
    settings.pop("video_processor", None)
    (source / "preprocessor_config.json").write_text(json.dumps(images))
    (source / "video_preprocessor_config.json").write_text(json.dumps({"video_processor_type": "AnyVideoProcessor"}))
    (source / "processor_config.json").write_text(json.dumps(settings))
    if name.startswith("qwen"):  # these have none
        (source / "processor_config.json").unlink()
    again = Prompter(load_processor(str(source)), expected.family, expected.config)
    for question in questions:
        ids, image = again(question)
        assert ids == expected(question)[0]
        torch.testing.assert_close(image, expected(question)[1])


def test_a_checkpoint_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for source in (str(tmp_path / "empty"), "no-such-org/no-such-model"):
        with pytest.raises(UserError, match="can't be loaded"):
            load_model(source)


def test_without_torchvision_images_work_videos_are_refused_and_their_settings_survive(tmp_path: Path) -> None:
    from masters_edge.families.video_slot import VideoSlot

    source = tiny.smolvlm(tmp_path / "model")
    settings = json.loads((source / "processor_config.json").read_text())
    settings["video_processor"] = {"video_processor_type": "SmolVLMVideoProcessor", "num_frames": 7}
    (source / "processor_config.json").write_text(json.dumps(settings))
    processor = load_processor(str(source))
    if not isinstance(processor.video_processor, VideoSlot):
        pytest.skip("torchvision is installed: transformers' own video processor is in place")
    assert processor.video_processor.num_frames == 7
    with pytest.raises(ImportError, match="pip install torchvision"):
        processor.video_processor(["a.mp4"])
    processor.save_pretrained(tmp_path / "again")
    kept = json.loads((tmp_path / "again/processor_config.json").read_text())
    assert kept["video_processor"] == settings["video_processor"]
