"""spaCy: folders of DocBin files, ``train/``, ``dev/`` and ``test/``, as ``spacy train --paths.train train`` takes them.

``doc.ents`` holds one label a token, ``doc.spans["sc"]`` (the key that spancat uses) all spans. Tokens and blanks are those
of the data set, so ``doc.text`` is the sentence; ``doc.user_data`` holds the id. A file holds a thousand sentences, for a
DocBin is in memory as a whole.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from syn_pipelines.interchange.flat import flattened
from syn_pipelines.interchange.folder import Folder
from syn_pipelines.interchange.found import Found, identity_of, marks_of, spans_of
from syn_pipelines.interchange.material import Item, Material
from syn_pipelines.utils.errors import UserError
from syn_pipelines.utils.jsonl import Problems

ALL = "sc"
DOCS_A_FILE = 1000
_NEEDED = ("the format spacy needs the package spacy, which cannot be imported here ({error}). Install it with: "
           'pip install ".[spacy]"')


def _spacy() -> tuple[Any, Any, Any]:
    """(Doc, DocBin, Vocab). UserError where spaCy is missing."""
    try:
        from spacy.tokens import Doc, DocBin
        from spacy.vocab import Vocab
    except Exception as err:  # a broken installation fails in its own ways
        raise UserError(_NEEDED.format(error=" ".join(str(err).split())[:200])) from None
    return Doc, DocBin, Vocab


def write(folder: Folder, material: Material, format: str) -> dict[str, Counter[str]]:
    """All splits. Returns the spans that ``doc.ents`` cannot hold, by split and reason."""
    Doc, DocBin, Vocab = _spacy()
    left_out: dict[str, Counter[str]] = {}
    for split in material.files:
        left_out[split], items, number = Counter(), material.items(split), 0
        while docs := list(islice(items, DOCS_A_FILE)):
            number += 1
            vocab = Vocab()  # one that has grown with every word of the data set would be another for each file
            made = DocBin(attrs=["ENT_IOB", "ENT_TYPE"], store_user_data=True,
                          docs=[_doc(Doc, vocab, item, material, left_out[split]) for item in docs])
            with folder.file(f"{split}/{number:05d}.spacy") as file:
                file.write(made.to_bytes())
    return left_out


def _doc(Doc: Any, vocab: Any, item: Item, material: Material, left_out: Counter[str]) -> Any:
    from spacy.tokens import Span

    blanks = [not material.language.dense] * (len(item.tokens) - 1) + [False]
    doc = Doc(vocab, words=item.tokens, spaces=blanks)
    doc.set_ents([Span(doc, *span[:2], label=span[2]) for span in flattened(item.spans, material.targets, left_out)])
    doc.spans[ALL] = [Span(doc, *span[:2], label=span[2]) for span in item.spans]
    doc.user_data.update({"id": item.id, "synthetic": item.synthetic, "source_id": item.source_id,
                          "exported": [list(span) for span in item.spans]})
    return doc


def read(path: Path, problems: Problems) -> Iterator[Found]:
    """Docs of a DocBin file, or of all in a folder; the spans of ``doc.spans["sc"]`` where it is there, else the entities."""
    _, DocBin, Vocab = _spacy()
    files = sorted(path.rglob("*.spacy")) if path.is_dir() else [path]
    if not files:
        raise UserError(f"{path}: holds no .spacy file. Check the path.")
    number = 0
    for file in files:
        try:
            docs = list(DocBin().from_disk(file).get_docs(Vocab()))
        except OSError:
            raise
        except Exception as err:  # whatever unpacking a broken file raises
            raise UserError(f"{file}: is no DocBin file ({' '.join(str(err).split())[:200]}).") from None
        for doc in docs:
            number += 1
            spans = doc.spans[ALL] if ALL in doc.spans else doc.ents
            data = doc.user_data
            exported = data.get("exported")
            try:
                yield Found(number, identity_of(data.get("id"), number), marks_of((s.start, s.end, s.label_) for s in spans),
                            tokens=[token.text for token in doc],
                            exported=spans_of(None if exported is None else [list(span) for span in exported]),
                            synthetic=data.get("synthetic") is True, source_id=identity_of(data.get("source_id")), in_tokens=True)
            except (TypeError, ValueError) as err:
                problems.add(number, str(err))
