"""From a question to token ids: the chat template, the image's placeholders, the tokenizer.

Equals transformers' SmolVLM and Idefics3 processors. Templates come with checkpoints from anywhere, so they run in
jinja2's immutable sandbox. In: the bundle's `chat_template.jinja`, `tokenizer.json` and settings. Out: ids.
"""

import datetime
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import jinja2
import jinja2.ext
import jinja2.sandbox
from tokenizers import Tokenizer

from masters_edge.errors import UserError


class Prompt:
    """Turns a question about one image into the ids of the whole prompt.

    `tokenizer` is shared with whoever decodes the answer. Raises UserError where a file is missing or broken.
    """

    def __init__(self, folder: Path) -> None:
        config = read_json(folder / "tokenizer_config.json")
        processor = read_json(folder / "processor_config.json")
        self.tokenizer = read_tokenizer(folder / "tokenizer.json")
        self.special_tokens = special_tokens(config)
        self.image_seq_len = int(processor["image_seq_len"])
        self.image_token = self.special_tokens.get("image_token", "<image>")
        self._fake = self.special_tokens.get("fake_image_token", "<fake_token_around_image>")
        self._whole = self.special_tokens.get("global_image_token", "<global-img>")
        try:
            source = (folder / "chat_template.jinja").read_text(encoding="utf-8")
            self._template = _environment().from_string(source)
        except (OSError, ValueError, jinja2.TemplateError) as error:
            raise UserError(f"{folder / 'chat_template.jinja'} can't be used ({error}); export it again") from None

    def ids(self, question: str, rows: int, columns: int) -> list[int]:
        """Token ids of the prompt for one image split into `rows` x `columns` frames (0 x 0: not split)."""
        if self.image_token in question:
            raise UserError(f"the question contains {self.image_token}, which stands for the image; leave it out")
        expanded = self.image_text(rows, columns).join(self.text(question).split(self.image_token))
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

    def image_text(self, rows: int, columns: int) -> str:
        """What stands in place of the image: placeholders for each frame, and for the whole picture."""
        frame = self.image_token * self.image_seq_len
        whole = f"{self._fake}{self._whole}{frame}{self._fake}"
        if rows == 0 and columns == 0:
            return whole
        lines = (
            "".join(f"{self._fake}<row_{row}_col_{column}>{frame}" for column in range(1, columns + 1))
            for row in range(1, rows + 1)
        )
        return "".join(f"{line}\n" for line in lines) + f"\n{whole}"


def special_tokens(tokenizer_config: Mapping[str, Any]) -> dict[str, str]:
    """`bos_token`, `image_token` and the like with their text, as templates and placeholders name them."""
    found = dict(tokenizer_config.get("model_specific_special_tokens") or {})
    found.update((k, v) for k, v in tokenizer_config.items() if k.endswith("_token"))
    texts = {name: token.get("content") if isinstance(token, dict) else token for name, token in found.items()}
    return {name: text for name, text in texts.items() if isinstance(text, str)}


def read_json(path: Path) -> dict[str, Any]:
    """One of the bundle's settings files."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} can't be read ({error}); copy or export the bundle again") from None


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
