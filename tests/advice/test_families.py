"""What is advised about checkpoints and the questions put to them."""

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from masters_edge import families
from masters_edge.data.records import Question
from masters_edge.families import loading, processors
from masters_edge.families.base import family_of
from masters_edge.families.prompts import Prompter
from tests import shared, tiny
from tests.advice import follows, said


@pytest.fixture
def student(tmp_path: Path) -> Path:
    return Path(shutil.copytree(shared.once("smolvlm-False", tiny.smolvlm), tmp_path / "student"))


def asked(folder: Path, text: str = "what?", image: Image.Image | None = None) -> list[int]:
    """The ids of a prompt, as training builds it."""
    (image or tiny.picture()).save(folder / "picture.png")
    config = families.load_config(str(folder))
    prompter = Prompter(families.load_processor(str(folder)), family_of(config), config)
    question = Question("q", text, folder / "picture.png", "p")
    prompter.response_ids(question, text)
    return prompter(question)[0]


@follows(
    "the chat template of {} {}; {}",
    "the chat template of {} doesn't write {}, once and as it is; {}",
    "the checkpoint {} has no chat template; {}",
    "the checkpoint {} has several chat templates ({}), none of them called default; save the one",
)
def test_the_template_of_the_family(student: Path) -> None:
    template = student / "chat_template.jinja"
    for text, words in (("{{ messages + 'text' }}", "can't write a prompt"), ("{{ 'text' }}", "doesn't write <image>")):
        template.write_text(text)
        with said(words) as caught:
            asked(student)
        assert "put their chat_template.jinja into its folder" in str(caught.value)
    template.unlink()
    with said("has no chat template; give a checkpoint whose template"):
        asked(student)
    (student / "additional_chat_templates").mkdir()
    for name in ("vision", "tools"):
        (student / f"additional_chat_templates/{name}.jinja").write_text(processors.CHAT_TEMPLATES["smolvlm"])
    with said("save the one to use as chat_template.jinja in its folder"):
        asked(student)
    template.write_text(processors.CHAT_TEMPLATES["smolvlm"])
    assert asked(student)


@follows(
    "question {} has {} in its text, which stands for an image in this family's prompts; take it out",
    "question {} has {} in its {}, token {}, and {} has embeddings for {} tokens only; take it out",
)
def test_what_is_to_be_taken_out_of_a_question(student: Path) -> None:
    processor = families.load_processor(str(student))
    processor.tokenizer.add_tokens(["<one more>"], special_tokens=True)
    processor.save_pretrained(student)
    for token in ("<image>", "<one more>"):
        with said("take it out"):
            asked(student, f"what is {token} here?")
        assert asked(student, "what is here?")


@follows("question {}: the processor of {} refuses the image of {} x {} pixels: {}; crop it, or leave the question out")
def test_a_cropped_image_is_taken() -> None:
    folder = shared.once("qwen3_vl-False", tiny.qwen3_vl)
    narrow = tiny.picture(8, 1700)
    with said("crop it, or leave the question out"):
        asked(folder, image=narrow)
    assert asked(folder, image=narrow.crop((0, 0, 8, 1000)))


@follows(
    "question {}: the processor of {} writes {} image placeholders into the prompt, and its model makes {} features"
)
def test_the_processor_that_came_with_the_weights(student: Path) -> None:
    path = student / "processor_config.json"
    own = path.read_text()
    path.write_text(json.dumps({**json.loads(own), "image_seq_len": 5}))
    with said("take the processor files that came with its weights"):
        asked(student)
    path.write_text(own)
    assert asked(student)


@follows(
    "{} is a {} model, and no family of that type is built in; use one of: {}",
    "the checkpoint {} ({}) can't be loaded: {} (give a folder saved by transformers, or a hub id",
    "the checkpoint {} has no image processor or no tokenizer, so it is no vision-language model; give a checkpoint",
    "the tokenizers of student {} and teacher {} differ in: {}; the method compares next-token distributions",
)
def test_a_checkpoint_of_a_family_that_is_built_in(student: Path, tmp_path: Path) -> None:
    from transformers import LlamaConfig

    with said("use one of: ") as caught:
        family_of(LlamaConfig())
    assert "smolvlm" in str(caught.value) and family_of(families.load_config(str(student)))
    with said("give a folder saved by transformers"):
        families.load_config(str(tmp_path / "nothing"))
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (bare / name).write_text((student / name).read_text().replace("SmolVLMProcessor", ""))
    (bare / "config.json").write_text(json.dumps({"model_type": "llama"}))
    with said("give a checkpoint with preprocessor_config.json and tokenizer.json"):
        families.load_processor(str(bare))
    processor = families.load_processor(str(student))
    other = families.load_processor(str(student))
    other.tokenizer.add_tokens(["<other>"])
    with said("take both from one family"):
        loading.require_same_tokenizer("a", processor, "b", other)
    loading.require_same_tokenizer("a", processor, "b", families.load_processor(str(student)))


@follows("checks.py: {} is an adapter of another model, and whole models are loaded; merge it into its model")
def test_an_adapter_merged_into_its_model(student: Path, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    adapted = peft.get_peft_model(families.load_model(str(student)), peft.LoraConfig(target_modules=["q_proj"]))
    adapted.save_pretrained(tmp_path / "adapter")
    with said("merge it into its model"):
        families.load_model(str(tmp_path / "adapter"))
    adapted.merge_and_unload().save_pretrained(tmp_path / "merged")
    assert families.load_model(str(tmp_path / "merged")).config.model_type == "smolvlm"
