"""The formats by name."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType

from syn_pipelines.interchange import argilla, conll, doccano, hugging_face, label_studio, spacy_docs
from syn_pipelines.interchange.offsets import CODE_POINTS, UTF16


@dataclass(frozen=True)
class Format:
    """module: has ``write(folder, material, format)`` and ``read(path, problems)``. held_out: dev and test are exported, too.

    file: the one to name on the way back, in the exported folder. load: how the tool reads it. unit: what its offsets
    count. flat: what can hold one label a token only, "" when nothing does. counts_offsets: its offsets could count
    otherwise. page: what its page counts, where that is something else. holds_all: every span is somewhere in its files. tells_exported: so is
    which spans were sent out.
    """

    module: ModuleType
    held_out: bool
    file: str
    load: str
    unit: str = CODE_POINTS
    flat: str = ""
    counts_offsets: bool = False
    page: str = ""
    holds_all: bool = True
    tells_exported: bool = True


FORMATS = {
    "conll": Format(conll, True, "train.conll", "any reader of columns: token, tab, tag (BIO)", flat="the tags", holds_all=False),
    "bioes": Format(conll, True, "train.conll", "any reader of columns: token, tab, tag (BIOES)", flat="the tags",
                    holds_all=False),
    "label-studio": Format(label_studio, False, "tasks.json",
                           "Settings, Labeling Interface, Code: label_config.xml; then Import: tasks.json", counts_offsets=True),
    "doccano": Format(doccano, False, "train.jsonl",
                      "a Sequence Labeling project with overlapping allowed; Labels, Import: labels.json; Dataset, Import, "
                      "JSONL: train.jsonl", UTF16, counts_offsets=True),
    "argilla": Format(argilla, False, "records.json", "rg.Dataset.from_disk({folder!r}, client=client)", counts_offsets=True,
                      page=UTF16),
    "hf": Format(hugging_face, True, "", "datasets.load_dataset({folder!r})", flat="ner_tags (but in entities)",
                 tells_exported=False),
    "spacy": Format(spacy_docs, True, "train", "spacy train config.cfg --paths.train {folder}/train --paths.dev {folder}/dev",
                    flat='doc.ents (but in doc.spans["sc"])', tells_exported=False),
}
