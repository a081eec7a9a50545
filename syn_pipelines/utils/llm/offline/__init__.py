"""The embedded default backend: no weights, no GPU, no network. A baseline and a try-out, not a language model.

Chinese: words and tags of jieba, entities from them by rules. English: textblob's lexicon tagger, entities by rules on
capital letters and small word lists. Japanese and Korean: runs of one character class (kanji, hiragana, katakana,
hangul, Latin letters, digits, symbols), which is no word segmentation and claims no names. Explanations are sentence
templates over the types of the target entities.

Replies are a pure function of ``Request.task``, ``Request.record`` and, for explanations with a temperature, of
``Request.seed``; the prompt is not read and ``max_new_tokens`` does not cut, as a reply grows no faster than its
sentence.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from syn_pipelines.utils.errors import UserError
from syn_pipelines.utils.llm import Reply, Request
from syn_pipelines.utils.llm.checkpoints import first_line
from syn_pipelines.utils.llm.offline import en, zh
from syn_pipelines.utils.llm.offline.explain import explain
from syn_pipelines.utils.llm.offline.text import runs, sentence_text, snap_to_tokens, token_boundaries

LANGUAGES = ("zh", "en", "ja", "ko")
TASKS = ("entity", "pos", "explain")
RECORD_FIELDS = ("tokens", "dense", "lang", "entities")
MAX_NOUNS = 6

# Character class -> name of a run; both for the POS items and, where a type is named, for the entity items.
_RUN_NAMES = {
    "ja": {"han": "漢字", "hiragana": "ひらがな", "katakana": "カタカナ", "hangul": "ハングル", "latin": "ラテン文字",
           "digit": "数字", "other": "文字", "symbol": "記号", "blank": ""},
    "ko": {"han": "한자", "hiragana": "히라가나", "katakana": "가타카나", "hangul": "한글", "latin": "로마자",
           "digit": "숫자", "other": "문자", "symbol": "기호", "blank": ""},
}  # fmt: skip
_RUN_TYPES = {
    "ja": {"katakana": "カタカナ語", "latin": "英字語", "digit": "数字"},
    "ko": {"latin": "로마자어", "han": "한자어", "digit": "숫자"},
}

EMITTED_ENTITY_TYPES: dict[str, frozenset[str]] = {
    "zh": zh.ENTITY_TYPES,
    "en": en.ENTITY_TYPES,
    "ja": frozenset(_RUN_TYPES["ja"].values()),
    "ko": frozenset(_RUN_TYPES["ko"].values()),
}
EMITTED_POS_TAGS: dict[str, frozenset[str]] = {
    "zh": zh.POS_TAGS,
    "en": en.POS_TAGS,
    "ja": frozenset(filter(None, _RUN_NAMES["ja"].values())),
    "ko": frozenset(filter(None, _RUN_NAMES["ko"].values())),
}


class OfflineBackend:
    """Answers from taggers and templates; see the module's text. Taggers load on first use."""

    name = "offline"
    model = "offline-v1"  # a change of any reply is a new version: it is part of the fingerprints

    def check(self) -> None:
        """Nothing can be missing but the taggers, which are in the requirements."""

    def count_tokens(self, text: str) -> int:
        """Code points: no model, no tokenizer."""
        return len(text)

    def generate(self, requests: Iterable[Request]) -> Iterator[Reply]:
        """One reply a request, in the order asked, each made when it is fetched.

        Raises:
            UserError: the package that tags this language is not installed.
        """
        for request in requests:
            yield self._answer(request)

    def _answer(self, request: Request) -> Reply:
        problem = _problem(request)
        if problem:
            return Reply(request.id, "", finish_reason="error", error=f"offline backend: {problem}")
        try:
            text = _reply_text(request)
        except UserError:
            raise
        except Exception as exc:  # a tagger may trip over any text; that must cost no more than this sentence
            return Reply(request.id, "", finish_reason="error", error=f"offline backend: {first_line(exc)}")
        return Reply(request.id, text, completion_tokens=self.count_tokens(text))


