"""HTML for notebooks: tables, and text with coloured spans in it. No script, nothing from elsewhere, everything escaped.

Backgrounds are translucent and text keeps the colour it has, so it reads well on a light and on a dark page: a notebook
does not say which one it has. The page of report.py draws spans in the same way, but in the browser, where they are filtered.
"""

from __future__ import annotations

import html
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from syn_pipelines.utils.packing import plain_path
from syn_pipelines.utils.visible import visible

if TYPE_CHECKING:
    from syn_pipelines.utils.summary import Summary

MOST_FILES = 3  # that are listed openly
DEEPEST = 8  # boxes within boxes; more can be told apart by nobody
MOST_TOKENS, MOST_SPANS = 1000, 600  # of a sentence; a whole book in one output would stop the browser
SHORT_MENTION, SHORT_NAMES = 6, 22  # characters that stay on one line with the names of their labels

STYLE = """<style>
.synp{line-height:1.55;color:inherit;overflow-wrap:anywhere}
.synp p{margin:.15em 0}.synp .head{font-weight:600}.synp .mute{opacity:.75;font-weight:400;font-size:.92em}
.synp code{background:rgba(127,127,127,.15);border-radius:4px;padding:.05em .35em;color:inherit}
.synp table{border-collapse:collapse;margin:.5em 0;font-size:.95em;color:inherit;table-layout:auto}
.synp caption{text-align:left;opacity:.75;caption-side:top;color:inherit;padding:0 0 .2em}
.synp th,.synp td{text-align:left;vertical-align:top;padding:.25em 1em .25em 0;border:0;
border-bottom:1px solid rgba(127,127,127,.3);background:none;color:inherit;max-width:44em;white-space:normal}
.synp th{font-weight:500}.synp thead th{opacity:.75}.synp .n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
.synp ul{margin:.3em 0;padding-left:1.4em;list-style:disc}.synp summary{cursor:pointer}
.synp .warn{border-left:3px solid #d08700;padding-left:.8em;margin:.5em 0}
.synp .one{padding:.35em 0}.synp .one+.one{border-top:1px solid rgba(127,127,127,.3)}
.synp .text{font-size:1.08em;line-height:2.2;white-space:pre-wrap}
.synp .line{display:flex;gap:.5em;align-items:baseline}.synp .line>.text{flex:1;min-width:0}
.synp .which{flex:none;width:5.2em;opacity:.75;font-size:.85em}
.synp .span{border:1.5px solid hsl(var(--h),60%,54%);background:hsla(var(--h),70%,50%,.16);border-radius:6px;padding:.14em .22em;
margin:0 .06em;-webkit-box-decoration-break:clone;box-decoration-break:clone;-webkit-print-color-adjust:exact;print-color-adjust:exact}
.synp .entity{border-style:dashed}.synp .pos{border:0;border-bottom:2px dotted hsl(var(--h),60%,54%);background:none;border-radius:0;padding:.1em .05em}
.synp .short{white-space:nowrap}
.synp .more-left{border-left:0;border-top-left-radius:0;border-bottom-left-radius:0}
.synp .more-right{border-right:0;border-top-right-radius:0;border-bottom-right-radius:0}
.synp .name{font:600 .64em/1 system-ui,sans-serif;margin-left:.3em;white-space:nowrap;user-select:none;vertical-align:.08em}
.synp .pos>.name{font-weight:400;margin-left:.15em;opacity:.85}
.synp .said{font:700 .64em/1 system-ui,sans-serif;margin-left:.35em;text-decoration:underline wavy 1px;white-space:nowrap;user-select:none}
</style>"""


def text(value: object) -> str:
    """Any value as text of a page: escaped, and nothing in it that steers instead of being seen."""
    return html.escape(visible(str(value)))


def block(*parts: str) -> str:
    """One output of a notebook, of finished pieces of HTML."""
    return f'{STYLE}<div class="synp">{"".join(parts)}</div>'


def table(head: Sequence[str], rows: Iterable[Sequence[object]], *, caption: str = "", figures: bool = False) -> str:
    """A table. Numbers stand to the right; with ``figures`` so does everything behind the first column."""
    def cell(place: int, value: object) -> str:
        right = isinstance(value, int) or (figures and place)
        shown = f"{value:,}" if isinstance(value, int) else text(value)
        tag, scope = ("td", "") if place else ("th", ' scope="row"')
        return f'<{tag}{scope}{" class=n" if right else ""}>{shown}</{tag}>'

    body = [list(row) for row in rows]
    right = [figures and place > 0 or any(isinstance(row[place], int) for row in body) for place in range(len(head))]
    titles = "".join(f'<th scope="col"{" class=n" if numbers else ""}>{text(name)}</th>' for name, numbers in zip(head, right))
    lines = "".join(f"<tr>{''.join(cell(place, value) for place, value in enumerate(row))}</tr>" for row in body)
    return (f"<table>{f'<caption>{text(caption)}</caption>' if caption else ''}<thead><tr>{titles}</tr></thead>"
            f"<tbody>{lines}</tbody></table>")


def folded(title: str, content: str, *, when: bool = True) -> str:
    """The content below a title that opens it; ``when`` false: openly."""
    return f"<details><summary>{text(title)}</summary>{content}</details>" if when else content


