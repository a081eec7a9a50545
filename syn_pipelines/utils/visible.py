"""Text from files, servers and flags made safe to show: it cannot steer a terminal, hide, or tell a password."""

from __future__ import annotations

import re

LONGEST_LINE = 2000  # characters of a message; a value of a megabyte would bury what is said about it
_KEPT = 600  # of them at the end, where the advice stands

# Control characters but for line feed and tab, line separators, marks that turn the direction of writing, half surrogates.
_STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
# What stands before the last @ of an address: a password may hold a slash or an @ itself.
_CREDENTIALS = re.compile(r"(?<=://)\S{1,300}@")
_SECRET_FIELDS = re.compile(r"([?&][\w-]{0,30}(?:key|token|secret|pass|auth|sig)[\w-]{0,30}=)[^&\s'\"]+", re.IGNORECASE)


def visible(text: str) -> str:
    """The text with every character that acts on a terminal instead of being seen as ``\\u001b`` (which JSON reads too).

    Line feeds and tabs stay, and so do letters of all scripts and emoji with their joiners.
    """
    return _STEERING.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def without_credentials(text: str) -> str:
    """The text with ``***`` in place of user name and password of every address in it, and of keys in its query."""
    return _SECRET_FIELDS.sub(r"\1***", _CREDENTIALS.sub("***@", text))


def as_message(text: str) -> str:
    """The text as a message to a person: visible, without passwords, the middle of endless lines left out."""
    lines = visible(without_credentials(text)).split("\n")
    return "\n".join(line if len(line) <= LONGEST_LINE else f"{line[:LONGEST_LINE - _KEPT]} ... {line[-_KEPT:]}" for line in lines)
