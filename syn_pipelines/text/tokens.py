"""Running text to tokens, as the data sets have them.

Dense data (zh, ja): one token per code point, the white space gone. Latin words, emoji with joiners, letters with
combining marks: every code point is a token of its own there, because that is how the character data sets are cut.

Spaced data (en, ko): as CoNLL-style data do. Punctuation is a token of its own; kept whole are abbreviations, initials
(``U.S.``, ``Mr.``, ``a.m.``, ``J.`` before a name), numbers with what is glued to them (``3.5``, ``1,000``, ``1990s``,
``5-4``, ``+44``, ``15%``, ``$3.5``: wikigold writes all its dollar amounts and all but two of its per cents so),
hyphenated words (``Wal-Mart``), words with an inner dot or apostrophe (``node.js``, ``O'Neal``), ``@user``, ``#tag``,
URLs, e-mail addresses, runs of one mark (``...``, ``--``, ``!!``), each emoji. Clitics are cut off: ``Anna 's``,
``do n't``. In both cases the tokens, in order, hold every character of the text but white space.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_left
from collections.abc import Iterable, Iterator

Span = tuple[int, int]

# Abbreviations by how they behave. The sentence splitter reads these tables too, so that both agree on every dot.
# A name or a title follows: the dot never ends a sentence.
TITLES = frozenset(
    "Mr Mrs Ms Mx Dr Prof Rev Hon Fr Messrs Mme Mlle Gen Lt Maj Col Sgt Cpl Capt Cmdr Adm Brig Gov Sen Rep "
    "Pres Supt".split()
)
# The dot stays with the word; it ends a sentence as well when what follows opens one.
WORDS = frozenset(
    "Jr Sr Inc Ltd Co Corp Bros Dept Univ Assn St Ste Mt Ft Ave Blvd Rd Jan Feb Apr Jun Jul Aug Sep Sept Oct Nov Dec "
    "Mon Tue Tues Wed Thu Thur Thurs Fri etc vs cf viz approx dept al esp".split()
)
# An abbreviation only before a number ("No. 5", "p. 12", "Mar. 3"); else an ordinary word ("He said no.").
BEFORE_NUMBERS = frozenset("No Nos no nos Vol vol Fig fig Art Sec Ch p pp b d r c ca fl est Mar Sat Sun".split())


def _mark_class() -> str:
    """Combining marks as a character class body: ``\\w`` does not hold them, and "é" may be two code points."""
    blocks = (range(0x300, 0x1E00), range(0x20D0, 0x2100), range(0x3099, 0x309B), range(0xA800, 0xAC00))
    codes = [code for block in blocks for code in block if unicodedata.category(chr(code)) in ("Mn", "Mc")]
    runs: list[list[int]] = []
    for code in codes:
        if runs and runs[-1][1] == code - 1:
            runs[-1][1] = code
        else:
            runs.append([code, code])
    # the zero-width (non-)joiners sit inside Indic and Persian words, the soft hyphen inside any
    return "\u00ad\u200c\u200d" + "".join(f"{chr(low)}-{chr(high)}" for low, high in runs)


_MARKS = _mark_class()
_W = rf"[\w{_MARKS}]"
_LETTER = r"[^\W\d_]"
_UPPER = "[A-ZÀ-ÖØ-ÞĀĂĄĆČĎĐĒĖĘĚĞĢĪİĶĹĻŁŃŅŇŌŐŒŘŚŞŠŢŤŪŮŰŹŻŽΑ-ΩА-ЯЁ]"
_PICTURE = "[\u00a9\u00ae\u2194-\u21aa\u2300-\u23ff\u2600-\u27bf\u2b05-\u2b55\U0001f000-\U0001faff]"
_PICTURE_MODIFIERS = "[\ufe0f\u20e3\U0001f3fb-\U0001f3ff\U000e0020-\U000e007f]*"
EMOJI = (
    "[\U0001f1e6-\U0001f1ff]{2}|[0-9#*]\ufe0f?\u20e3"
    f"|{_PICTURE}{_PICTURE_MODIFIERS}(?:\u200d{_PICTURE}{_PICTURE_MODIFIERS})*"
)
# The last character of an address is never a mark, so a final full stop stays outside.
URL = (
    r"""(?:(?:https?|ftp)://|www\.)[^\s<>"“”「」『』（）【】，。、；：！？]*[^\s<>"“”「」『』（）【】，。、；：！？.,;:!'’?)\]}…]"""
)
EMAIL = r"[A-Za-z0-9][\w.+%-]{0,63}@[A-Za-z0-9][A-Za-z0-9-]*(?:\.[A-Za-z0-9-]*[A-Za-z0-9])+"
# What may stand inside a word; an apostrophe not before CJK: '한국'은 is a quotation.
_JOIN = (
    rf"(?:[-\u2010\u2011.]|(?<=\d)[,:/\u2013](?=\d)|(?<!\d)['’](?={_LETTER})(?![\u1100-\u11ff\u3040-\uffff])"
    r"|(?<=[A-Z0-9])&(?=[A-Z]))"
)


def _alternatives(words: Iterable[str]) -> str:
    return "|".join(sorted(words, key=lambda word: (-len(word), word)))


