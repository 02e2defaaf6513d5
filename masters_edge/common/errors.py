"""The one exception for mistakes a user can mend.

The command line prints its sentence and exits with status 2; no traceback.
"""

from masters_edge.common.plain import line


class UserError(Exception):
    """Says what was wrong, where, what was expected and what to do, in one sentence."""


def reason(error: BaseException, most: int = 200) -> str:
    """A library's error as a part of a sentence: its first line, or its name where it says nothing."""
    first = next((words for words in map(line, str(error).splitlines()) if words), "")
    return line(first or type(error).__name__, most)
