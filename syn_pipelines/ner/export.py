"""A model as a folder to hand on: the model folder with a card beside it that says what it is and how to load it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from syn_pipelines.ner.model import NerModel

_CARD = """---
library_name: syn_pipelines
pipeline_tag: token-classification
tags:
- named-entity-recognition
- knowfree
---

# {name}

A model for named entities: an encoder ({encoder}) and the span head of KnowFREE (EMNLP 2025, arXiv 2501.19093).
{overlaps}

It finds: {targets}.
{extensions}{scores}
## Use

```python
from syn_pipelines.ner.prediction import NerPredictor

predictor = NerPredictor.from_pretrained({quoted})  # this folder
for spans in predictor([{example}]):
    print([(span.start, span.end, span.label, round(span.score, 3)) for span in spans])
```

A sentence is a list of tokens. Offsets count tokens, the end is exclusive; a span needs a probability above {threshold}.
"""
_OVERLAPS = {
    "flat": "Entities do not overlap.",
    "nested": "An entity may lie inside another.",
    "multilabel": "An entity may lie inside another and carry several labels.",
}


def export_hf(model: NerModel, folder: str | Path, *, scores: Mapping[str, float] | None = None) -> Path:
    """Write a folder that ``NerPredictor.from_pretrained(folder)`` loads without anything else, with a model card.

    Args:
        folder: a new one, or one that holds a model already, which is replaced.
        scores: figures by name for the card, such as ``{"dev F1": 71.3}``.
    Raises:
        UserError: ``folder`` holds something other than a model.
    """
    from syn_pipelines.ner.storage import save_model

    folder = Path(folder)
    return save_model(model, folder, card=model_card(model, folder.resolve().name, scores or {}))


def model_card(model: NerModel, name: str, scores: Mapping[str, float]) -> str:
    """The README.md of a model: labels, how to load it, and the scores that are given."""
    encoder = getattr(model.encoder, "encoder", None)
    targets, extensions = model.labels.targets, model.labels.extensions
    return _CARD.format(
        name=name, quoted=json.dumps(name, ensure_ascii=False), targets=_listed(targets),
        overlaps=_OVERLAPS[model.decode], threshold=model.threshold,
        encoder=encoder.config.model_type if encoder is not None else "trained from nothing",
        extensions=f"Learned beside them, never predicted: {_listed(extensions)}.\n" if extensions else "",
        scores="\n" + "".join(f"- {what}: {value:g}\n" for what, value in scores.items()) if scores else "",
        example='["John", "lives", "in", "Rome"]' if _spaced(model) else 'list("小明住在北京")',
    )


def _spaced(model: NerModel) -> bool:
    splitter = getattr(model.encoder, "splitter", None)
    return splitter.spaced if splitter is not None else "lower" in model.encoder.vocabulary.columns


def _listed(names: Sequence[str]) -> str:
    return ", ".join(f"`` {name} ``" if "`" in name else f"`{name}`" for name in names)
