"""What a text says once a reasoning model's thoughts are taken away: those of students that answer, and of judges."""

import re

_THOUGHT = re.compile(r"\A.*</think(?:ing)?>|<think(?:ing)?>.*\Z", re.DOTALL | re.IGNORECASE)


def spoken(text: str) -> str:
    """The text without the thoughts before it. Templates may open them in the prompt, so an end without a beginning
    counts; thoughts that never end say nothing."""
    return _THOUGHT.sub("", text).strip()
