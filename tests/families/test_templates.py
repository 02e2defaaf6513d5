"""Chat templates as checkpoints bring them: used as transformers uses them, or refused in a sentence beforehand."""

import json
import shutil
from pathlib import Path

import pytest

from masters_edge.common.errors import UserError
from masters_edge.data.records import Question
from masters_edge.export import student as exporting
from masters_edge.families import load_processor, processors, templates
from masters_edge.families.loading import tokenizer_signature
from masters_edge.families.prompts import Prompter
from tests import shared, tiny

LATER = "{% for m in messages %}{% if m['role'] == 'assistant' %}"
TEXT = "{% for m in messages %}{% for p in m['content'] %}{% if p['type'] == 'text' %}{{ p['text'] }}{% endif %}"
BOTH = TEXT.replace("{% endif %}", "{% else %}<image>{% endif %}{% endfor %}{% endfor %}")
# What is wrong with a template -> its text, and what is said of it.
WRONG = {
    "text alone": ("{% for m in messages %}{{ m['role'] + m['content'] }}{% endfor %}", "can't write a prompt"),
    "text alone, as it is": ("{% for m in messages %}{{ m['content'] }}<image>{% endfor %}", "write the question"),
    "no image": (TEXT + "{% endfor %}{% endfor %}", "write <image> where the image stands"),
    "two images": (BOTH.replace("<image>", "<image><image>"), "write <image> where the image stands"),
    "no question": ("{{ '<image>' }}", "write the question"),
    "answers as text": (
        LATER + "{{ m['content'] }}{% else %}<image>{{ m['content'][1]['text'] }}{% endif %}{% endfor %}",
        "write the answer",
    ),
    "no answer": ("<image>{{ messages[0]['content'][1]['text'] }}", "write the answer"),
    "a broken one": ("{% if %}", "can't write a prompt"),
    "one that refuses": ("{{ raise_exception('not today') }}", "not today"),
    "an endless index": ("{{ messages[7]['content'] }}", "can't write a prompt"),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(shared.once("smolvlm-False", tiny.smolvlm), tmp_path / "student"))


def prompt(folder: Path) -> list[int]:
    """The ids of one question as training asks it."""
    tiny.picture().save(folder / "picture.png")
    ids, _ = Prompter(load_processor(str(folder)), *family(folder))(Question("q", "what?", folder / "picture.png", "p"))
    return ids


def family(folder: Path):
    from masters_edge.families.base import family_of
    from masters_edge.families.loading import load_config

    config = load_config(str(folder))
    return family_of(config), config


@pytest.mark.parametrize("what", WRONG)
def test_a_template_that_cannot_write_a_prompt_is_refused_beforehand(folder: Path, what: str) -> None:
    template, said = WRONG[what]
    (folder / "chat_template.jinja").write_text(template)
    with pytest.raises(UserError, match=said):
        load_processor(str(folder))
    (folder / "model.safetensors").unlink()  # the export says so before it reads weights
    with pytest.raises(UserError, match=said):
        exporting.load(folder)


@pytest.mark.parametrize("what", ["text alone", "no image"])
def test_the_template_of_the_family_is_the_remedy(folder: Path, what: str) -> None:
    (folder / "chat_template.jinja").write_text(WRONG[what][0])
    with pytest.raises(UserError, match="put their chat_template.jinja into its folder"):
        load_processor(str(folder))
    (folder / "chat_template.jinja").write_text(processors.CHAT_TEMPLATES["smolvlm"])
    assert prompt(folder)


def test_every_place_that_a_template_may_stand_in_gives_the_same_prompt(folder: Path) -> None:
    expected, template = prompt(folder), (folder / "chat_template.jinja").read_text()
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    other = {"name": "tool_use", "template": "{{ 'tools' }}"}
    signature = tokenizer_signature(load_processor(str(folder)))

    def write(value: object) -> None:
        (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "chat_template": value}))

    # Beside others in files of their own, of which transformers takes the default.
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates/tool_use.jinja").write_text(other["template"])
    assert prompt(folder) == expected
    assert exporting.load(folder).processor.chat_template == template
    shutil.rmtree(folder / "additional_chat_templates")
    # As older versions of transformers wrote it.
    (folder / "chat_template.jinja").unlink()
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": template}))
    assert prompt(folder) == expected
    (folder / "chat_template.json").unlink()
    for value in (template, [{"name": "default", "template": template}, other]):
        write(value)
        assert prompt(folder) == expected
        assert tokenizer_signature(load_processor(str(folder))) == signature
        assert exporting.load(folder).processor.chat_template == template


def test_none_and_several_without_a_default_are_said_with_what_helps(folder: Path) -> None:
    expected, template = prompt(folder), (folder / "chat_template.jinja").read_text()
    (folder / "chat_template.jinja").unlink()
    with pytest.raises(UserError, match="has no chat template"):
        load_processor(str(folder))
    (folder / "additional_chat_templates").mkdir()
    for name in ("vision", "tools"):
        (folder / f"additional_chat_templates/{name}.jinja").write_text(template)
    with pytest.raises(UserError, match=r"\(tools, vision\), none of them called default; save the one"):
        load_processor(str(folder))
    (folder / "chat_template.jinja").write_text(template)
    assert prompt(folder) == expected


@pytest.mark.parametrize("model_type", processors.CHAT_TEMPLATES)
def test_what_is_written_here_as_published_passes(model_type: str) -> None:
    class Processor:
        """Renders as transformers' processors do, without one of them."""

        chat_template = processors.CHAT_TEMPLATES[model_type]
        tokenizer = None
        image_token = {"internvl": "<IMG_CONTEXT>"}.get(
            model_type, processors.NAMED_TOKENS[model_type].get("image_token")
        )

        def apply_chat_template(self, chat: list, add_generation_prompt: bool = False) -> str:
            from transformers.utils.chat_template_utils import render_jinja_template

            texts, _ = render_jinja_template(
                conversations=[chat], chat_template=self.chat_template, add_generation_prompt=add_generation_prompt
            )
            return texts[0]

    templates.settle(Processor(), "here")
