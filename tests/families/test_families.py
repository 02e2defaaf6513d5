"""Loading, prompts and image batching of the families that train, against transformers' own processor and model."""

import json
from pathlib import Path

import pytest
import torch

from masters_edge.data.records import Question
from masters_edge.errors import UserError
from masters_edge.families import load_config, load_model, load_processor
from masters_edge.families.base import family_of
from masters_edge.families.prompts import Prompter, left_padded
from masters_edge.objective import sequences
from tests import tiny


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Question]:
    """Two pictures of different sizes; with splitting they become different numbers of frames."""
    folder = tmp_path_factory.mktemp("pictures")
    found = []
    for number, (width, height) in enumerate([(64, 20), (40, 64)]):
        path = folder / f"{number}.png"
        tiny.picture(width, height, seed=number).save(path)
        found.append(Question(id=str(number), text="what is in this image?", image=path, image_id=str(number)))
    return found


@pytest.mark.parametrize("splitting", [False, True])
@pytest.mark.parametrize("build", [tiny.smolvlm, tiny.idefics3])
def test_prompts_and_pixels_are_the_processors(build, splitting: bool, pictures, tmp_path: Path) -> None:
    source = str(build(tmp_path / "model", splitting=splitting))
    model, processor = load_model(source), load_processor(source)
    family = family_of(model.config)
    prompter = Prompter(processor, family)
    prompts, images = zip(*(prompter(question) for question in pictures))
    for question, ids, image in zip(pictures, prompts, images):
        expected = processor(
            text=prompter.text(question), images=[tiny.Image.open(question.image)], return_tensors="pt"
        )
        assert ids == expected["input_ids"][0].tolist()
        torch.testing.assert_close(image["pixel_values"], expected["pixel_values"])
    assert (len(prompts[0]) != len(prompts[1])) == splitting

    # A batch of both says what each says alone, in one shared forward pass and in generation.
    responses, owner = [[30, 31], [32], [33, 34, 35]], [0, 1, 1]
    batch = sequences.pack(prompts, images, responses, owner, processor.tokenizer.pad_token_id)
    with torch.no_grad():
        together = sequences.response_logits(model, family, batch)
        for row, question in enumerate(owner):
            ids = torch.tensor([prompts[question] + responses[row]])
            alone = model(input_ids=ids, **images[question]).logits[0, len(prompts[question]) - 1 : -1]
            torch.testing.assert_close(together[row, : len(responses[row])], alone, atol=3e-5, rtol=1e-4)
    inputs = left_padded(prompts, processor.tokenizer.pad_token_id) | family.collate_images(list(images))
    both = model.generate(**inputs, max_new_tokens=5, do_sample=False)[:, inputs["input_ids"].shape[1] :]
    for row, (ids, image) in enumerate(zip(prompts, images)):
        one = model.generate(input_ids=torch.tensor([ids]), **image, max_new_tokens=5, do_sample=False)
        new = one[0, len(ids) :]
        assert both[row][: len(new)].tolist() == new.tolist()


def test_a_family_that_is_not_built_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen2_5_vl"}))
    with pytest.raises(UserError, match=r"'qwen2_5_vl' model, and no family .* use one of: idefics3, smolvlm"):
        family_of(load_config(str(tmp_path)), "my-teacher")


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