def summary_html(summary: Summary, *more: str) -> str:
    """What a step did. more: pieces of HTML between the accounts and the files."""
    state = "nothing to do, all is up to date" if summary.up_to_date else f"done in {summary.seconds:.1f} s"
    parts = [f'<p class="head">{text(summary.step)} <span class="mute">{state}</span></p>']
    if summary.accounts:
        parts.append(table(("", "total", "what became of them"), (
            (account.what, account.total, str(account).partition(" = ")[2]) for account in summary.accounts)))
    parts += [f"<p>{text(note)}</p>" for note in summary.notes]
    if summary.usage and summary.usage.asked:
        parts.append(f'<p class="mute">{text(summary.usage)}</p>')
    parts += more
    if summary.outputs:
        files = "".join(f"<li><code>{text(path)}</code>{f' ({rows:,} rows)' if plain_path(Path(path)).suffix == '.jsonl' else ''}</li>"
                        for path, rows in summary.outputs.items())
        parts.append(folded(f"{len(summary.outputs)} files", f"<ul>{files}</ul>", when=len(summary.outputs) > MOST_FILES))
    if summary.warnings:
        told = "".join(f"<li>{text(warning)}</li>" for warning in summary.warnings)
        parts.append(f'<div class="warn" role="note">Warnings<ul>{told}</ul></div>')
    return block(*parts)


# --- spans -----------------------------------------------------------------------------------------------------------

@dataclass(frozen=True)
class Mark:
    """A span to draw: half-open token offsets. kind: "target", "entity" or "pos". said: a word behind its label.

    score: probability, told when the mouse rests on it. left, right: it goes on there, in another box.
    """

    start: int
    end: int
    label: str
    kind: str = "target"
    said: str = ""
    score: float | None = None
    left: bool = False
    right: bool = False

    @property
    def order(self) -> tuple[int, int, int, str]:
        """Outer spans come first; of equal ones target labels do."""
        return self.start, -self.end, ("target", "entity", "pos").index(self.kind), self.label


def colour_wheel(labels: Sequence[str] = ()) -> Callable[[str], int]:
    """label -> hue. Labels named here are far apart; any other has the hue of its name, the same everywhere."""
    places = {label: place for place, label in enumerate(labels)}

    def hue(label: str) -> int:
        if label in places:
            return round(places[label] * 137.508 + 205) % 360
        return zlib.crc32(label.encode("utf-8", "replace")) % 360
    return hue


def marked(tokens: Sequence[str], marks: Iterable[Mark], *, joiner: str, hue: Callable[[str], int]) -> str:
    """The text with its spans as boxes within boxes. Of two that cross, the later one is drawn in two pieces."""
    shown, all_marks = tokens[:MOST_TOKENS], sorted(marks, key=lambda mark: mark.order)
    kept = [mark if mark.end <= len(shown) else replace(mark, end=len(shown), right=True)
            for mark in all_marks if mark.start < len(shown)][:MOST_SPANS]
    left_out = [f"{count:,} {what} more" for count, what in ((len(tokens) - len(shown), "tokens"),
                                                            (len(all_marks) - len(kept), "spans")) if count]
    body = _Drawing(shown, joiner, hue).between(0, len(shown), kept, 0)
    return body + (f' <span class="mute">… {", ".join(left_out)}</span>' if left_out else "")


@dataclass(frozen=True)
class _Drawing:
    tokens: Sequence[str]
    joiner: str
    hue: Callable[[str], int]

    def between(self, low: int, high: int, marks: Sequence[Mark], depth: int) -> str:
        """The tokens [low, high) with marks that lie among them, in their order."""
        pieces, at, queue = [], low, list(marks)
        while queue:
            mark = queue.pop(0)
            if mark.start > at:
                pieces.append(self._plain(at, mark.start))
            inner, rest = [], []
            for other in queue:
                if other.start < mark.end < other.end:
                    inner.append(replace(other, end=mark.end, right=True))
                    rest.append(replace(other, start=mark.end, left=True))
                else:
                    (inner if other.start < mark.end else rest).append(other)
            queue = sorted(rest, key=lambda one: one.order)
            pieces.append(self._box(mark, inner, depth))
            at = mark.end
        if at < high:
            pieces.append(self._plain(at, high))
        return self.joiner.join(pieces)

    def _plain(self, start: int, end: int) -> str:
        return text(self.joiner.join(self.tokens[start:end]))

    def _box(self, mark: Mark, inner: Sequence[Mark], depth: int) -> str:
        written = len(self.joiner.join(self.tokens[mark.start:mark.end]))
        names = sum(len(one.label) for one in (mark, *inner))
        classes = ["span", mark.kind] + [name for name, true in (
            ("more-left", mark.left), ("more-right", mark.right),
            ("short", written <= SHORT_MENTION and names <= SHORT_NAMES)) if true]
        if depth < DEEPEST:
            content = self.between(mark.start, mark.end, sorted(inner, key=lambda one: one.order), depth + 1)
        else:
            content = self._plain(mark.start, mark.end) + (f" (+{len(inner)})" if inner else "")
        told = "" if mark.score is None else f", probability {mark.score:.2f}"
        title = text(f"{mark.label} ({mark.kind}), tokens {mark.start} to {mark.end}{told}")
        name = "" if mark.right else f'<bdi class="name">{text(mark.label)}</bdi>'
        said = f'<span class="said">{text(mark.said)}</span>' if mark.said and not mark.right else ""
        return (f'<span class="{" ".join(classes)}" style="--h:{self.hue(mark.label)}" title="{title}">'
                f"{content}{name}{said}</span>")
