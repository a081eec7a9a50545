"""Steps 1 to 3 in the ledger after an edit of what they asked about: whether they go on from the stored replies."""

from __future__ import annotations

from syn_pipelines.tools._ledger_case import Case
from syn_pipelines.tools._ledger_files import DataFile
from syn_pipelines.tools._ledger_record import wording_of
from syn_pipelines.utils.annotate import hash_of_questions, source_lineage
from syn_pipelines.utils.errors import UserError
from syn_pipelines.utils.packing import plain_path
from syn_pipelines.utils.paths import MODES
from syn_pipelines.utils.prompts import load_prompt
from syn_pipelines.utils.questions import explain_prints, explain_question, target_names


def report_changed_sources(case: Case) -> None:
    """Name the files of steps 1 to 3 whose source has changed; before all else, for nothing after them can be mended first.

    A step refuses to mix replies about other questions with those that it has, so there the command is the one that asks
    everything again.
    """
    about_synthetic = [case.annotation(mode, True) for mode in MODES]
    for file in (*(case.annotation(mode, False) for mode in MODES), case.synthetic, *about_synthetic):
        if not file.exists or file.path not in case.stale:
            continue
        if file in about_synthetic and not case.synthetic.is_as_published:
            continue  # what was changed there is to be mended first
        text = case.stale[file.path][0]
        if _refuses(case, file):
            file.mend = file.anew
            text += " Put that file back as it was, or ask everything again, which costs what it cost the first time."
        case.stale[file.path] = (text, file.mend)
        file.problem("stale", text)


def _refuses(case: Case, file: DataFile) -> bool:
    """Whether the step asks other questions now than those that the stored replies answer."""
    made = file.manifest.get("fingerprint")
    if not made:
        return False
    try:
        return any(made.get(name) != value for name, value in _prints_now(case, file).items())
    except UserError:  # labels or prompts that cannot be read: the step says so
        return False


def _prints_now(case: Case, file: DataFile) -> dict[str, str]:
    """What a fingerprint made now says of the questions."""
    language, paths = case.language_in(file.settings), case.paths
    if file is case.synthetic:
        prompt, names = load_prompt("explain", language.lang), target_names(paths)
        return {**explain_prints(names), "input": hash_of_questions(
            explain_question(f"{sentence['id']}#1", sentence, language, prompt, names, (0, 0))
            for sentence in case.sentences() if sentence["entities"])}
    if plain_path(file.path).stem.endswith("_synthetic"):
        return {"input": source_lineage(paths.synthetic)}
    wording = wording_of(case, file, file.path.stem.split("_")[0], language)
    return {**wording.prints, "input": hash_of_questions(map(wording.question, case.sentences()))} if wording else {}
