"""What a server's refusals mean, and how long to wait before asking again: pure functions over messages and headers.

Servers agree on the status codes and on little else, so a refusal is read by its words. Everything here takes plain
texts; no client library is needed.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterable, Mapping
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import Any

# A server that asks for a longer pause is asked again after this many seconds.
MAX_PAUSE_S = 300.0
FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE = 120  # first pauses
_MESSAGE_CHARS = 300
_BODY_CHARS = 20_000  # of a page without JSON; its message stands near the top
_MARKUP = re.compile(r"<style.*?(?:</style>|$)|<[^>]*>", re.DOTALL | re.IGNORECASE)

_REFUSAL = re.compile(r"unexpected|unsupported|not (?:be )?(?:support|permit|allow|recogni|accept)|unrecogni|unknown|extra|forbidden"
                      r"|(?:does|do)(?: not|n't) support|cannot find|not a valid|invalid (?:argument|field|parameter|key|name)",
                      re.IGNORECASE)
_TOO_LONG = re.compile(r"context[ _-]?(?:length|window|size|limit)|maximum (?:context|sequence|model|prompt|input)|max_model_len"
                       r"|(?:prompt|input|request)s? (?:is|are|was|were)? ?too (?:long|large)|too many (?:input |prompt )?tokens"
                       r"|longer than the (?:model|maximum)|max_(?:completion_)?tokens\W{1,3}(?:is )?too large"
                       r"|range of (?:max_tokens|input length)|exceeds? (?:the )?(?:maximum|model)|model token limit"
                       r"|`inputs` tokens|max_tokens\W{1,3}must be", re.IGNORECASE)
_CONTEXT = re.compile(r"(?:context|maximum)[^0-9]{0,60}?([0-9]{2,9})", re.IGNORECASE)
_PROMPT = re.compile(r"([0-9]{1,9}) (?:in the (?:messages|prompt|input)|(?:input|prompt) tokens|tokens (?:in|from) the (?:messages|"
                     r"prompt|input))|(?:resulted in|prompt \(length) ([0-9]{1,9})", re.IGNORECASE)


def error_fields(body: str) -> tuple[str, str, str]:
    """(message, code, parameter) of the body of a refusal, in any of the shapes that servers use; "" where absent.

    The message is one line of at most 300 characters. A body that is no JSON is its own message, without HTML tags.
    """
    try:
        return _fields_of(json.loads(body))
    except (ValueError, RecursionError):
        return _one_line(_MARKUP.sub(" ", body[:_BODY_CHARS])), "", ""


def _fields_of(content: Any) -> tuple[str, str, str]:
    error = content.get("error", content) if isinstance(content, dict) else content
    if not isinstance(error, dict):
        return _one_line(error if isinstance(error, str) else json.dumps(error, ensure_ascii=False)), "", ""
    told = next((error[key] for key in ("message", "detail", "msg", "error") if error.get(key)), error)
    code = " ".join(str(error[key]) for key in ("code", "type") if error.get(key))
    return _one_line(_told(told)), code, str(error.get("param") or "")


def _told(value: Any) -> str:
    """Text of a message; a list of objects with "loc" and "msg" is how FastAPI servers report bad fields."""
    if isinstance(value, list):
        return "; ".join(map(_told, value))
    if isinstance(value, dict) and "msg" in value:
        place = value.get("loc") or ()
        return f"{'.'.join(map(str, place)) if isinstance(place, list) else place}: {value['msg']}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _one_line(text: str) -> str:
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= _MESSAGE_CHARS else line[:_MESSAGE_CHARS - 1] + "…"


def refused_fields(message: str, parameter: str, sent: Iterable[str]) -> set[str]:
    """Which fields of a request the server does not know, by the words of its refusal; empty when it says something else."""
    if not _REFUSAL.search(message):
        return set()
    return {name for name in sent if name == parameter or re.search(rf"(?<!\w){re.escape(name)}(?!\w)", message)}


def is_too_long(message: str, code: str = "") -> bool:
    """Whether the refusal is about the length of prompt and reply together."""
    return bool(_TOO_LONG.search(message) or re.search(r"context_(?:length|size)", code))


def room_left(message: str, asked: int) -> int:
    """Most reply tokens that fit, from a refusal that tells the context's and the prompt's lengths; else half of ``asked``.

    0 when the prompt alone fills the context.
    """
    context, prompt = _CONTEXT.search(message), _PROMPT.search(message)
    if not context or not prompt:
        return asked // 2
    return max(0, min(int(context[1]) - int(prompt[1] or prompt[2]), asked - 1))


def retry_after_s(headers: Mapping[str, str], now: datetime | None = None) -> float:
    """Seconds that a Retry-After header asks for (a number or an HTTP date), between 0 and 300; 0 without a usable one.

    now: the time that a date is compared with; by default the server's own, as its Date header tells it, for the clock
    here may be another one.
    """
    value = headers.get("retry-after", "").strip()
    if re.fullmatch(r"[0-9]{1,9}(\.[0-9]*)?", value):
        seconds = float(value)
    else:
        when = _date(value)
        if when is None:
            return 0.0
        seconds = (when - (now or _date(headers.get("date", "")) or datetime.now(timezone.utc))).total_seconds()
    return min(max(seconds, 0.0), MAX_PAUSE_S)


def _date(value: str) -> datetime | None:
    """An HTTP date; None for anything else."""
    try:
        when = parsedate_to_datetime(value)
    except (TypeError, ValueError, OverflowError):  # the last for a year or a zone beyond all bounds
        return None
    return when if when.tzinfo else when.replace(tzinfo=timezone.utc)


def backoff_s(failures: int, first_s: float = FIRST_PAUSE_S) -> float:
    """Seconds to wait after so many failures in a row (at least 1): drawn from 0 to 0.5, 1, 2, 4 ... 60.

    Drawing from the whole range keeps clients that failed together from coming back together. It shapes time only, so
    it needs no seed.
    """
    return random.uniform(0.0, first_s * min(2 ** min(failures - 1, 30), _LONGEST_PAUSE))