# Order matters: the first alternative that fits at a position wins, the last takes any single character.
_TOKEN = re.compile(
    rf"""
      {URL}
    | {EMAIL}
    | -[LR][RSC]B-                                                # brackets as Penn Treebank data write them
    | (?<!\S)[:;=8][-^']?[)(\]\[DPpOo/\\|*3](?!\S)                # :-) standing alone
    | {EMOJI}
    | (?<!{_W})@{_W}+
    | (?<!{_W})[#](?=\d*[^\W\d]){_W}+                             # a tag has a letter; "#1" is two tokens in the data
    | [CF][#](?!{_W}) | C\+\+
    | {_LETTER}\.(?:-?{_LETTER}\.)+(?:-{_W}+)*(?!{_W})            # U.S., e.g., J.-P., U.S.-based
    | (?:[A-Z][a-z]{{0,3}}\.){{2,}}(?!{_W})                       # Ph.D., M.Sc.
    | (?:{_alternatives(TITLES | WORDS)})\.(?!{_W}|\.)
    | (?:{_alternatives(BEFORE_NUMBERS)})\.(?=\s\d)                # "c.1240" is one token
    | v\.(?=\s)
    | {_UPPER}\.(?=\s+["“‘(]?{_UPPER}|,)                          # an initial, not the end of "vitamin C."
    | (?:(?<![\w.)])[+\-\u2212\u00b1])?(?:[A-Z]{{0,3}}[$£€¥₩₹])?\.?\d{_W}*(?:{_JOIN}{_W}+)*(?:(?<=\d)[%‰])?
    | (?<!\S)-{_W}+                                               # "-based" beside a name, as data sets cut it
    | {_W}+(?:{_JOIN}{_W}+)*
    | (?<=[\w.)\]"”])['’](?:s|re|ve|ll|d|m|S|RE|VE|LL|D|M)(?!{_W})
    | (?<!\S)['’](?:s|re|ve|ll|d|m)(?!{_W})                       # a clitic in text that is already cut
    | \.{{2,}} | -{{2,}} | […—]+ | !{{2,}} | \?{{2,}} | [!?]{{2,}} | '' | ``
    | \S[{_MARKS}\ufe0f]*
    """,
    re.VERBOSE,
)
_CLITIC = re.compile(r"(?<=\w)(?:n['’]t|['’](?:s|re|ve|ll|d|m))$", re.IGNORECASE)


def _spaced_spans(text: str) -> Iterator[Span]:
    """Token spans of spaced text, left to right, none empty, none with white space."""
    for match in _TOKEN.finditer(text):
        start, end = match.span()
        token = match.group()
        if len(token) < 3 or ("'" not in token and "’" not in token) or "://" in token:
            yield start, end
            continue
        cuts = [end]  # from the right: "who'd've" holds two; none is longer than 3
        while (clitic := _CLITIC.search(text, max(start + 1, cuts[-1] - 3), cuts[-1])) is not None:
            cuts.append(clitic.start())
        for cut in reversed(cuts):
            yield start, cut
            start = cut


def tokenize(text: str, dense: bool) -> list[str]:
    """Cut ``text`` into tokens; joined without blanks they are the text without its white space.

    Args:
        text: running text, or tokens joined by blanks: text that is already cut comes back as it was, but for the rare
            token that holds a mark this module separates.
        dense: one token per code point (zh, ja) instead of CoNLL-style words (en, ko).
    Returns:
        tokens, none empty, none with white space in it; [] for blank text.
    """
    if dense:
        return [char for char in text if not char.isspace()]
    return [text[start:end] for start, end in _spaced_spans(text)]


def tokenize_around(text: str, spans: Iterable[Span], dense: bool) -> tuple[list[str], list[Span]]:
    """Cut ``text`` so that every given span falls on token boundaries, for data with character offsets.

    Args:
        text: n code points.
        spans: half-open (start, end) pairs, code points of ``text``, in any order; they may nest, cross or repeat.
        dense: every code point is a token, **white space too**: Japanese names hold blanks, and dropping them would
            change the text. Not dense: the tokens of ``tokenize``, cut once more wherever a span begins or ends.
    Returns:
        (tokens, token spans in the order of ``spans``). White space at the edges of a span of spaced text is outside
        its tokens; a span that covers no token comes back as (i, i), for the caller to reject.
    Raises:
        ValueError: a span that is not 0 <= start <= end <= n.
    """
    spans = list(spans)
    for start, end in spans:
        if not 0 <= start <= end <= len(text):
            raise ValueError(f"span ({start}, {end}) does not fit a text of {len(text)} code points")
    if dense:
        return list(text), spans
    cuts = sorted({edge for span in spans for edge in span})
    pieces = [piece for token in _spaced_spans(text) for piece in _cut(token, cuts)]
    starts = [start for start, _ in pieces]
    found = [(bisect_left(starts, start), bisect_left(starts, end)) for start, end in spans]
    return [text[start:end] for start, end in pieces], found


def _cut(token: Span, cuts: list[int]) -> Iterator[Span]:
    """The parts of ``token`` between those of the sorted ``cuts`` that lie inside it."""
    start, end = token
    for cut in cuts[bisect_left(cuts, start + 1) : bisect_left(cuts, end)]:
        yield start, cut
        start = cut
    yield start, end
