"""From a question to token ids: the chat template, the image's placeholders, the tokenizer.

Equals transformers' processors. Templates come with checkpoints from anywhere, so they run in
a sandbox with bounds (`chat_template.py`). In: the bundle's `chat_template.jinja`, `tokenizer.json` and settings. Out:
ids.
"""

from functools import cached_property
from pathlib import Path

import jinja2
from tokenizers import Tokenizer

from masters_edge.common import inside
from masters_edge.common.errors import UserError, reason
from masters_edge.common.plain import line
from masters_edge.runtime import chat_template
from masters_edge.runtime.families import special_tokens

MOST_TEMPLATE_BYTES, MOST_TOKENIZER_BYTES = 256 << 10, 256 << 20


class Prompt:
    """Turns a question about one image into the ids of the whole prompt.

    `tokenizer` is shared with whoever decodes the answer. Raises UserError where a file is missing or broken.
    """

    def __init__(self, folder: Path) -> None:
        self.special_tokens = special_tokens(folder)
        self.tokenizer = read_tokenizer(folder / "tokenizer.json")
        self._last: tuple[str | None, str] = (None, "")  # a question and its text: both are asked for twice
        content = inside.read(folder, "chat_template.jinja", MOST_TEMPLATE_BYTES)
        try:
            source = content.decode("utf-8")
            self._environment = chat_template.Environment()
            self._template = self._environment.from_string(source)
        except Exception as error:  # a template too deep is Python's RecursionError or SyntaxError
            said = line(str(error), 200)
            raise UserError(f"{folder / 'chat_template.jinja'} can't be used ({said}); export it again") from None

    def ids(self, question: str, placeholder: str, image_text: str) -> list[int]:
        """Token ids of the whole prompt, with `image_text` in place of the template's `placeholder`."""
        if placeholder in question:
            raise UserError(f"the question contains {placeholder}, which stands for the image; leave it out")
        expanded = image_text.join(self.text(question).split(placeholder))
        bos = self.special_tokens.get("bos_token")
        starts_with_bos = bos is not None and expanded.startswith(bos)
        try:
            return self.tokenizer.encode(expanded, add_special_tokens=not starts_with_bos).ids
        except BaseException as error:
            if type(error).__name__ != "PanicException" and not isinstance(error, Exception):
                raise
            # Such as a pattern that gives up on millions of blanks: Rust's panics are no Exception.
            raise UserError(f"the tokenizer can't read the question ({reason(error)}); ask it in other words") from None

    @cached_property
    def longest_token(self) -> int:
        """Characters, at most: vocabularies write bytes as characters, so that no token stands for more."""
        return max(map(len, self.tokenizer.get_vocab(with_added_tokens=True)), default=1)

    def text(self, question: str) -> str:
        """The chat template's text for one image and one question, the image still a single placeholder."""
        if self._last[0] != question:
            self._last = question, self._render(question)
        return self._last[1]

    def _render(self, question: str) -> str:
        content = [{"type": "image"}, {"type": "text", "text": question}]
        try:
            return self._environment.render(
                self._template,
                messages=[{"role": "user", "content": content}],
                tools=None,
                documents=None,
                add_generation_prompt=True,
                **self.special_tokens,
            )
        except jinja2.TemplateError as error:
            raise UserError(f"the bundle's chat template refuses the question ({line(str(error), 300)})") from None


def read_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer with padding and truncation off: a prompt is encoded whole."""
    content = inside.read(path.parent, path.name, MOST_TOKENIZER_BYTES)
    try:
        tokenizer = Tokenizer.from_buffer(content)
    except Exception as error:  # tokenizers raises plain Exception, whatever is wrong with the file
        raise UserError(f"{path} can't be read ({line(str(error), 200)}); {inside.AGAIN}") from None
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer
