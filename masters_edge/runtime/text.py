"""From token ids to text as they come, never half a character and never trailing blanks that may still go."""

from collections.abc import Callable

from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream


class TextStream:
    """Feed it ids; `on_text` hears each new piece. The pieces joined are the text `finish` returns."""

    def __init__(self, tokenizer: Tokenizer, on_text: Callable[[str], None] | None = None) -> None:
        self._tokenizer = tokenizer
        self._stream = DecodeStream(skip_special_tokens=True)
        self._on_text = on_text
        self._ids: list[int] = []
        self._decoded = ""
        self._said = ""

    @property
    def listening(self) -> bool:
        """Whether somebody hears the pieces."""
        return self._on_text is not None

    def feed(self, token_id: int) -> None:
        """Take one more id; says what has become certain."""
        self._ids.append(token_id)
        if self._on_text is None:
            return
        self._decoded += self._stream.step(self._tokenizer, token_id) or ""
        self._say(self._decoded.strip())

    def finish(self) -> str:
        """The whole text, without blanks at either end."""
        text = self._tokenizer.decode(self._ids, skip_special_tokens=True).strip()
        if self._on_text is not None:
            self._say(text)
        return text

    def _say(self, text: str) -> None:
        if self._on_text is not None and text.startswith(self._said) and text != self._said:
            self._on_text(text[len(self._said) :])
            self._said = text
