"""Prompts equal those of transformers' processors, id by id; templates can't leave their sandbox."""

import shutil
from pathlib import Path

import pytest

from masters_edge.errors import UserError
from masters_edge.runtime import images
from masters_edge.runtime.prompt import Prompt, read_json
from tests import tiny

QUESTIONS = [
    "what is in this image?",
    "",
    "  is there\na  triangle? ",
    "où est l'été? 緑の円 🟢",
    "<end_of_utterance> no",
]


@pytest.fixture(scope="module", params=["smolvlm", "smolvlm-split", "idefics3", "idefics3-split"])
def student(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    family, _, split = request.param.partition("-")
    return getattr(tiny, family)(tmp_path_factory.mktemp(request.param), splitting=bool(split))


@pytest.mark.parametrize("size", [(32, 32), (70, 51), (20, 90)])
def test_ids_equal_transformers(student: Path, size: tuple[int, int]) -> None:
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(student)
    prompt = Prompt(student)
    image = tiny.picture(*size)
    frames = images.preprocess(image, read_json(student / "processor_config.json")["image_processor"])
    for question in QUESTIONS:
        content = [{"type": "image"}, {"type": "text", "text": question}]
        text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        expected = processor(text=text, images=[image])["input_ids"][0]
        assert prompt.text(question) == text
        assert prompt.ids(question, frames.rows, frames.columns) == list(expected)


def test_the_placeholder_in_a_question_is_refused(student: Path) -> None:
    with pytest.raises(UserError, match="<image>"):
        Prompt(student).ids("what is <image>?", 0, 0)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny.smolvlm(tmp_path / "student"), tmp_path / "copy"))


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{{ raise_exception('only text') }}",
        "{{ messages[5].content }}",
    ],
)
def test_a_template_that_misbehaves_is_one_sentence(copy: Path, template: str) -> None:
    (copy / "chat_template.jinja").write_text(template)
    with pytest.raises(UserError, match="refuses the question"):
        Prompt(copy).ids("what?", 0, 0)


def test_what_templates_may_use(copy: Path) -> None:
    template = (
        "{% for m in messages %}{% if loop.first %}{% generation %}{{ m.content[1].text | tojson }}"
        "{% endgeneration %}{% break %}{% endif %}{% endfor %}{{ bos_token }}{{ strftime_now('%Y')[:2] }}"
    )
    (copy / "chat_template.jinja").write_text(template)
    assert Prompt(copy).text("a<b é") == '"a<b é"<|im_start|>20'


def test_broken_files_are_named(copy: Path) -> None:
    (copy / "chat_template.jinja").write_text("{% if %}")
    with pytest.raises(UserError, match="chat_template.jinja"):
        Prompt(copy)
    (copy / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match="tokenizer.json"):
        Prompt(copy)
    (copy / "tokenizer_config.json").unlink()
    with pytest.raises(UserError, match="tokenizer_config.json"):
        Prompt(copy)
