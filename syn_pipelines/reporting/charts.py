"""The main charts, drawn by matplotlib: as PNG and SVG for papers, and as SVG that takes the colours of the page.

The same content gives the same bytes with the same matplotlib.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from syn_pipelines.utils.visible import visible

INK, MUTED, RULE = "#1c2733", "#5c6875", "#d5dbe1"
# Okabe and Ito's blue, orange and green, which people with any colour vision can tell apart; the last is for what was lost.
FIRST, SECOND, THIRD, LOST = "#0072b2", "#d55e00", "#009e73", "#b0b8c1"
BACK, ON_BAR = "#fefefe", "#fdfdfd"  # of the picture, and of text on a bar
# What stands for these colours in the page, where they differ between light and dark.
ON_PAGE = {INK: "var(--ink)", MUTED: "var(--muted)", RULE: "var(--rule)", FIRST: "var(--first)", SECOND: "var(--second)",
           THIRD: "var(--third)", LOST: "var(--lost)", BACK: "none", ON_BAR: "var(--card)"}
HALVES = {"original": ("original", FIRST), "synthetic": ("synthetic", SECOND)}
WIDTH, DPI = 5.2, 200
MOST_BARS = 24
# Fonts with the characters of other scripts, for the PNG; SVG text is drawn by whoever shows it.
_FONTS = ("DejaVu Sans", "Noto Sans CJK SC", "Noto Sans CJK JP", "Source Han Sans SC", "WenQuanYi Zen Hei", "WenQuanYi Micro Hei",
          "Microsoft YaHei", "PingFang SC", "Hiragino Sans", "Malgun Gothic", "Apple SD Gothic Neo", "Droid Sans Fallback")

Axes = Any


def draw(content: Mapping[str, Any]) -> dict[str, dict[str, bytes]]:
    """``{"lengths": {"png": ..., "svg": ...}, ...}`` of every chart that the content has something for.

    Raises:
        ImportError: matplotlib is not installed.
    """
    import matplotlib
    from matplotlib import font_manager
    from matplotlib.figure import Figure

    known = {font.name for font in font_manager.fontManager.ttflist}
    style = {"font.family": [name for name in _FONTS if name in known] or ["sans-serif"], "font.size": 9, "figure.facecolor": BACK, "axes.facecolor": BACK,
             "savefig.facecolor": BACK,
             "svg.fonttype": "none", "text.color": INK, "axes.edgecolor": RULE, "axes.labelcolor": MUTED, "xtick.color": MUTED,
             "ytick.color": INK, "text.parse_math": False, "axes.spines.top": False, "axes.spines.right": False}
    charts: dict[str, Callable[[Figure, Mapping[str, Any]], bool]] = {
        "funnel": _funnel, "labels": _targets, "extension_labels": _extensions, "coverage": _coverage, "lengths": _lengths,
        "agreement": _agreement, "gains": _gains}
    files = {}
    for name, chart in charts.items():
        with matplotlib.rc_context({**style, "svg.hashsalt": name}), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of characters that no font here has: they show as boxes
            figure = Figure(figsize=(WIDTH, 3), layout="constrained")
            if chart(figure, content):
                files[name] = {"png": _saved(figure, "png")}
                figure.set_layout_engine("none")  # found for the PNG; finding it again would take as long as drawing
                files[name]["svg"] = _saved(figure, "svg")
    return files


def _saved(figure: Any, kind: str) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, dpi=DPI, metadata={"Date": None} if kind == "svg" else None)
    return buffer.getvalue()


def inline(svg: bytes, name: str, title: str) -> str:
    """An SVG as a part of the page: its colours from the page, its ids its own, as wide as there is room.

    title: what a screen reader says; must be plain text without markup.
    """
    text = svg.decode("utf-8")
    text = text[text.index("<svg"):]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'(url\(#|href="#)', rf"\g<1>{name}-", text)
    for colour, variable in ON_PAGE.items():
        text = text.replace(colour, variable)
    text = re.sub(r"font: ([0-9.]+px) [^;\"]*", r"font: \1 var(--sans)", text)
    box = re.search(r'viewBox="[^"]*"', text)
    head = f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" {box[0] if box else ""} ' \
           f'role="img" aria-label="{title}">'
    return re.sub(r"<svg.*?>", lambda _: head, text, count=1, flags=re.DOTALL)


def plain(label: str) -> str:
    """A label short enough for an axis, with nothing in it that XML cannot hold."""
    text = visible(label).replace("\n", " ").replace("\t", " ")
    text = re.sub("[^\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "\ufffd", text)
    return text if len(text) <= 22 else text[:21] + "…"


# --- charts ----------------------------------------------------------------------------------------------------------

def _bars(figure: Any, names: Sequence[str], row: float = 0.24, besides: float = 0.7) -> Axes:
    """Axes for horizontal bars, the first name on top."""
    figure.set_size_inches(WIDTH, besides + row * len(names))
    axes = figure.subplots()
    axes.set_yticks(range(len(names)), [plain(name) for name in names])
    axes.invert_yaxis()
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color=RULE, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines["left"].set_visible(False)
    axes.locator_params(axis="x", nbins=6)
    return axes


def _legend(axes: Axes) -> None:
    axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=2, fontsize=8.5, borderaxespad=0.2)


def _funnel(figure: Any, content: Mapping[str, Any]) -> bool:
    rows = content["funnel"]
    axes = _bars(figure, [""] * len(rows), row=0.46, besides=0.3)
    most = max([row["count"] or 0 for row in rows] + [1])
    for place, row in enumerate(rows):
        count = row["count"]
        axes.barh(place, count or 0, color=FIRST, height=0.42)
        axes.text(0, place - 0.3, row["name"], va="bottom", fontsize=8.5, color=INK)
        lost = ", ".join(f"{n:,} {plain(reason)}" for reason, n in sorted(row["lost"].items(), key=lambda r: -r[1])[:3])
        told = "not run yet" if count is None else f"{count:,}" + (f"   (not: {lost})" if lost else "")
        inside = count is not None and count > 0.55 * most
        axes.text((count or 0) + 0.01 * most if not inside else 0.01 * most, place, told, va="center", fontsize=8.5,
                  color=ON_BAR if inside else MUTED)
    axes.set_xlim(0, most * 1.02)
    axes.set_ylim(len(rows) - 0.6, -0.85)
    axes.set_xticks([])
    axes.spines["bottom"].set_visible(False)
    return True


def _targets(figure: Any, content: Mapping[str, Any]) -> bool:
    return _by_label(figure, [row for row in content["labels"]["rows"] if row["kind"] == "target"], "spans with target labels")


def _extensions(figure: Any, content: Mapping[str, Any]) -> bool:
    rows = [row for row in content["labels"]["rows"] if row["kind"] == "entity"]
    return _by_label(figure, rows, "spans with extension labels")


def _by_label(figure: Any, rows: Sequence[Mapping[str, Any]], what: str) -> bool:
    rows = rows[:MOST_BARS]
    if not rows:
        return False
    both = any(row["synthetic"] is not None for row in rows)
    axes = _bars(figure, [row["label"] for row in rows], row=0.34 if both else 0.26, besides=0.85)
    high = 0.36 if both else 0.6
    for side, (half, (name, colour)) in enumerate(HALVES.items()):
        if half == "original" or both:
            axes.barh([k + (side - 0.5) * high * both for k in range(len(rows))], [row[half] or 0 for row in rows], color=colour,
                      height=high, label=name)
    axes.set_xlabel(what)
    if both:
        _legend(axes)
    return True


def _coverage(figure: Any, content: Mapping[str, Any]) -> bool:
    names = {"target": "target labels", "entity": "entity labels", "pos": "parts of speech", "any": "any label"}
    rows = [row for row in content["coverage"] if row["half"] in HALVES and row["characters"]]
    if not rows:
        return False
    axes = _bars(figure, list(names.values()), row=0.44)
    high = 0.72 / len(rows)
    for side, row in enumerate(rows):
        name, colour = HALVES[row["half"]]
        places = [k + (side - (len(rows) - 1) / 2) * high for k in range(len(names))]
        axes.barh(places, [100 * row[kind] for kind in names], color=colour, height=high, label=name)
        for place, kind in zip(places, names):
            axes.text(100 * row[kind] + 1, place, f"{100 * row[kind]:.1f} %", va="center", fontsize=8, color=MUTED)
    axes.set_xlim(0, 112)
    axes.set_xticks(range(0, 101, 20))
    axes.set_xlabel("characters under a label (%)")
    if len(rows) > 1:
        _legend(axes)
    return True


def _lengths(figure: Any, content: Mapping[str, Any]) -> bool:
    rows = [row for row in content["lengths"] if row["counts"]]
    if not rows:
        return False
    longest = max(row["counts"][-1][0] for row in rows)
    shown = min(longest, max(max(row["p95"] for row in rows) * 1.5, 10))  # one endless sentence must not flatten the rest
    width = max(int(shown) // 40, 1)
    bins = int(shown) // width + 1
    figure.set_size_inches(WIDTH, 2.8)
    axes = figure.subplots()
    for row in rows:
        name, colour = HALVES[row["half"]]
        shares = [0.0] * bins
        for length, count in row["counts"]:
            shares[min(length // width, bins - 1)] += 100 * count / row["sentences"]
        edges = [k * width for k in range(bins + 1)]
        axes.stairs(shares, edges, fill=True, color=colour, alpha=0.28)
        axes.stairs(shares, edges, color=colour, linewidth=1.6, label=f"{name} (median {row['p50']:,})")
    axes.set_xlabel("tokens of a sentence" + (f" (the last step: {(bins - 1) * width:,} and more)" if longest > shown else ""))
    axes.set_ylabel("sentences (%)")
    axes.tick_params(axis="y", labelcolor=MUTED)
    axes.grid(axis="y", color=RULE, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.legend(frameon=False, fontsize=8.5)
    return True


def _agreement(figure: Any, content: Mapping[str, Any]) -> bool:
    """A table of shares: of the gold spans of a label, how many have exactly an extension label."""
    rows = content["agreement"]["rows"][:16]
    totals: dict[str, int] = {}
    for row in rows:
        for one in row["labels"]:
            if one["kind"] == "entity":
                totals[one["label"]] = totals.get(one["label"], 0) + one["exact"]
    columns = sorted((name for name in totals if totals[name]), key=lambda name: (-totals[name], name))[:10]
    if not rows or not columns:
        return False
    figure.set_size_inches(WIDTH, 1.3 + 0.3 * len(rows))
    axes = figure.subplots()
    for y, row in enumerate(rows):
        exact = {one["label"]: one["exact"] for one in row["labels"]}
        for x, name in enumerate(columns):
            share = exact.get(name, 0) / max(row["spans"], 1)
            axes.barh(y, 0.94, left=x - 0.47, height=0.9, color=FIRST, alpha=0.06 + 0.54 * min(share, 1))
            axes.text(x, y, f"{100 * share:.0f}", ha="center", va="center", fontsize=8.5, color=INK)
    axes.set_xlim(-0.5, len(columns) - 0.5)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_yticks(range(len(rows)), [plain(row["gold"]) for row in rows])
    axes.set_xticks(range(len(columns)), [plain(name) for name in columns], rotation=35, ha="right", rotation_mode="anchor")
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.set_title("gold spans with exactly this extension label (%)", fontsize=8.5, color=MUTED, loc="left")
    return True


def _gains(figure: Any, content: Mapping[str, Any]) -> bool:
    found = content["gains"]
    if not found or not found["cells"]:
        return False
    figure.set_size_inches(WIDTH, 3.2)
    axes = figure.subplots()
    styles = ((MUTED, "o", "-"), (FIRST, "s", "--"), (SECOND, "^", "-."), (THIRD, "D", ":"))
    for number, train in enumerate(found["train"]):
        cells = sorted((cell for cell in found["cells"] if cell["train"] == train), key=lambda cell: cell["size"])
        colour, marker, dashes = styles[number % len(styles)]
        if cells:
            axes.errorbar([cell["size"] + 8 * (number - (len(found["train"]) - 1) / 2) for cell in cells],
                          [cell["f1"] for cell in cells], yerr=[cell["sd"] or 0 for cell in cells], label=plain(train),
                          color=colour, marker=marker, linestyle=dashes, capsize=3, linewidth=1.6, markersize=5)
    axes.set_xticks(found["sizes"], [f"{size:,}" for size in found["sizes"]])
    axes.set_xlabel("size of the training set (sentences before augmentation)")
    axes.set_ylabel("F1 on unseen test sentences (%)")
    axes.tick_params(axis="y", labelcolor=MUTED)
    axes.grid(axis="y", color=RULE, linewidth=0.6)
    axes.legend(title="trained on", frameon=False, fontsize=8.5)
    return True
