"""The hundred fixed sentences of the LLM benchmark, and the requests that steps 1 and 3 would make of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from syn_pipelines.utils.language import Language
from syn_pipelines.utils.llm import Request
from syn_pipelines.utils.options import LabelOptions
from syn_pipelines.utils.paths import RunPaths
from syn_pipelines.utils.questions import Wording

MODES = ("entity", "pos")
LANGUAGES = (Language(dense=True, lang="zh"), Language(dense=False, lang="en"))
_FILE = Path(__file__).with_suffix(".jsonl")


@dataclass(frozen=True)
class Sentence:
    """id: unique. text: 5 to 120 characters; tokens: characters where the language is dense, else split at blanks."""

    id: str
    text: str
    language: Language

    @property
    def tokens(self) -> list[str]:
        """As a data set would hold them."""
        return list(self.text) if self.language.dense else self.text.split(" ")


def load_sentences(count: int = 100) -> list[Sentence]:
    """The first ``count`` of the sentences, three Chinese ones for two English ones; more than there are: over again."""
    languages = {language.lang: language for language in LANGUAGES}
    rows = [json.loads(line) for line in _FILE.read_text(encoding="utf-8").splitlines()]
    chosen = [(rows[i % len(rows)], i // len(rows)) for i in range(count)]
    return [Sentence(f"{row['id']}.{again}" if again else row["id"], row["text"], languages[row["lang"]])
            for row, again in chosen]


def requests_of(mode: str, sentences: list[Sentence], count_tokens: Callable[[str], int]) -> list[list[Request]]:
    """One list a language, as a data set has one language. The questions are the project's own, greedy."""
    count = lru_cache(maxsize=1024)(count_tokens)  # the names are counted for every sentence
    groups = []
    for language in LANGUAGES:
        wording = _wording(mode, language)
        groups.append([_request(wording, sentence, count) for sentence in sentences if sentence.language is language])
    return [group for group in groups if group]


def training_texts(sentences: list[Sentence]) -> Iterator[str]:
    """What a tokenizer for these requests is trained on: every sentence, instruction and list of names once."""
    yield from (sentence.text for sentence in sentences)
    for mode in MODES:
        for language in LANGUAGES:
            wording = _wording(mode, language)
            yield from (wording.prompt.text, wording.listed)


def _wording(mode: str, language: Language) -> Wording:
    opts = LabelOptions()
    # The paths lead to demonstrations only, and there are none by default.
    return Wording.of(opts, RunPaths(Path(opts.file_dir), opts.file_name, opts.save_type_name), language, mode)


def _request(wording: Wording, sentence: Sentence, count_tokens: Callable[[str], int]) -> Request:
    question = wording.question({"id": sentence.id, "text": sentence.tokens, "entities": []})
    return Request(question.id, question.messages, question.room.tokens(count_tokens), constraint=question.constraint)
