"""Fuzz, guided by coverage, what reads a model's text: the reply parser, the filters of step 2, grounding, JSON lines.

Each target starts from the replies of tests/reply_corpus.py and checks what must hold for any text. A text that breaks it
is saved and the exit code is 1. Needs atheris, which is no dependency of the project:

    pip install atheris
    python tests/fuzz/fuzz_replies.py --seconds=600
    python tests/fuzz/fuzz_replies.py --targets=entity,inline --runs=100000 --json
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parents[1]
MISSING = "atheris is not installed. Install it with: pip install atheris (it has wheels for Linux; the tests do without it)."
MAX_BYTES = 1024  # of an input: short ones say more in the same time; long ones are the corpus test's
ONE_INPUT_S = 300  # more than this for one input is a hang


def text_of(data: bytes) -> tuple[int, str]:
    """The first byte, which chooses between the ways to call, and the text; half surrogate pairs may be in it."""
    try:
        return (data[0] if data else 0), data[1:].decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return data[0], data[1:].decode("utf-8", "replace")


def fuzz_reply(task: str) -> Callable[[bytes], None]:
    from reply_corpus import check

    def one(data: bytes) -> None:
        choice, text = text_of(data)
        check(text, task, bool(choice & 1))
    return one


def fuzz_filters(data: bytes) -> None:
    from syn_pipelines.text.filters import MAX_TOKENS, REASONS, candidates
    from syn_pipelines.text.sentences import split_sentences
    from syn_pipelines.text.tokens import tokenize

    choice, text = text_of(data)
    dense, cut, lang = bool(choice & 1), bool(choice & 2), ("zh", "ja", "ko", "en")[choice >> 2 & 3]
    source = "张三在北京大学工作。" if dense else "Ann Lee joined Acme in New York ."
    kept = set()
    for piece in candidates(text, source=source.split(), prompt=f"Go on: {source}", dense=dense, lang=lang, cut=cut):
        assert piece.text.strip() and piece.reason in ("", *REASONS)
        if not piece.reason:
            assert 0 < len(piece.tokens) <= MAX_TOKENS and "".join(piece.tokens) == "".join(piece.text.split())
            assert piece.text not in kept
            kept.add(piece.text)
    plain = "".join(text.split())
    assert "".join("".join(sentence.split()) for sentence, _ in split_sentences(text, lang)) == plain
    assert "".join(tokenize(text, dense)) == plain


def fuzz_grounding(data: bytes) -> None:
    from syn_pipelines.utils.spans import EXACT, FOLDED, Grounder, fold

    choice, text = text_of(data)
    dense = bool(choice & 1)
    first, *surfaces = text.split("\n")
    tokens = list(first) if dense else [token for token in first.split(" ") if token]
    grounder, joiner = Grounder(tokens, dense), "" if dense else " "
    for surface in surfaces:
        spans, how = grounder.find(surface)
        assert bool(spans) == (how in (EXACT, FOLDED)) and spans == sorted(set(spans))
        for start, end in spans:
            assert 0 <= start < end <= len(tokens)
            assert how == FOLDED or joiner.join(tokens[start:end]) == surface
    placed = grounder.align(surfaces)
    chosen = [span for span, _ in placed if span]
    assert len(placed) == len(surfaces) and all(a[1] <= b[0] for a, b in zip(chosen, chosen[1:]))
    assert all(span in grounder.find(surface)[0] for surface, (span, _) in zip(surfaces, placed) if span)
    assert fold(fold(text[:200])) == fold(text[:200])


def fuzz_jsonl(data: bytes) -> None:
    from syn_pipelines.utils.errors import UserError
    from syn_pipelines.utils.jsonl import Problems, read_objects, to_line

    path = Path(tempfile.gettempdir()) / "fuzz_replies.jsonl"
    path.write_bytes(data)
    problems = Problems(path, "Correct it.")
    lines = data.count(b"\n") + 1
    try:
        for number, row in read_objects(path, problems):
            assert 1 <= number <= lines
            assert json.loads(to_line(row)) == row
        problems.raise_if_any()
    except UserError as err:
        assert f"{path}:" in str(err)


TARGETS: dict[str, Callable[[], Callable[[bytes], None]]] = {
    "entity": lambda: fuzz_reply("entity"), "pos": lambda: fuzz_reply("pos"), "inline": lambda: fuzz_reply("inline"),
    "filters": lambda: fuzz_filters, "grounding": lambda: fuzz_grounding, "jsonl": lambda: fuzz_jsonl,
}


def seeds() -> list[bytes]:
    """The replies of the corpus, each with its first byte."""
    from reply_corpus import LARGE, ROWS

    found = [bytes([row.cut]) + row.reply.encode("utf-8", "surrogatepass") for name, row in ROWS.items() if name not in LARGE]
    extra = ["张三在北京大学工作。\n张三\n北京\n北京大学\n。", "Ann Lee joined Acme\nann lee\nAcme\nLee", '{"id": "1", "text": ["a"]}\n{"id": 2}\n',
             "<think>嗯</think>\n**续写**：他去了北京。👍🏻 太好了！\n- 1. \"Go.\" he said.\n```\ncode\n```\n用户：再来"]
    return [data[:MAX_BYTES] for data in found] + [bytes([n]) + text.encode() for text in extra for n in range(4)]


def fuzz_one(target: str, libfuzzer: list[str]) -> None:
    """Never returns: libFuzzer ends the process."""
    import atheris

    sys.path[:0] = [str(TESTS), str(TESTS.parent)]
    with atheris.instrument_imports(include=["syn_pipelines"], enable_loader_override=False):
        one = TARGETS[target]()
        one(b"\x00a")  # imports what it needs
    atheris.Setup([sys.argv[0], *libfuzzer], one)
    atheris.Fuzz()


def run_target(target: str, opts: argparse.Namespace, seconds: float, folder: Path) -> dict[str, Any]:
    """Fuzz in a process of its own, in an empty folder; executions, coverage (edges), inputs kept, and the files of inputs that broke it."""
    corpus, work = folder / "corpus", folder / "work"
    corpus.mkdir()
    work.mkdir()
    for number, seed in enumerate(seeds()):
        (corpus / f"{number:04d}").write_bytes(seed)
    before = set(opts.save.iterdir())
    flags = [f"-max_len={MAX_BYTES}", f"-timeout={ONE_INPUT_S}", "-print_final_stats=1", f"-artifact_prefix={opts.save}/{target}-",
             f"-seed={opts.seed}", f"-max_total_time={max(1, round(seconds))}", f"-runs={opts.runs}", str(corpus)]
    started = time.monotonic()
    done = subprocess.run([sys.executable, __file__, "--child", target, *flags], capture_output=True, text=True, errors="replace",
                          env={**os.environ, "TMPDIR": str(work)})  # two runs at once share no file
    said = done.stdout + done.stderr
    numbers = {name: [int(number.replace(",", "")) for number in re.findall(pattern, said)] for name, pattern in (
        ("executions", r"stat::number_of_executed_units:\s*(\d+)"), ("coverage", r"\bcov: (\d+)"), ("corpus", r"\bcorp: (\d+)"))}
    crashes = sorted(str(path) for path in set(opts.save.iterdir()) - before)
    if done.returncode and not crashes:  # it did not even start
        crashes = [said.strip()[-2000:]]
    return {"seconds": round(time.monotonic() - started, 1), "executions": (numbers["executions"] or [0])[-1],
            "coverage": (numbers["coverage"] or [0])[-1], "corpus": (numbers["corpus"] or [0])[-1], "crashes": crashes,
            "error": "" if not crashes else "\n".join(said.split("=== Uncaught Python exception: ===")[-1].splitlines()[:30])}


def options(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0, help="for all targets together (default 60)")
    parser.add_argument("--runs", type=int, default=-1, help="at most so many executions of each target; -1: as many as fit")
    parser.add_argument("--targets", default=",".join(TARGETS), help="names, with commas between (default: all)")
    parser.add_argument("--seed", type=int, default=1, help="of the mutations; 0: another each time")
    parser.add_argument("--save", type=Path, help="folder for inputs that broke something (default: a new one)")
    parser.add_argument("--json", action="store_true", help="print one object instead of lines")
    opts = parser.parse_args(argv)
    unknown = [name for name in opts.targets.split(",") if name not in TARGETS]
    if unknown:
        parser.error(f"--targets: {', '.join(unknown)}: unknown. Choose from {', '.join(TARGETS)}.")
    return opts


def main(argv: list[str] | None = None) -> int:
    opts = options(argv)
    if importlib.util.find_spec("atheris") is None:
        print(f"error: {MISSING}", file=sys.stderr)
        return 2
    sys.path[:0] = [str(TESTS), str(TESTS.parent)]
    names = opts.targets.split(",")
    results = {}
    opts.save = opts.save or Path(tempfile.mkdtemp(prefix="fuzz_replies-"))
    opts.save.mkdir(parents=True, exist_ok=True)
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            results[name] = found = run_target(name, opts, opts.seconds / len(names), Path(folder))
        if not opts.json:
            print(f"{name}: {found['executions']:,} executions in {found['seconds']} s, {found['coverage']:,} edges covered, "
                  f"{found['corpus']:,} inputs kept, {len(found['crashes'])} crashes", flush=True)
            if found["crashes"]:
                print("\n".join([*found["crashes"], found["error"]]), flush=True)
    crashes = [file for found in results.values() for file in found["crashes"]]
    executions = sum(found["executions"] for found in results.values())
    summary = {"executions": executions, "crashes": crashes, "targets": results}
    print(json.dumps(summary, ensure_ascii=False) if opts.json else f"all: {executions:,} executions, {len(crashes)} crashes")
    return 1 if crashes else 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        fuzz_one(sys.argv[2], sys.argv[3:])
    sys.exit(main())
