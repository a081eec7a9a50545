"""English for the offline backend: textblob's word lexicon for tags, and entities made by rules on capital letters.

textblob's tagger takes words as they are, so each token of the sentence keeps its own tag; its packaged lexicon needs
no download. Names are runs of capitalised tokens; what closes, opens or precedes a run says what it names, and a run
that nothing tells about is a "proper name".
"""

from __future__ import annotations

import functools
import re
import warnings
from collections.abc import Mapping, Sequence

from syn_pipelines.utils.errors import UserError
from syn_pipelines.utils.llm.offline.en_words import (
    COUNTRIES,
    FIRST_NAMES,
    FUNCTION_WORDS,
    LOCATION_HEADS,
    LOCATION_STARTS,
    NATIONALITIES,
    ORG_HEADS,
    PERSON_TITLES,
    PLACES,
    WORK_HEADS,
)
from syn_pipelines.utils.llm.offline.text import Piece, distinct, pattern_pieces, sentence_text, token_boundaries

# Every type of an entity item, so that the alias table can be checked against it.
ENTITY_TYPES = frozenset(
    (
        "person", "organization", "location", "country", "nationality", "event", "proper name", "date", "time", "money",
        "percent", "ordinal", "cardinal number", "quantity", "age", "web address", "user name", "hashtag",
    )  # fmt: skip
)
POS_TAGS = frozenset(
    "CC CD DT EX FW IN JJ JJR JJS LS MD NN NNS NNP NNPS PDT POS PRP PRP$ RB RBR RBS RP SYM TO UH VB VBD VBG VBN VBP "
    "VBZ WDT WP WP$ WRB . , : ( ) `` '' # $ \"".split()
)

_MONTH = (
    r"(?:January|February|April|June|July|August|September|October|November|December"
    r"|(?:Jan|Feb|Apr|Jun|Jul|Aug|Sept?|Oct|Nov|Dec)\."
    r"|(?:March|May)(?= \d)|(?<=\bin )(?:March|May)|(?<=\d )(?:March|May))"
)
_NTH = r"\d{1,2}(?:st|nd|rd|th)?"
_DAY = r"(?:Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)day"
_WORDS = (
    r"(?:two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|twenty|thirty|forty|fifty|hundred|thousand|million)"
)
_N = rf"(?:\d[\d.,]*(?: (?:hundred|thousand|million|billion|trillion))?|{_WORDS}(?:[ -]{_WORDS})*)"
_PATTERNS = tuple(
    (kind, re.compile(pattern))
    for kind, pattern in (
        ("web address", r"(?:https?://|www\.)\S+"),
        ("user name", r"@\w+"),
        ("hashtag", r"#\w*[A-Za-z]\w*"),
        ("money", rf"(?:US |C |A )?[$£€¥] ?{_N}|{_N} (?:dollars?|euros?|pounds|cents|yen|yuan|rupees)"),
        ("percent", rf"{_N} ?(?:%|percent|per cent|percentage points?)"),
        ("age", rf"{_N}[- ]years?[- ]old"),
        ("date", rf"(?:{_DAY} (?:, )?)?{_MONTH}(?: {_NTH})?(?: ,)? [12]\d{{3}}\b"),
        ("date", rf"(?:{_DAY} (?:, )?)?(?:{_NTH} (?:of )?)?{_MONTH}(?: {_NTH}\b)?"),
        ("date", rf"(?:[Ll]ast |[Nn]ext |[Tt]his )?{_DAY}s?"),
        ("date", r"(?:[Ll]ast|[Nn]ext|[Tt]his) (?:week|month|year|summer|winter|spring|autumn|weekend)"),
        ("date", r"\d{4}-\d\d-\d\d|(?:1[5-9]|20)\d\d(?:s|-\d\d(?:\d\d)?)?|\d{1,2}[/.]\d{1,2}[/.]\d{2,4}"),
        ("date", r"[Yy]esterday|[Tt]omorrow"),
        ("time", r"\d{1,2}:\d\d(?: ?[ap]\.?m\.?)?|\d{1,2} ?[ap]\.?m\.?|[Mm]idnight|[Nn]oon"),
        ("time", rf"{_N} (?:seconds?|minutes?|hours?)"),
        ("date", rf"{_N} (?:days?|weeks?|months?|years?|decades?)"),
        ("quantity", rf"{_N} ?(?:km|kg|cm|mm|m|miles?|(?:kilo)?met(?:re|er)s?|feet|foot|inches|acres|tons?|lbs?)"),
        ("ordinal", r"\d+(?:st|nd|rd|th)|first|second|third|fourth|fifth|sixth|seventh|eighth|ninth|tenth"),
        ("cardinal number", _N),
    )
)
_NUMBER = re.compile(r"[+-]?[\d.,:/%-]*\d[\d.,:/%-]*")
_INITIAL = re.compile(r"[A-Z]\.")
_INNER = frozenset("of & de del della van von der la le du di da al bin ibn".split())


