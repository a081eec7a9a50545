"""How a data set's tokens join into text, and its language."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from syn_pipelines.utils.options import TextOptions

DENSE_SHARE = 0.95


@dataclass(frozen=True)
class Language:
    """``dense``: tokens join without blanks. ``lang``: "zh", "en", "ja" or "ko"."""

    dense: bool
    lang: str

    def join(self, tokens: Sequence[str]) -> str:
        """The sentence as text."""
        return ("" if self.dense else " ").join(tokens)


def language_of(opts: TextOptions, texts: Iterable[Sequence[str]]) -> Language:
    """The forced values of --dense_lang and --lang, or what the tokens say.

    Dense: at least 95 % of the tokens are one code point. Language: by script, kana and Hangul before Han
    before Latin, each by its share of the characters (Japanese and Korean text also holds Han characters).
    """
    if opts.dense_lang != "auto" and opts.lang != "auto":
        return Language(opts.dense_lang == "1", opts.lang)
    tokens = single = 0
    chars: Counter[str] = Counter()
    for text in texts:
        tokens += len(text)
        single += [*map(len, text)].count(1)
        if opts.lang == "auto":
            chars.update("".join(text))
    scripts = {"kana": 0, "han": 0, "hangul": 0, "other": 0}
    for char, count in chars.items():
        scripts[_script(char)] += count
    dense = single >= DENSE_SHARE * tokens if opts.dense_lang == "auto" else opts.dense_lang == "1"
    return Language(dense, _by_script(scripts) if opts.lang == "auto" else opts.lang)


def is_dense(opts: TextOptions, texts: Iterable[Sequence[str]]) -> bool:
    """Whether tokens join without blanks: as ``language_of``, which takes longer for it looks at the scripts, too."""
    return language_of(replace(opts, lang="en"), texts).dense


def _by_script(scripts: dict[str, int]) -> str:
    letters = sum(scripts.values()) or 1
    if scripts["kana"] > 0.1 * letters:
        return "ja"
    if scripts["hangul"] > 0.2 * letters:
        return "ko"
    return "zh" if scripts["han"] > 0.2 * letters else "en"


def _script(char: str) -> str:
    if "\u3040" <= char <= "\u30ff":
        return "kana"
    if "\u4e00" <= char <= "\u9fff" or "\u3400" <= char <= "\u4dbf":
        return "han"
    if "\uac00" <= char <= "\ud7a3" or "\u1100" <= char <= "\u11ff" or "\u3130" <= char <= "\u318f":
        return "hangul"
    return "other"
