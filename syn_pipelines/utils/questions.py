"""Questions to a language model, made out of sentences.

A ``Wording`` is everything in the questions of steps 1 and 3 but the sentences: the prompt, the names it offers, the
demonstrations, what the reply may be. ``explain_question`` makes those of step 2.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from syn_pipelines.utils.demonstrations import Demonstrations, demonstrations
from syn_pipelines.utils.inventories import TargetName, load_inventory, load_target_names
from syn_pipelines.utils.labels import read_target_labels
from syn_pipelines.utils.language import Language
from syn_pipelines.utils.llm import Constraint
from syn_pipelines.utils.options import LabelOptions
from syn_pipelines.utils.paths import RunPaths
from syn_pipelines.utils.prompts import Prompt, load_prompt
from syn_pipelines.utils.records import Record, read_train
from syn_pipelines.utils.source import Source


class Room(NamedTuple):
    """What the token limit of a reply is made of: ``besides``, ``each`` for a token of ``text``, and ``times`` what the
    longest of ``items`` takes (what stands around one word or entity, with each name there is)."""

    text: str
    each: float
    besides: int
    times: int = 0
    items: tuple[str, ...] = ()

    def tokens(self, count: Callable[[str], int]) -> int:
        """The limit, for a model that counts so. ``count`` is asked about the same items for each sentence."""
        escaped = json.dumps(self.text, ensure_ascii=False)[1:-1]  # quotes and line ends are longer in a reply
        return int(self.besides + self.each * count(escaped) + self.times * max(map(count, self.items), default=0))


@dataclass(frozen=True)
class Question:
    """What to ask about one record. ``room``: for the reply. constraint: what the reply may be, None: anything."""

    id: str
    messages: tuple[Mapping[str, str], ...]
    room: Room
    task: str
    record: Mapping[str, Any]
    constraint: Constraint | None = None


class Questions:
    """The questions of a step about the sentences of a file, made anew in each pass over them.

    source: the file. number: how many there are, known after the first whole pass.
    """

    def __init__(self, source: Source, about: Callable[[Record], Iterable[Question]]) -> None:
        """about: the questions about one sentence; their ids are unique."""
        self.source, self._about = source, about
        self.number = 0

    def __iter__(self) -> Iterator[Question]:
        """The questions, in file order. UserError where the file has changed, see ``Source``."""
        number = 0
        for sentence in self.source:
            for question in self._about(sentence):
                number += 1
                yield question
        self.number = number


@dataclass(frozen=True)
class Wording:
    """How a step asks for labels.

    mode: "entity" or "pos". reply_format: "json" or "inline". labels: the names that the prompt offers. listed: their
    text in the prompt. open_labels: own names are allowed too. constrained: replies are held to the sentence.
    """

    mode: str
    language: Language
    prompt: Prompt
    reply_format: str
    labels: tuple[str, ...]
    listed: str
    open_labels: bool
    constrained: bool
    shots: Demonstrations

    @classmethod
    def of(cls, opts: LabelOptions, paths: RunPaths, language: Language, mode: str) -> Wording:
        """What the flags, the prompt files and the data set ask for.

        Raises:
            UserError: a prompt, inventory or label file that is missing or wrong; --shots that cannot be had.
        """
        inline = mode == "pos" and opts.reply_format == "inline"
        task = "pos_inline" if inline else mode
        shots = _shots(opts, paths, language) if mode == "entity" and opts.shots else Demonstrations()
        names = dict.fromkeys(name for shot in shots.shown for name in shot.names)
        labels, listed = load_inventory(task, language.lang).listed(list(names), open_labels=opts.open_labels)
        return cls(mode, language, load_prompt(task, language.lang), "inline" if inline else "json", labels, listed,
                   opts.open_labels, opts.constraint == "grammar", shots)

    def question(self, sentence: Record) -> Question:
        """The question about a sentence."""
        tokens = sentence["text"]
        text = self.language.join(tokens)
        content = self.prompt.render(text, labels=self.listed, shots=self.shots.about(sentence["id"], text))
        constraint = Constraint(self.mode, tuple(tokens), self.language.dense, () if self.open_labels else self.labels,
                                self.reply_format) if self.constrained else None
        return Question(sentence["id"], ({"role": "user", "content": content},), self._room(tokens, text), self.mode,
                        _record(sentence, self.language, []), constraint)

    def _room(self, tokens: Sequence[str], text: str) -> Room:
        words = sum(not token.isspace() for token in tokens)
        if self.mode == "entity":  # entities rarely fill half a text, but may nest
            return Room(text, 2.0, 32, 6 + words // 3, self._items)
        return Room(text, 1.3, 32 if self.reply_format == "inline" else 64, words, self._items)

    @cached_property
    def _items(self) -> tuple[str, ...]:
        """What stands in a reply around one word or entity, for each name."""
        if self.mode == "entity":
            return tuple(_item("entity", "", "type", label) for label in self.labels)
        # Every token can be a word of its own, which takes more tokens than it has in the text: x stands for one more.
        if self.reply_format == "inline":
            return tuple(f"x/{label} " for label in self.labels)
        return tuple(_item("word", "x", "pos", label) for label in self.labels)

    @property
    def prints(self) -> dict[str, str]:
        """For the fingerprint: what shapes the replies besides the prompt file and the sentences."""
        shots = [(shot.text, shot.answer) for shot in self.shots.shown]
        return {"constraint": "grammar" if self.constrained else "none", "reply_format": self.reply_format,
                "labels": f"{'open' if self.open_labels else 'closed'} {_short_hash(self.listed)}",
                "shots": f"{self.shots.number} {_short_hash(repr(shots))}" if shots else "0"}


def notes_on(opts: LabelOptions, mode: str) -> list[str]:
    """What to say of flags that do nothing in this mode."""
    notes = []
    if mode == "pos" and opts.shots:
        notes.append("--shots has no effect with --mode=pos: the gold data has no parts of speech to show.")
    if mode == "entity" and opts.reply_format == "inline":
        notes.append("--reply_format=inline has no effect with --mode=entity: entities may nest.")
    return notes


def target_names(paths: RunPaths) -> dict[str, TargetName]:
    """What prompts call the target labels of the data set, {} where nothing says so.

    Raises:
        UserError: configs/labels/<dataset>.yaml or labels.txt is wrong.
    """
    targets = read_target_labels(paths.labels) if os.path.lexists(paths.labels) else None
    return load_target_names(paths.file_name, targets)


def explain_question(identity: str, sentence: Record, language: Language, prompt: Prompt,
                     names: Mapping[str, TargetName], room: tuple[float, int]) -> Question:
    """The question of step 2 about a sentence: to go on from it and to explain its target entities.

    names: see ``target_names``. room: tokens of the reply for each token of the sentence, and besides.
    """
    text = language.join(sentence["text"])
    listed = dict.fromkeys(f"{language.join(sentence['text'][e['start']:e['end']])} ({names.get(e['entity'], e['entity'])})"
                           for e in sentence["entities"])
    message = {"role": "user", "content": prompt.render(text, "\n".join(listed))}
    return Question(identity, (message,), Room(text, *room), "explain", _record(sentence, language, sentence["entities"]))


def explain_prints(names: Mapping[str, TargetName]) -> dict[str, str]:
    """For the fingerprint of step 2: what the prompts call the target labels."""
    return {"label_names": _short_hash(repr(sorted((k, str(v)) for k, v in names.items()))) if names else "none"}


def _shots(opts: LabelOptions, paths: RunPaths, language: Language) -> Demonstrations:
    gold = Source(paths.train, lambda: read_train(paths, again=True))
    return demonstrations(gold, opts.shots, language, target_names(paths), seed=opts.seed)


def _record(sentence: Record, language: Language, entities: list[Any]) -> dict[str, Any]:
    return {"tokens": sentence["text"], "dense": language.dense, "lang": language.lang, "entities": entities}


def _item(surface_key: str, surface: str, type_key: str, label: str) -> str:
    return json.dumps({surface_key: surface, type_key: label}, ensure_ascii=False) + ", "


def _short_hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]