def _problem(request: Request) -> str:
    """Why this request cannot be answered, "" when it can."""
    if request.task not in TASKS:
        return f"task is {request.task!r}, it answers only {', '.join(TASKS)} and reads no prompt"
    if request.record is None:
        return "the request carries no record"
    absent = [field for field in RECORD_FIELDS if field not in request.record]
    if absent:
        return f"the record lacks {', '.join(absent)}"
    if request.record["lang"] not in LANGUAGES:
        return f"language {request.record['lang']!r}, it knows only {', '.join(LANGUAGES)}"
    return ""


def _reply_text(request: Request) -> str:
    record = request.record or {}
    lang, tokens, dense = record["lang"], record["tokens"], record["dense"]
    if request.task == "explain":
        return explain(record, context_nouns(record), request.seed if request.temperature > 0 else None)
    if request.task == "entity":
        pairs = _entities(lang, tokens, dense)
        return json.dumps([{"entity": surface, "type": kind} for surface, kind in pairs], ensure_ascii=False)
    pairs = _words(lang, tokens, dense)
    return json.dumps([{"word": word, "pos": tag} for word, tag in pairs], ensure_ascii=False)


def _words(lang: str, tokens: Sequence[str], dense: bool) -> list[tuple[str, str]]:
    """(word, raw tag) pairs, left to right, white space left out."""
    if lang == "zh":
        return [(piece.surface, piece.tag) for piece in zh.tag_words(tokens, dense)]
    if lang == "en":
        return en.tag_words(tokens, dense)
    return [(surface, _RUN_NAMES[lang][kind] or _RUN_NAMES[lang]["symbol"]) for surface, kind in _runs(tokens, dense)]


def _entities(lang: str, tokens: Sequence[str], dense: bool) -> list[tuple[str, str]]:
    if lang == "zh":
        return zh.find_entities(tokens, dense)
    if lang == "en":
        return en.find_entities(tokens, dense)
    types = _RUN_TYPES[lang]
    # One letter or one katakana tells nothing; a digit does.
    pairs = [(s, types[kind]) for s, kind in _runs(tokens, dense) if kind in types and (len(s) > 1 or kind == "digit")]
    return list(dict.fromkeys(pairs))


def _runs(tokens: Sequence[str], dense: bool) -> list[tuple[str, str]]:
    words = runs(sentence_text(tokens, dense), char_class)
    pieces = snap_to_tokens(words, token_boundaries(tokens, dense))
    return [(piece.surface, piece.tag) for piece in pieces if piece.surface.strip()]


def char_class(char: str) -> str:
    """Class of one character: han, hiragana, katakana, hangul, latin, digit, blank, symbol or other (other letters)."""
    if char.isspace():
        return "blank"
    if char.isdecimal():
        return "digit"
    if char == "ー":
        return "katakana"
    if unicodedata.category(char)[0] not in "LM" and char not in "々〆〇":
        return "symbol"
    name = unicodedata.name(char, "")
    if name.startswith(("CJK", "IDEOGRAPHIC")):
        return "han"
    words = name.replace("FULLWIDTH ", "").replace("HALFWIDTH ", "").partition(" ")[0].lower()
    return words if words in ("hiragana", "katakana", "hangul", "latin") else "other"


def context_nouns(record: Mapping[str, Any]) -> list[str]:
    """Plain nouns of the sentence, nearest to the first entity first, at most ``MAX_NOUNS``; none for Korean, whose
    words end in particles."""
    lang, tokens, dense = record["lang"], record["tokens"], record["dense"]
    if lang == "ko" or not record["entities"]:
        return []
    words = _words(lang, tokens, dense)
    nouns = [(i, word) for i, (word, tag) in enumerate(words) if _is_plain_noun(lang, word, tag)]
    start = record["entities"][0]["start"] / max(1, len(tokens)) * len(words)
    nearest = sorted(nouns, key=lambda item: (abs(item[0] - start), item[0]))
    return list(dict.fromkeys(word for _, word in nearest))[:MAX_NOUNS]


def _is_plain_noun(lang: str, word: str, tag: str) -> bool:
    if lang == "zh":
        return tag in ("n", "vn") and 2 <= len(word) <= 4 and all(char_class(char) == "han" for char in word)
    if lang == "en":
        return tag in ("NN", "NNS") and len(word) > 3 and word.isascii() and word.isalpha() and word.islower()
    return tag in ("漢字", "カタカナ") and 2 <= len(word) <= 6
