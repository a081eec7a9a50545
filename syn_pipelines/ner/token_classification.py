"""Token-classification checkpoints of the transformers library as NER models: tags in BIO, BIOES, BMES, BILOU or IO form."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from syn_pipelines.ner.data import LabelSet, chunked
from syn_pipelines.ner.decoding import Span
from syn_pipelines.ner.pieces import Splitter, Window, load_tokenizer, loading, positions_of
from syn_pipelines.utils.errors import UserError
from syn_pipelines.utils.labels import OUTSIDE
from syn_pipelines.utils.tags import scheme_of, spans_of_tags, split_tag

log = logging.getLogger(__name__)

ARCHITECTURE = "ForTokenClassification"
_GENERIC = re.compile(r"LABEL_\d+")


class TokenClassifier(nn.Module):
    """One tag a token, that of the token's first piece, and the entities the tags spell. The entities are always flat.

    labels: the entity labels in the order of the tags. The score of an entity is the mean probability of its tags.
    """

    def __init__(self, model: nn.Module, tokenizer, tags: Sequence[str]) -> None:
        """tags: in the order of the model's scores, as ``read_tags`` gives them."""
        super().__init__()
        self.model = model
        self.tags = tuple(tags)
        self.scheme = scheme_of([[tag] for tag in tags])
        self.labels = LabelSet.from_targets(_labels_of(tags, self.scheme))
        # With a blank before each token, as the library reads sentences that are split into words.
        self.splitter = Splitter(tokenizer, positions_of(model.base_model, tokenizer), spaced=True, pooling="first")

    @classmethod
    def load(cls, folder: Path, *, base: str | None = None, device: str = "cpu") -> TokenClassifier:
        """Read a folder that ``save_pretrained`` wrote; the model comes back in eval mode on ``device``.

        Args:
            base: encoder whose tokenizer is used where the folder lacks one.
        Raises:
            UserError: files are missing or broken, or the labels are no tags.
        """
        from transformers import AutoConfig, AutoModelForTokenClassification

        with loading(folder, "token-classification model", "Name the folder of a complete checkpoint."):
            config = AutoConfig.from_pretrained(str(folder), trust_remote_code=False)
            tags = read_tags(config.id2label, folder / "config.json")
            model, loaded = AutoModelForTokenClassification.from_pretrained(
                str(folder), config=config, output_loading_info=True, trust_remote_code=False)
        if missing := loaded["missing_keys"]:  # transformers fills in random numbers and only warns
            raise UserError(f"{folder}: the weights lack {len(missing)} tensors of the model, such as {min(missing)}. "
                            "Name the folder of a complete checkpoint.")
        return cls(model.float(), load_tokenizer(folder, base), tags).to(device).eval()

    def cells(self, length: int) -> int:
        """What the scores of a sentence cost, in the measure of the span model's cells."""
        return length

    @torch.no_grad()
    def predict(self, sentences: Sequence[Sequence[str]]) -> list[list[Span]]:
        """Entities of one batch of sentences (lists of tokens), each list by position; the model goes to eval mode."""
        self.eval()
        best = [[(OUTSIDE, 0.0)] * len(tokens) for tokens in sentences]
        windows = [(k, window) for k, tokens in enumerate(sentences) if tokens for window in self.splitter.prepare(tokens)[1]]
        for chunk in chunked(windows, len(sentences)):
            scores, tags = self._scores([window for _, window in chunk]).max(-1)
            for (k, window), row_tags, row_scores in zip(chunk, tags.tolist(), scores.tolist()):
                for token, tag, score in zip(window.owners, row_tags, row_scores):
                    if token >= 0:
                        best[k][token] = self.tags[tag], score
        return [self._entities(tagged) for tagged in best]

    def _scores(self, windows: Sequence[Window]) -> Tensor:
        """(windows, P, tags) probabilities."""
        pieces, real = (tensor.to(self.model.device) for tensor in self.splitter.pad(windows))
        return self.model(input_ids=pieces, attention_mask=real).logits.float().softmax(-1)

    def _entities(self, tagged: Sequence[tuple[str, float]]) -> list[Span]:
        spans, _ = spans_of_tags([tag for tag, _ in tagged], self.scheme)
        return [Span(start, end, label, sum(score for _, score in tagged[start:end]) / (end - start))
                for start, end, label in spans]


def is_token_classifier(config: Mapping) -> bool:
    """Whether a folder's config.json is that of a token-classification checkpoint."""
    architectures = config.get("architectures")
    return isinstance(architectures, list) and any(str(name).endswith(ARCHITECTURE) for name in architectures)


def read_tags(id2label: Mapping[int, str], source: Path) -> list[str]:
    """The tags in the order of the model's scores.

    A name that is no tag of the scheme, such as ``[PAD]`` or ``X``, becomes ``O`` and is named in the log.

    Raises:
        UserError: the numbers are not 0, 1, ..., the names are generic (``LABEL_0``), or none of them opens an entity.
    """
    names = [str(id2label.get(k, "")) for k in range(len(id2label))]
    if not all(names):
        raise UserError(f"{source}: id2label does not number its labels from 0 to {len(names) - 1}. Copy the file again.")
    if names and all(_GENERIC.fullmatch(name) for name in names):
        raise UserError(f"{source}: the labels have generic names ({names[0]} ... {names[-1]}). "
                        'Write the tags of the training into id2label and label2id, such as "0": "O", "1": "B-PER".')
    scheme = scheme_of([[name] for name in names])
    unknown = [name for name in names if name != OUTSIDE and scheme != "bare" and not split_tag(name)]
    if unknown:
        log.warning("%s: %s are no tags and are read as O", source, ", ".join(unknown))
    tags = [OUTSIDE if name in unknown else name for name in names]
    if not _labels_of(tags, scheme):
        raise UserError(f"{source}: id2label names no entity label ({', '.join(names)}). "
                        "Name a checkpoint that was trained for named entities.")
    return tags


def _labels_of(tags: Sequence[str], scheme: str) -> list[str]:
    """Entity labels in the order of their first tag."""
    names = [tag if scheme == "bare" else split_tag(tag)[1] for tag in tags if tag != OUTSIDE]
    return list(dict.fromkeys(names))
