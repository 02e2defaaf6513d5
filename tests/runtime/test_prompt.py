"""Templates can't leave their sandbox, and what is wrong with a bundle's prompt files is named."""

from pathlib import Path

import pytest

from masters_edge.common.errors import UserError
from masters_edge.runtime.prompt import Prompt
from tests import tiny


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return tiny.smolvlm(tmp_path / "student")


def test_the_placeholder_in_a_question_is_refused(copy: Path) -> None:
    with pytest.raises(UserError, match="<image>"):
        Prompt(copy).ids("what is <image>?", "<image>", "")


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{{ raise_exception('only text') }}",
        "{{ messages[5].content }}",
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    ],
)
def test_a_template_that_misbehaves_is_one_sentence(copy: Path, template: str) -> None:
    (copy / "chat_template.jinja").write_text(template)
    with pytest.raises(UserError, match="refuses the question"):
        Prompt(copy).ids("what?", "<image>", "<image>")


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
