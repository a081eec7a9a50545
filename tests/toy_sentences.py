"""Sentences that a model from nothing learns in sixty steps."""

from __future__ import annotations

import random

from syn_pipelines.ner.data import LabelSet, Sentence
from syn_pipelines.ner.metrics import Report, evaluate
from syn_pipelines.ner.train_config import TrainConfig

LABELS = LabelSet(("PER", "LOC"), ("NOUN",), {"NOUN": 20})
PEOPLE, PLACES = ("小明", "张伟", "李红"), ("北京", "上海", "天津")
QUICK = TrainConfig(max_steps=60, batch_size=8, lr=1e-2, progress=False, seed=1)


def toy_set(count: int = 24, *, nested: bool = False, synthetic: bool = False) -> list[Sentence]:
    """ "小明在北京上学": a person, a place, and an extension label on the verb."""
    rng = random.Random(5)
    sentences = []
    for _ in range(count):
        text = rng.choice(PEOPLE) + "在" + rng.choice(PLACES) + rng.choice(["上学", "很好"])
        entities = [(0, 2, "PER"), (3, 5, "LOC"), (5, 7, "NOUN")]
        sentences.append(Sentence(tuple(text), tuple(entities + [(3, 4, "PER")] * nested), synthetic))
    return sentences


def score(model, sentences: list[Sentence]) -> Report:
    """Strict scores of a model's target labels."""
    found = model.predict([s.tokens for s in sentences])
    return evaluate([s.entities for s in sentences], [[(s.start, s.end, s.label) for s in spans] for spans in found],
                    model.labels.targets)
