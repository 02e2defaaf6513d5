"""From a question to token ids: the chat template, the image's placeholders, the tokenizer.

Equals transformers' processors. Templates come with checkpoints from anywhere, so they run in
jinja2's immutable sandbox. In: the bundle's `chat_template.jinja`, `tokenizer.json` and settings. Out: ids.
"""

import datetime
import json
from pathlib import Path
from typing import Any, NoReturn

import jinja2
import jinja2.ext
import jinja2.sandbox
from tokenizers import Tokenizer

from masters_edge.common.errors import UserError
from masters_edge.runtime.families import read_json, special_tokens


class Prompt:
    """Turns a question about one image into the ids of the whole prompt.

    `tokenizer` is shared with whoever decodes the answer. Raises UserError where a file is missing or broken.
    """

    def __init__(self, folder: Path) -> None:
        config = read_json(folder / "tokenizer_config.json")
        self.tokenizer = read_tokenizer(folder / "tokenizer.json")
        self.special_tokens = special_tokens(config)
        try:
            source = (folder / "chat_template.jinja").read_text(encoding="utf-8")
            self._template = _environment().from_string(source)
        except (OSError, ValueError, jinja2.TemplateError) as error:
            raise UserError(f"{folder / 'chat_template.jinja'} can't be used ({error}); export it again") from None

    def ids(self, question: str, placeholder: str, image_text: str) -> list[int]:
        """Token ids of the whole prompt, with `image_text` in place of the template's `placeholder`."""
        if placeholder in question:
            raise UserError(f"the question contains {placeholder}, which stands for the image; leave it out")
        expanded = image_text.join(self.text(question).split(placeholder))
        bos = self.special_tokens.get("bos_token")
        starts_with_bos = bos is not None and expanded.startswith(bos)
        return self.tokenizer.encode(expanded, add_special_tokens=not starts_with_bos).ids

    def text(self, question: str) -> str:
        """The chat template's text for one image and one question, the image still a single placeholder."""
        content = [{"type": "image"}, {"type": "text", "text": question}]
        try:
            return self._template.render(
                messages=[{"role": "user", "content": content}],
                tools=None,
                documents=None,
                add_generation_prompt=True,
                **self.special_tokens,
            )
        except jinja2.TemplateError as error:
            raise UserError(f"the bundle's chat template refuses the question ({error})") from None


def read_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer with padding and truncation off: a prompt is encoded whole."""
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises plain Exception, whatever is wrong with the file
        raise UserError(f"{path} can't be read ({error}); copy or export the bundle again") from None
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


class _Generation(jinja2.ext.Extension):
    """`{% generation %}` marks what the assistant wrote; here it only has to be let through."""

    tags = {"generation"}

    def parse(self, parser: jinja2.parser.Parser) -> list[jinja2.nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _environment() -> jinja2.sandbox.ImmutableSandboxedEnvironment:
    """What chat templates expect to find, as in transformers' `chat_template_utils.py`."""
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)
    return environment


def _to_json(value: Any, **options: Any) -> str:
    return json.dumps(value, **{"ensure_ascii": False, **options})


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)
