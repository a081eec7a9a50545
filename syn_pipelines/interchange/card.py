"""The card of an exported Hugging Face data set, made from the manifests of the run: what made each part, and what is known
of its quality. What no manifest tells (licences, who is in the texts) is left as lines to fill in."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from syn_pipelines.interchange.hugging_face import SPLITS, features
from syn_pipelines.interchange.material import MADE_BY, TRAIN, Material
from syn_pipelines.utils.decisions import GOLD, REVIEW, effective
from syn_pipelines.utils.errors import UserError
from syn_pipelines.utils.jsonl import read_json
from syn_pipelines.utils.manifest import read_manifest
from syn_pipelines.utils.paths import MODES, SIZES, RunPaths

TODO = "_To fill in:_"
_SPECIAL = re.compile(r"([\\`*{}\[\]<>#|~!$&]|(?<![^\W_])_|_(?![^\W_]))")  # within a word an underscore is none
_ROWS = 200  # of the table of labels
OFFLINE = "offline"  # the backend that is no language model


def plain(value: Any) -> str:
    """A value as text in Markdown: nothing in it is markup, HTML or the end of a line."""
    text = "".join(char if char.isprintable() else " " for char in str(value))
    return _SPECIAL.sub(r"\\\1", " ".join(text.split())).replace("\\<", "&lt;").replace("\\&", "&amp;")


def card(material: Material, paths: RunPaths) -> str:
    """The text of README.md: its head for programs, then for people."""
    body = [f"# {plain(material.name)}", "", *_about(material), "", "## What is in it", "", *_contents(material), "",
            "## What made it", "", *_made(material, paths), "", "## Labels", "", *_labels(material), "",
            "## How it was evaluated", "", *_evaluated(paths), "", "## Known limits", "", *_limits(material, paths), "",
            "## Licences", "", *_licences(material, paths), "", "## Use", "", *_use(), ""]
    return _head(material) + "\n".join(body)


def _head(material: Material) -> str:
    import yaml

    total = sum(census.sentences for census in material.census.values())
    files = [{"split": SPLITS[split], "path": f"data/{SPLITS[split]}.jsonl"} for split in material.files]
    head = {
        "language": [material.language.lang], "license": "unknown", "pretty_name": material.name,
        "task_categories": ["token-classification"], "task_ids": ["named-entity-recognition"],
        "size_categories": [_size_category(total)],
        "tags": ["named-entity-recognition", *(["synthetic"] if any(c.synthetic for c in material.census.values()) else [])],
        "configs": [{"config_name": "default", "data_files": files}],
        "dataset_info": {"features": features(material)},
    }
    return f"---\n{yaml.safe_dump(head, allow_unicode=True, sort_keys=False, width=1000)}---\n\n"


def _size_category(total: int) -> str:
    bounds = ((1000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
    return next((name for bound, name in bounds if total < bound), "n>1M")


def _about(material: Material) -> Iterator[str]:
    census = material.census[TRAIN]
    original = census.sentences - census.synthetic
    yield (f"Sentences with named entities, {census.sentences:,} to train on. {original:,} are from the data set that it was "
           "grown from" + (f", {census.synthetic:,} were generated." if census.synthetic else "."))
    yield ""
    if material.chosen != "target" and material.extension:
        yield ("Beside the labels of that data set (`kind: target`) there are generated extension labels (`kind: extension`): "
               "more types of entities, and words with their parts of speech.")
        yield ""
    yield f"{TODO} where the sentences are from, and what they are meant for."


def _contents(material: Material) -> Iterator[str]:
    yield from _table(("split", "sentences", "of them synthetic", "tokens", "spans", "sentences with spans"),
                      ([SPLITS[split], *(f"{n:,}" for n in (c.sentences, c.synthetic, c.tokens, c.chosen, c.with_spans))]
                       for split, c in material.census.items()))
    yield ""
    joined = "joined without blanks" if material.language.dense else "with a blank between"
    yield (f"`tokens` are the words or characters of a sentence, `text` is them {joined}. `entities` are all spans, which may "
           "nest: `start` and `end` count tokens, `start_char` and `end_char` code points, the end is exclusive. `ner_tags` hold "
           "what one label a token can hold: target labels first, then the outermost span. `synthetic` sentences have the "
           "sentence they were written from in `source_id`.")


def _made(material: Material, paths: RunPaths) -> Iterator[str]:
    """A row a part: by what, from what prompt, and how many replies could be used."""
    rows = [("original sentences, target labels", *_source(paths))]
    if material.kind != "gold":
        rows += [(f"extension labels ({m}) of the original sentences", *_asked(paths.annotation(m, False))) for m in MODES]
    if material.census[TRAIN].synthetic:
        rows.append(("synthetic sentences", *_asked(paths.synthetic)))
        rows += [(f"extension labels ({m}) of the synthetic sentences", *_asked(paths.annotation(m, True))) for m in MODES]
        rows.append(("target labels of the synthetic sentences", *_predicted(paths, material.size)))
    yield from _table(("part", "made by", "how", "what came of it"), ([plain(cell) for cell in row] for row in rows))


def _source(paths: RunPaths) -> tuple[str, str, str]:
    manifest = read_manifest(paths.train)
    if not manifest:
        return "people", "no record of how", ""
    names = ", ".join(Path(name).name for name in manifest["inputs"])
    return "people", f"from {names or 'files'}", f"{manifest.get('counts', {}).get('sentences', 0):,} sentences"


def _asked(path: Path) -> tuple[str, str, str]:
    """What a manifest tells of a step that asked a language model."""
    manifest = read_manifest(path)
    mark = manifest.get("fingerprint", {})
    if not mark:
        return "no record", "", ""
    model = str(mark.get("model", "?"))
    model = Path(model).name if model.startswith(("/", ".", "~")) else model  # a folder of this machine tells others nothing
    how = [f"prompt {mark.get('prompt', '?')} ({str(mark.get('prompt_sha256', ''))[:12]})"]
    shaping = ("constraint", "temperature", "top_p", "seed", "shots", "labels")
    how += [f"{name} {mark[name]}" for name in shaping if name in mark]
    counts = manifest.get("counts", {})
    told = [f"{value:,} {key}" for key, value in counts.items() if isinstance(value, int)]
    told += [f"{value:,} {key}" for name in ("replies", "dropped") if isinstance(counts.get(name), Mapping)
             for key, value in counts[name].items() if isinstance(value, int)]
    made_by = "word lists and templates" if mark.get("backend") == OFFLINE else model
    return f"{made_by} ({mark.get('backend', '?')})", ", ".join(how), "; ".join(text.replace("_", " ") for text in told)


def _predicted(paths: RunPaths, size: int) -> tuple[str, str, str]:
    manifest = read_manifest(paths.sized(size, "train_{n}_synthetic_target"))
    if not manifest:
        return "no record", "", ""
    given = manifest.get("settings", {}).get("model_from_pretrained")
    model = read_manifest(paths.ner("fusion", size) / "model.safetensors")
    encoder = model.get("settings", {}).get("from_pretrained", "?")
    how = f"model {Path(str(given)).name}" if given else f"trained on fusion, size {size}, encoder {Path(str(encoder)).name}"
    score = f"dev F1 {model['dev_f1']}" if not given and isinstance(model.get("dev_f1"), float) else ""
    return "an NER model", how, ", ".join(filter(None, [score, f"{manifest.get('counts', {}).get('entities', 0):,} entities"]))


def _labels(material: Material) -> Iterator[str]:
    train = material.census[TRAIN]
    held_out = [(split, census) for split, census in material.census.items() if split != TRAIN]
    rows = ([plain(label), "target" if label in material.targets else "extension",
             *(f"{n:,}" for n in (train.spans[label] - train.of_synthetic[label], train.of_synthetic[label])),
             *(f"{census.spans[label]:,}" for _, census in held_out)] for label in material.labels[:_ROWS])
    yield from _table(("label", "kind", "train, original", "train, synthetic", *(SPLITS[split] for split, _ in held_out)), rows)
    if len(material.labels) > _ROWS:
        yield f"\n{len(material.labels) - _ROWS:,} more extension labels are in the head of this file, under `ner_tags`."


def _evaluated(paths: RunPaths) -> Iterator[str]:
    rows = list(_ablation(paths))
    if rows:
        yield "An NER model was trained on each set; strict F1 in percent (start, end and label right), mean over the seeds:"
        yield ""
        yield from _table(("training set", "size", "seeds", "dev F1", "test F1"), rows)
        return
    scores = [(kind, size, read_manifest(paths.ner(kind, size) / "model.safetensors").get("dev_f1"))
              for kind in ("gold", "fusion", "syn_fusion") for size in SIZES]
    rows = [[kind, str(size), f"{score:.1f}"] for kind, size, score in scores if isinstance(score, (int, float))]
    if rows:
        yield "NER models trained on it; strict F1 on dev in percent, which also chose their weights:"
        yield ""
        yield from _table(("training set", "size", "dev F1"), rows)
    else:
        yield f"No training on this data is on record. {TODO} scores, and on which data."


def _ablation(paths: RunPaths) -> Iterator[list[str]]:
    """Mean scores by training set and size, as far as ablation.json tells them."""
    try:
        content = read_json(paths.run / "ablation" / "ablation.json", strict=False)
        groups: dict[tuple[str, int], list[Mapping[str, Any]]] = {}
        for row in content["rows"]:
            if not row.get("dropped"):
                groups.setdefault((str(row["train"]), int(row["size"])), []).append(row)
    except (UserError, AttributeError, KeyError, TypeError, ValueError):
        return
    order = list(MADE_BY)
    for (train, size), found in sorted(groups.items(), key=lambda g: (g[0][1], g[0][0] not in order, [*order, g[0][0]].index(g[0][0]))):
        yield [plain(train), str(size), str(len(found)), _mean(found, "dev_f1"), _mean(found, "test_f1")]


def _mean(rows: Sequence[Mapping[str, Any]], name: str) -> str:
    values = [row.get(name) for row in rows]
    numbers = [value for value in values if isinstance(value, (int, float)) and math.isfinite(value)]
    return f"{sum(numbers) / len(numbers):.1f}" if numbers and len(numbers) == len(values) else "-"


def _limits(material: Material, paths: RunPaths) -> Iterator[str]:
    census = material.census[TRAIN]
    if material.chosen != "target" and material.extension:
        yield "- Extension labels are generated, and found again in the text; people have not checked them, but for what is said below."
        yield from _lost(material, paths)
    if census.synthetic:
        yield ("- Synthetic sentences are generated: what they say may be untrue, and they repeat the habits of what wrote them. "
               "Their target labels are the guesses of an NER model.")
    if any(read_manifest(path).get("fingerprint", {}).get("backend") == OFFLINE for path in _generated(material, paths)):
        yield "- The offline backend is no language model: its labels are from word lists, its sentences from templates."
    yield "- Sentences that stand in several splits make scores too good; step 0 warns of them."
    yield f"- {_reviewed(paths)}"
    yield f"- {TODO} personal data, offensive content, and what the texts do not cover."


def _lost(material: Material, paths: RunPaths) -> Iterator[str]:
    """What of the replies could not be found in the text, by the files that were merged."""
    for half in ["fusion"] + ["synthetic_fusion"] * bool(material.census[TRAIN].synthetic):
        counts = read_manifest(paths.sized(material.size, f"train_{{n}}_{half}")).get("counts", {})
        items, placed = counts.get("items"), counts.get("placed")
        if isinstance(items, Mapping) and isinstance(placed, Mapping) and (total := sum(items.values())):
            which = "synthetic" if half == "synthetic_fusion" else "original"
            yield (f"- {total - sum(placed.values()):,} of {total:,} generated labels of the {which} sentences were not found in "
                   "the text and are left out.")


def _generated(material: Material, paths: RunPaths) -> list[Path]:
    """The files whose content was generated."""
    synthetic = bool(material.census[TRAIN].synthetic)
    halves = ([] if material.kind == "gold" else [False]) + [True] * synthetic
    return [paths.annotation(mode, half) for half in halves for mode in MODES] + [paths.synthetic] * synthetic


def _reviewed(paths: RunPaths) -> str:
    counts = {}
    for name in (REVIEW, GOLD):
        try:
            counts[name] = len(effective(paths.run / name))
        except UserError:  # its reader tells; a card can do without
            counts[name] = 0
    if not any(counts.values()):
        return "No decisions of reviewers are on record: nobody has looked at a sample of these labels with the tool."
    return (f"People have decided about {counts[REVIEW]:,} spans ({REVIEW}) and {counts[GOLD]:,} gold labels ({GOLD}); the rest "
            "was not looked at.")


def _licences(material: Material, paths: RunPaths) -> Iterator[str]:
    yield f"- {TODO} licence of this data set (then set `license` in the head of this file)."
    yield f"- {TODO} licence of the original sentences."
    for model in sorted({_asked(path)[0] for path in _generated(material, paths)} - {"no record"}):
        yield f"- {TODO} what the licence of {plain(model)} says of what it generates."


def _use() -> Iterator[str]:
    yield from ("```python", "from datasets import load_dataset", "", 'data = load_dataset("path/to/this/folder")',
                'print(data["train"][0]["entities"])', "```")


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """A Markdown table; cells must be escaped."""
    yield f"| {' | '.join(head)} |"
    yield f"| {' | '.join('---' for _ in head)} |"
    for row in rows:
        yield f"| {' | '.join(row)} |"
