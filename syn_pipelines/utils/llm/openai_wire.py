"""What goes to a server and what comes back, as plain values."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from syn_pipelines.utils.llm.openai_errors import error_fields, refused_fields

log = logging.getLogger(__name__)

# Fields that not every server knows. Replies are usable without them, so a server that refuses one is not sent it again.
EXTRAS = {"chat_template_kwargs", "repetition_penalty"}
_OPTIONAL = {"temperature", "top_p", "seed"} | EXTRAS
# What servers call the end that a model came to by itself. Any other, such as a limit or a filter, has cut the reply off.
_WHOLE = {"", "stop", "eos", "eos_token", "end_turn", "stop_sequence", "tool_calls", "function_call"}
# Ends that are the server's own trouble, which may pass.
_TROUBLE = {"error", "abort", "network_error", "insufficient_system_resource"}
_MOST_TOKENS = 10**9  # of one reply; a number beyond it counts nothing


@dataclass(frozen=True)
class Outcome:
    """What became of a request: "answer", "refused" (a 4xx that no second try mends), or a failure: "broken" (transport,
    5xx, no usable answer), "limited" (429, or 503 with a Retry-After: alive, but to be left alone for a while), "empty"
    (an answer without text).

    message: one line, for all but answers. pause_s: what the server asked for.
    """

    kind: str
    text: str = ""
    finish_reason: str = "stop"
    prompt_tokens: int = 0
    completion_tokens: int = 0
    status: int = 0
    message: str = ""
    code: str = ""
    parameter: str = ""
    pause_s: float = 0.0


@dataclass
class Habits:
    """What has been found out about a server: fields it does not take, and its name for the reply's limit."""

    refused: set[str] = field(default_factory=set)
    limit_field: str = "max_tokens"

    def body(self, fields: Mapping[str, Any], limit: int) -> dict[str, Any]:
        """The request as this server takes it."""
        return {self.limit_field: limit, **{name: value for name, value in fields.items() if name not in self.refused}}

    def learn(self, outcome: Outcome, body: Mapping[str, Any]) -> bool:
        """Whether a request that was refused can be sent again in another form."""
        if outcome.status not in (400, 422):
            return False
        if self.refused & body.keys():  # sent before another request found that out
            return True
        named = refused_fields(outcome.message, outcome.parameter, body)
        if "max_tokens" in named and "max_completion_tokens" in outcome.message:
            self.limit_field = "max_completion_tokens"
            return True
        self.drop(named & _OPTIONAL)
        return bool(named & _OPTIONAL)

    def drop(self, names: set[str]) -> None:
        """Send these no more; says so once where it changes the replies."""
        for name in sorted(names - self.refused - EXTRAS):
            log.warning("the server does not take %s: going on without it", name)
        self.refused |= names


def read_answer(content: bytes, hide: Callable[[str], str] = str) -> Outcome:
    """The first choice of a chat completion. Reasoning that a server tells apart from the answer is left out.

    Anything that is no chat completion is "broken", never an exception. hide: takes out of a message what nobody should
    see.
    """
    try:
        completion = json.loads(content.decode("utf-8-sig"))
        choice = completion["choices"][0]
        text, finish = _text_of(choice["message"]), str(choice.get("finish_reason") or "").lower()
    except UnicodeDecodeError:
        return Outcome("broken", message="broken answer: not UTF-8")
    except RecursionError:
        return Outcome("broken", message="broken answer: nested too deeply")
    except (KeyError, IndexError, TypeError, AttributeError, ValueError):
        shown = hide(error_fields(hide(content.decode("utf-8", "replace")))[0])
        return Outcome("broken", message=f"broken answer: {shown[:120] or 'nothing'}")
    if finish in _TROUBLE:
        return Outcome("broken", message=f"broken answer: ended with {finish!r}")
    usage = completion.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    counts = [value if type(value) is int and 0 <= value < _MOST_TOKENS else 0
              for value in (usage.get("prompt_tokens"), usage.get("completion_tokens"))]
    if finish == "content_filter" and not text:
        return Outcome("refused", message="content_filter: the server's filter took the answer away")
    cut = finish not in _WHOLE
    if not text.strip() and not cut:
        return Outcome("empty", message="empty answer: the server sent no text")
    return Outcome("answer", text, "length" if cut else "stop", *counts)


def _text_of(message: Mapping[str, Any]) -> str:
    content = message.get("content") or message.get("refusal") or ""
    if isinstance(content, list):
        content = "".join(part.get("text") or "" for part in content)
    if not isinstance(content, str):
        raise TypeError("content is no text")
    return content


def model_names(content: bytes) -> list[str]:
    """Names in a list of models; none where it is no such list."""
    try:
        rows = json.loads(content)["data"]
        return [row["id"] for row in rows if isinstance(row["id"], str)]
    except (ValueError, KeyError, TypeError, RecursionError):
        return []
