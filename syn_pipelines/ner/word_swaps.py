"""Training sentences with words and mentions exchanged for others that were labelled alike; no torch here.

The labels say where the words of a sentence are and of which kind, so a word can give its place to another word of its
kind: the sentence stays well formed, its labels stay right, and its characters are new. Dai and Adel (COLING 2020,
arXiv 2010.11683) measured this for mentions and for single tokens. Extension labels add two things:

- The words around the entities can be exchanged, for they have labels, too.
- An extension label that often means one target label (a PERSON that is a PER.NAM) lends its words to the
  mentions of that target label, also those that no annotator marked.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from functools import cache

from syn_pipelines.ner.data import Entity, Sentence

Kind = frozenset[str]
Span = tuple[int, int]

# An extension label stands for a target label when at least this share of its spans, and this many, carry that one.
STANDS_FOR, FEWEST = 0.3, 5
# How often a mention with such an extension label is exchanged for one of its words, not for a mention of the target's.
LENT = 0.5


class WordSwaps:
    """Which words and mentions may stand for which, learned from the training sentences.

    Words are spans with extension labels only; a word's kind is the set of its labels. Words that are a target entity
    anywhere in the data are put nowhere else, where they would be taught as "no entity"; a part of one may be. All stand in
    their pools as often as they occur, with the entities inside them.
    """

    def __init__(self, sentences: Sequence[Sentence], targets: Iterable[str]) -> None:
        self.targets = frozenset(targets)
        self.words: dict[Kind, list[Sentence]] = defaultdict(list)
        self.mentions: dict[str, list[Sentence]] = defaultdict(list)
        self.lent: dict[str, list[Sentence]] = defaultdict(list)
        named = {s.tokens[start:end] for s in sentences for start, end, label in s.entities if label in self.targets}
        for sentence in sentences:
            for (start, end), kind in labels_by_span(sentence).items():
                snippet = cut_out(sentence, start, end)
                for label in sorted(kind):
                    (self.mentions if label in self.targets else self.lent)[label].append(snippet)
                if snippet.tokens not in named:
                    self.words[kind].append(snippet)
        self.stands_for = _stands_for(sentences, self.targets)
        self.units = cache(self._units)  # the same sentences come again in each epoch

    def vary(self, sentence: Sentence, share: float, rng: random.Random) -> Sentence:
        """A copy in which each mention and each word was exchanged with probability ``share``.

        Of overlapping ones mentions go first, then longer ones.
        """
        swaps = []
        for (start, end), kind in self.units(sentence):
            if rng.random() < share:
                swaps.append((start, end, self._other(kind, rng)))
        return replace(sentence, [swap for swap in swaps if swap[2] is not None])

    def _units(self, sentence: Sentence) -> list[tuple[Span, Kind]]:
        """Mentions and words without overlap, by position."""
        free = [True] * len(sentence.tokens)
        units = []
        spans = labels_by_span(sentence)
        for (start, end), kind in sorted(spans.items(), key=lambda unit: (
                self.targets.isdisjoint(unit[1]), unit[0][0] - unit[0][1], unit[0][0])):
            if all(free[start:end]):
                free[start:end] = [False] * (end - start)
                units.append(((start, end), kind))
        return sorted(units, key=lambda unit: unit[0])

    def _other(self, kind: Kind, rng: random.Random) -> Sentence | None:
        """What may stand in the place of a span with these labels; None when nothing may."""
        targets = sorted(kind & self.targets)
        if not targets:
            pool = self.words.get(kind)
            return rng.choice(pool) if pool else None
        if len(targets) > 1:
            return None  # a mention with two labels has no equal
        lenders = [label for label in sorted(kind - self.targets) if targets[0] in self.stands_for.get(label, ())]
        if lenders and rng.random() < LENT:
            word = rng.choice(self.lent[rng.choice(lenders)])
            return _relabelled(word, targets[0], self.targets)
        return rng.choice(self.mentions[targets[0]])


def labels_by_span(sentence: Sentence) -> dict[Span, Kind]:
    """The labels of each labelled span."""
    kinds: dict[Span, set[str]] = defaultdict(set)
    for start, end, label in sentence.entities:
        kinds[start, end].add(label)
    return {span: frozenset(kind) for span, kind in kinds.items()}


def cut_out(sentence: Sentence, start: int, end: int) -> Sentence:
    """The tokens from ``start`` to ``end`` with the entities that lie within them."""
    inside = tuple((a - start, b - start, label) for a, b, label in sentence.entities if start <= a and b <= end)
    return Sentence(sentence.tokens[start:end], inside, sentence.synthetic)


def replace(sentence: Sentence, swaps: Sequence[tuple[int, int, Sentence]]) -> Sentence:
    """Put other words in the place of some spans.

    Args:
        swaps: (start, end, new words) by position, without overlap.
    Returns:
        the sentence with its other tokens as they were, and the entities of the new words in place of those within the
        replaced spans. Entities that hold a replaced span move with it; those across its borders are dropped, as nobody
        knows where they end now.
    """
    tokens: list[str] = []
    entities: list[Entity] = []
    moved = {}  # old boundary -> new one; boundaries inside a replaced span have none
    done = 0
    for start, end, new in [*swaps, (len(sentence.tokens), len(sentence.tokens), Sentence(()))]:
        for old in range(done, start):
            moved[old] = len(tokens)
            tokens.append(sentence.tokens[old])
        moved[start] = len(tokens)
        entities += ((a + len(tokens), b + len(tokens), label) for a, b, label in new.entities)
        tokens += new.tokens
        moved[end] = len(tokens)
        done = end
    entities += _kept(sentence.entities, swaps, moved)
    return Sentence(tuple(tokens), tuple(dict.fromkeys(entities)), sentence.synthetic)


def _kept(entities: Iterable[Entity], swaps: Sequence[tuple[int, int, Sentence]], moved: dict[int, int]) -> Iterator[Entity]:
    gone = {place: (start, end) for start, end, _ in swaps for place in range(start, end)}
    for start, end, label in entities:
        first, last = gone.get(start), gone.get(end - 1)
        within = first is not None and first == last and first[0] <= start and end <= first[1]
        if not within and start in moved and end in moved:
            yield moved[start], moved[end], label


def _relabelled(word: Sentence, target: str, targets: frozenset[str]) -> Sentence:
    """The word as a mention of the target label, whatever target label it had."""
    others = tuple(entity for entity in word.entities if entity[2] not in targets)
    return Sentence(word.tokens, ((0, len(word.tokens), target), *others), word.synthetic)


def _stands_for(sentences: Iterable[Sentence], targets: frozenset[str]) -> dict[str, set[str]]:
    """The target labels that an extension label often means; see ``STANDS_FOR``."""
    spans, shared = Counter(), Counter()
    for sentence in sentences:
        for kind in labels_by_span(sentence).values():
            for label in kind - targets:
                spans[label] += 1
                shared.update((label, target) for target in kind & targets)
    found: dict[str, set[str]] = defaultdict(set)
    for (label, target), count in shared.items():
        if count >= max(FEWEST, STANDS_FOR * spans[label]):
            found[label].add(target)
    return dict(found)
