"""How many characters and tokens the language model reads and writes for each sentence of a run: the arithmetic of docs/scaling.md.

The prompts are made again and the replies are the stored ones of the run. Tokens are those of a byte-level BPE trained on these
texts in which no token is longer than one Chinese character: rather more than a model's own vocabulary needs. The true numbers
of a model that was really asked stand in the run's run.log.jsonl, under "usage".

run     python benchmarks/scale_tokens.py --file_dir data/few_shot --file_name weibo --save_type_name GLM4
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

from syn_pipelines.utils.jsonl import Problems, read_objects
from syn_pipelines.utils.language import Language
from syn_pipelines.utils.manifest import read_manifest
from syn_pipelines.utils.options import LabelOptions
from syn_pipelines.utils.paths import MODES, RunPaths
from syn_pipelines.utils.prompts import load_prompt
from syn_pipelines.utils.questions import Wording, explain_question, target_names
from syn_pipelines.utils.records import read_sentences, read_train
from syn_pipelines.utils.stored_replies import journal_path

VOCABULARY = 16_000
Texts = dict[str, list[str]]


def prompts_of(paths: RunPaths, language: Language) -> Texts:
    """By kind of question its prompts."""
    original = list(read_train(paths, again=True))
    synthetic = list(read_sentences(paths.synthetic, again=True))
    found = {}
    for mode in MODES:
        wording = Wording.of(LabelOptions(), paths, language, mode)
        for name, sentences in ((f"s1 {mode}", original), (f"s3 {mode}", synthetic)):
            found[name] = [wording.question(sentence).messages[-1]["content"] for sentence in sentences]
    prompt, names = load_prompt("explain", language.lang), target_names(paths)
    found["s2"] = [explain_question(row["id"], row, language, prompt, names, (0, 0)).messages[-1]["content"]
                   for row in original if row["entities"]]
    return {name: found[name] for name in ("s1 entity", "s1 pos", "s2", "s3 entity", "s3 pos")}


def replies_of(paths: RunPaths, name: str) -> list[str]:
    """The stored replies to a kind of question."""
    step, _, mode = name.partition(" ")
    output = paths.annotation(mode, step == "s3") if mode else paths.synthetic
    path = journal_path(paths, output)
    return [row["text"] for number, row in read_objects(path, Problems(path, "")) if number > 1]


def figures(prompts: Texts, replies: Texts) -> Iterator[dict[str, Any]]:
    """Means of each kind of question."""
    tokenizer = _tokenizer(text for group in (*prompts.values(), *replies.values()) for text in group)

    def mean(texts: Sequence[str], tokens: bool) -> float:
        lengths = [len(one.ids) for one in tokenizer.encode_batch(list(texts))] if tokens else map(len, texts)
        return round(sum(lengths) / max(len(texts), 1), 1)

    for name in prompts:
        shared = len(tokenizer.encode(_beginning(prompts[name])).ids)
        yield {"questions": name, "number": len(prompts[name]), "prompt_characters": mean(prompts[name], False),
               "prompt_tokens": mean(prompts[name], True), "shared_tokens": shared,
               "reply_characters": mean(replies[name], False), "reply_tokens": mean(replies[name], True)}


def _tokenizer(texts: Iterable[str]) -> Tokenizer:
    alone = pre_tokenizers.Split(Regex(r"[^\x00-\x7f]"), "isolated")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([alone, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=VOCABULARY, initial_alphabet=alphabet, show_progress=False))
    return tokenizer


def _beginning(texts: Sequence[str]) -> str:
    """What all prompts begin with; a server computes it once."""
    low, high = min(texts), max(texts)
    return low[:next((n for n, (one, other) in enumerate(zip(low, high)) if one != other), len(low))]


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--file_dir", required=True, help="folder of the data set")
    parser.add_argument("--file_name", required=True, help="data set")
    parser.add_argument("--save_type_name", required=True, help="its run, steps 1 to 3 done")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    opts = parser.parse_args(arguments)
    paths = RunPaths(Path(opts.file_dir), opts.file_name, opts.save_type_name)
    settings = read_manifest(paths.annotation("entity", False)).get("settings", {})
    prompts = prompts_of(paths, Language(settings["dense"], settings["lang"]))
    found = list(figures(prompts, {name: replies_of(paths, name) for name in prompts}))
    if opts.json:
        print(json.dumps(found))
        return
    print(f"| {' | '.join(found[0])} |\n| --- |{' ---: |' * (len(found[0]) - 1)}")
    for row in found:
        print(f"| {' | '.join(f'{value:,}' if isinstance(value, (int, float)) else value for value in row.values())} |")


if __name__ == "__main__":
    main()
