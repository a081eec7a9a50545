"""The exceptions that end a step with one line instead of a traceback, and a word that helps in it."""

from __future__ import annotations

import difflib
from collections.abc import Collection

from syn_pipelines.utils.visible import as_message


class UserError(Exception):
    """Bad input: the message says what is wrong, where (``file:line``), and what to do.

    The command line prints the message without a traceback and exits with code 2; notebook callers catch it. Whatever
    the message quotes is made safe to show (``as_message``).
    """

    def __init__(self, message: str) -> None:
        super().__init__(as_message(message))


class ServiceError(Exception):
    """A server that the step needs is gone or refuses to go on; what is finished is kept, and the same command goes on.

    The command line prints the message without a traceback and exits with code 1. It is made safe as that of a UserError.
    """

    def __init__(self, message: str) -> None:
        super().__init__(as_message(message))


def did_you_mean(word: object, known: Collection[str]) -> str:
    """`` (did you mean 'x'?)`` for a word that is like a known one, "" for any other."""
    close = difflib.get_close_matches(str(word), sorted(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""
