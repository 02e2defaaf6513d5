"""The one exception for mistakes a user can mend.

The command line prints its sentence and exits with status 2; no traceback.
"""


class UserError(Exception):
    """Says what was wrong, where, what was expected and what to do, in one sentence."""
