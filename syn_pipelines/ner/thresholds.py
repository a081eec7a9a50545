"""The probability that a span needs to count as an entity, chosen on dev data."""

from __future__ import annotations

from collections.abc import Sequence

from syn_pipelines.ner.data import Sentence
from syn_pipelines.ner.metrics import Report, evaluate
from syn_pipelines.ner.model import NerModel
from syn_pipelines.ner.prediction import predict_stream
from syn_pipelines.ner.team import Team

# A training on few sentences ends with a model that is too careful at 0.5, so dev data choose among these.
THRESHOLDS = tuple(k / 20 for k in range(4, 13))


def choose_threshold(
    model: NerModel, sentences: Sequence[Sentence], batch_size: int, team: Team
) -> tuple[float, Report]:
    """The threshold of ``THRESHOLDS`` with the highest F1 on these sentences (of equals the nearest to 0.5), and its scores.

    Spans are decoded once, at the lowest: of two that clash the higher score stays, so leaving out those below a higher
    threshold afterwards gives what decoding at that one gives.
    """
    before, model.threshold = model.threshold, min(THRESHOLDS)
    found = _predicted(model, sentences, batch_size, team)
    model.threshold = before
    gold, labels = [s.entities for s in sentences], model.labels.targets
    reports = {t: evaluate(gold, [[span[:3] for span in spans if span[3] > t] for spans in found], labels)
               for t in THRESHOLDS}
    best = max(THRESHOLDS, key=lambda t: (reports[t].micro.f1, -abs(t - 0.5)))
    return best, reports[best]


def _predicted(model: NerModel, sentences: Sequence[Sentence], batch_size: int, team: Team) -> list[list[tuple]]:
    """(start, end, label, score) of the entities found in each sentence."""
    predicted = predict_stream(model, (s.tokens for s in team.share(sentences)), batch_size)
    return team.gather([[(span.start, span.end, span.label, span.score) for span in spans] for spans in predicted])