@functools.lru_cache(maxsize=1)
def load_lexicon() -> Mapping[str, str]:
    """textblob's lexicon: word -> Penn tag, with a few "NN|JJ" choices."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)  # textblob leaves its files to the garbage collector
            from textblob.en import lexicon

            len(lexicon), len(lexicon.entities)  # both load when first looked at
    except ModuleNotFoundError as err:
        raise UserError("textblob: not installed, the offline backend needs it for English. Install textblob.") from err
    return lexicon


def tag_words(tokens: Sequence[str], dense: bool) -> list[tuple[str, str]]:
    """(token, Penn tag) of each token that is not white space; one item a token, whatever the token holds."""
    del dense  # tokens are the words
    words = [token for token in tokens if token.strip()]
    load_lexicon()
    from textblob._text import find_tags

    tagged = find_tags(words, lexicon=load_lexicon())
    return [(word, _clean_tag(word, tag)) for word, tag in tagged]


def _clean_tag(word: str, tag: str) -> str:
    """One plain Penn tag: the first of several, numbers and symbols by their form (the lexicon has 4 as IN)."""
    if _NUMBER.fullmatch(word):
        return "CD"
    tag = tag.split("|")[0]
    if tag not in POS_TAGS:
        tag = "NN"
    if not any(char.isalnum() for char in word):
        return tag if not tag[0].isalpha() or tag == "POS" else "SYM"
    return tag if tag[0].isalpha() else "NN"


def find_entities(tokens: Sequence[str], dense: bool) -> list[tuple[str, str]]:
    """(surface, type) of the entities, each pair once, in order of appearance; surfaces are whole tokens."""
    text = sentence_text(tokens, dense)
    edges = token_boundaries(tokens, dense)
    counted = pattern_pieces(text, _PATTERNS, edges)
    taken = {i for piece in counted for i in range(piece.start, piece.end)}
    words = [word for word in _located(tokens, dense) if word.surface.strip()]
    free = [word if word.start not in taken else word._replace(tag="#") for word in words]
    found = counted + _nationalities(free)
    for start, end in _name_runs(free):
        found.append(_named(text, free, start, end))
    return distinct(found)


def _located(tokens: Sequence[str], dense: bool) -> list[Piece]:
    """Tokens with tag and offsets; white-space tokens have the tag ""."""
    tags = iter(tag_words(tokens, dense))
    pieces, position = [], 0
    for token in tokens:
        tag = next(tags)[1] if token.strip() else ""
        pieces.append(Piece(token, tag, position, position + len(token)))
        position += len(token) + (0 if dense else 1)
    return pieces


def _is_name_word(words: Sequence[Piece], i: int) -> bool:
    """A capitalised word that is not capitalised for its place in the sentence or by habit."""
    word = words[i]
    if word.tag in ("#", "PRP", "PRP$") or not word.surface[0].isupper() or word.surface in NATIONALITIES:
        return False
    if word.surface.lower() in FUNCTION_WORDS:
        return False
    opens = i == 0 or words[i - 1].surface in {".", "!", "?", '"', "``", "''", ":", "“"}
    if not opens:
        return True
    return word.tag in ("NNP", "NNPS") or (i + 1 < len(words) and words[i + 1].tag in ("NNP", "NNPS"))


def _name_runs(words: Sequence[Piece]) -> list[tuple[int, int]]:
    """Half-open word ranges of names; "of", "&" and the like join two parts, a title in front is left out."""
    runs, i = [], 0
    while i < len(words):
        if not _is_name_word(words, i):
            i += 1
            continue
        start, i = i, i + 1
        person = words[start].surface in PERSON_TITLES | FIRST_NAMES
        inner = _INNER - {"of", "&"} if person else _INNER  # John Smith of Acme, but University of York
        while i < len(words):
            if _is_name_word(words, i):
                i += 1
            elif words[i].surface in inner and i + 1 < len(words) and _is_name_word(words, i + 1):
                i += 2
            else:
                break
        while words[start].surface in PERSON_TITLES and i - start > 1:
            start += 1
        runs.append((start, i))
    return runs


def _named(text: str, words: Sequence[Piece], start: int, end: int) -> Piece:
    surface = text[words[start].start : words[end - 1].end]
    before = words[start - 1].surface if start else ""
    kind = name_type([word.surface for word in words[start:end]], before)
    return Piece(surface, kind, words[start].start, words[end - 1].end)


def name_type(parts: Sequence[str], before: str) -> str:
    """What a run of capitalised words names.

    Args:
        parts: the words of the name. before: the word in front of it, "" at the start of the sentence.
    """
    surface, first, last = " ".join(parts), parts[0], parts[-1]
    known = _packaged_names().get(surface.lower(), "")
    if surface in COUNTRIES:
        return "country"
    if before in PERSON_TITLES:
        return "person"
    if known or surface in PLACES:
        return known or "location"
    if last in ORG_HEADS or any(part in ORG_HEADS for part in parts[:-1]):
        return "organization"
    if last in WORK_HEADS:
        return "event"
    if last in LOCATION_HEADS or (first in LOCATION_STARTS and len(parts) > 1):
        return "location"
    if first in FIRST_NAMES or any(_INITIAL.fullmatch(part) for part in parts[:-1]):
        return "person"
    if len(parts) == 1 and first.isupper() and 2 < len(first) < 6:
        return "organization"
    return "location" if before in ("in", "near") else "proper name"


@functools.lru_cache(maxsize=1)
def _packaged_names() -> dict[str, str]:
    """textblob's own list of well-known names: name in small letters -> type."""
    kinds = {"pers": "person", "loc": "location", "org": "organization"}
    entries = [entry for group in load_lexicon().entities.values() for entry in group]  # ["adam", "sandler", "pers"]
    return {" ".join(entry[:-1]): kinds[entry[-1]] for entry in entries if entry[-1] in kinds}


def _nationalities(words: Sequence[Piece]) -> list[Piece]:
    return [word._replace(tag="nationality") for word in words if word.surface in NATIONALITIES and word.tag != "#"]
