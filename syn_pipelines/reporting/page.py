"""The page: one file with its style, its script, its charts and its sample in it, that asks no other place for anything."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from syn_pipelines.reporting.charts import inline
from syn_pipelines.utils.visible import visible

TEMPLATES = Path(__file__).parent / "templates"
TITLES = {
    "funnel": "Sentences from the data set to the training set", "labels": "Spans by target label",
    "extension_labels": "Spans by extension label", "coverage": "Share of characters under labels",
    "lengths": "Lengths of original and synthetic sentences", "agreement": "Extension labels on gold labels",
    "gains": "F1 by training set and size",
}
# What the reasons mean, for people who have not read the code.
MEANINGS = {
    "no_json": "no list of labels in the reply", "no_items": "a list, but nothing in it that is a label",
    "unterminated": "the reply breaks off", "unclosed_think": "the model was still thinking when its room ran out",
    "too_long": "longer than the model or the encoder can take", "code_fence": "the list stood in a code block",
    "json": "the list was no valid JSON and could be mended", "not_in_text": "the sentence does not have these words",
    "not_on_token_boundary": "begins or ends within a token", "out_of_order": "the words do not follow the sentence",
    "empty": "an empty string", "duplicate": "a sentence that is there already", "copy_of_source": "the sentence it was to go on from",
    "prompt_echo": "repeats the instructions", "chatter": "speaks to the reader", "refusal": "the model declines",
    "thinking": "thoughts of the model", "next_turn": "a conversation that goes on by itself", "markdown": "a heading or a list",
    "unfinished": "no end mark", "too_short": "too few words", "wrong_language": "another language",
    "no_usable_sentence": "no sentence of the explanation was kept", "empty_reply": "nothing was answered",
}


def page(content: Mapping[str, Any], charts: Mapping[str, Mapping[str, bytes]], *, drawn: bool) -> str:
    """The HTML. charts: of ``charts.draw``; drawn: False where matplotlib is not there, which the page says."""
    import jinja2
    from markupsafe import Markup

    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, trim_blocks=True,
                                     lstrip_blocks=True, undefined=jinja2.StrictUndefined, finalize=_shown)
    environment.filters |= {"number": number, "percent": percent, "width": width, "short": short}
    script = (TEMPLATES / "report.js").read_text(encoding="utf-8")
    told = {name: value for name, value in content.items() if name != "sample"}
    return environment.get_template("report.html").render(
        **told, sample=content["sample"], meanings=MEANINGS, titles=TITLES, drawn=drawn,
        charts={name: Markup(inline(files["svg"], name, TITLES[name])) for name, files in charts.items()},
        style=Markup((TEMPLATES / "report.css").read_text(encoding="utf-8")), script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        data=Markup(embedded({"dense": content["dense"], **content["sample"]})))


def embedded(value: Any) -> str:
    """JSON that can stand in a page: nothing in it can end a script element or begin a comment."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _shown(value: Any) -> Any:
    """Text without characters that steer instead of being seen; markup of ours as it is."""
    return visible(value) if type(value) is str else value


def number(value: Any) -> str:
    """``1,234``; ``0.123``; a dash for None."""
    if value is None:
        return "–"
    return f"{value:,.3f}" if isinstance(value, float) else f"{value:,}"


def percent(value: float | None) -> str:
    """``12.3 %``; a dash for None."""
    return "–" if value is None else f"{100 * value:.1f} %"


def short(text: str, longest: int = 80) -> str:
    """The beginning of a text that would bury what stands around it."""
    return text if len(text) <= longest else text[:longest - 1] + "…"


def width(part: float | None, whole: float | None) -> str:
    """The share as the width of a bar, in CSS; whatever is there can be seen."""
    if not part or not whole:
        return "0%"
    return f"{min(max(100 * part / whole, 0.4), 100):.2f}%"
