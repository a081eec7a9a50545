"""What speaks against the labels of a sentence: places where the language model, the NER model and gold disagree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from syn_pipelines.utils.spans import FOLDED, Grounder

# How much a doubt counts. A label that nobody else sees is more often wrong than one whose edges are seen otherwise.
UNSEEN, EDGES, INEXACT = 1.0, 0.5, 0.5
_CONFIDENCES = ("score", "confidence", "probability")  # what other programs call it


@dataclass(frozen=True)
class Doubt:
    """A reason to look at the tokens [start, end), and its weight (above 0)."""

    start: int
    end: int
    text: str
    weight: float


def doubts_of(tokens: Sequence[str], entities: Sequence[Mapping[str, Any]], items: Sequence[Mapping[str, str]] | None, *,
              synthetic: bool, dense: bool) -> list[Doubt]:
    """Reasons for doubt in one sentence, in the order of the text.

    Args:
        entities: gold ones, of a synthetic sentence those that the NER model predicted.
        items: what the language model named as entities; None: it was not asked or gave nothing usable, which is no
            disagreement.
    """
    who = "the NER model says" if synthetic else "gold says"
    result = [Doubt(e["start"], e["end"], f"{who} {e['entity']}, with a confidence of {value:.0%}", 1 - value)
              for e in entities if (value := _confidence(e)) is not None and value < 1]
    if items is not None:
        grounder = Grounder(tokens, dense)
        places = [(item, *grounder.find(item["entity"])) for item in items]
        named = {span for _, spans, _ in places for span in spans}
        for item, spans, how in places:
            result += [Doubt(*span, f"“{item['entity'][:60]}” of the LLM was found by loose comparison only", INEXACT)
                       for span in spans if how == FOLDED]
        for start, end, label in dict.fromkeys((e["start"], e["end"], e["entity"]) for e in entities):
            if not any(s < end and start < e for s, e in named):
                result.append(Doubt(start, end, f"{who} {label}, the LLM names no entity there", UNSEEN))
            elif (start, end) not in named:
                result.append(Doubt(start, end, f"{who} {label}, the LLM sees other edges", EDGES))
    return sorted(result, key=lambda doubt: (doubt.start, doubt.end, doubt.text))


def _confidence(entity: Mapping[str, Any]) -> float | None:
    value = next((entity[name] for name in _CONFIDENCES if name in entity), None)
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 1 else None
