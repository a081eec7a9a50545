"""Steps 1 and 3 in the ledger: every stored reply is read again and compared with the row that was published."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

from syn_pipelines.tools._ledger_case import Case
from syn_pipelines.tools._ledger_files import DataFile, differing_keys, matched
from syn_pipelines.tools._ledger_journal import Journal
from syn_pipelines.utils.records import STATUSES, Record, short
from syn_pipelines.utils.replies import parse_reply
from syn_pipelines.utils.summary import with_reasons

Entry = Mapping[str, Any]
_SYNTHETIC = re.compile(r"-s[0-9]+$")


def reply_format(journal: Journal, file: DataFile) -> str:
    """How the replies were asked to look."""
    made = journal.fingerprint or file.manifest.get("fingerprint")
    return str(made.get("reply_format", "json")) if isinstance(made, dict) else "json"


def annotation_of(sentence: Record, entry: Entry, mode: str, form: str) -> tuple[Record, int]:
    """The annotation record that a stored reply gives, and how many members of the reply are no items."""
    row = {"id": sentence["id"], "text": sentence["text"], "reply": entry["text"], "items": []}
    if entry["finish_reason"] == "error":
        return {**row, "status": "failed", "reason": entry["error"] or "error"}, 0
    if entry["finish_reason"] == "too_long":
        return {**row, "status": "rejected", "reason": f"too_long: {entry['error']}"}, 0
    parsed = parse_reply(entry["text"], mode, cut=entry["finish_reason"] == "length", reply_format=form)
    return {**row, "items": parsed.items, "status": parsed.status, "reason": parsed.reason}, parsed.dropped


@dataclass
class _Tally:
    """What became of the sentences of one file. unpublished: answered, but without a row; late: the row is of an earlier
    reply; closed: by the grammar; dropped: members of the replies that are no items."""

    status: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    mended: Counter[str] = field(default_factory=Counter)
    items: Counter[str] = field(default_factory=Counter)  # by status of the reply
    listed: int = 0  # items in the rows, whatever their status
    dropped: int = 0
    closed: int = 0
    unasked: int = 0
    unpublished: int = 0
    late: int = 0

    def add(self, row: Record, dropped: int, closed: bool) -> None:
        """Count one published row."""
        self.status[row["status"]] += 1
        self.items[row["status"]] += len(row["items"])
        self.listed += len(row["items"])
        self.dropped += dropped
        self.closed += closed
        lost = row["status"] in ("rejected", "failed")
        if lost or row["status"] == "repaired":
            (self.reasons if lost else self.mended)[row["reason"].split(":", 1)[0] or "no reason"] += 1


def check_annotations(case: Case, mode: str, synthetic: bool) -> None:
    """Step 1 or 3: each sentence with its replies and its row."""
    step, file = f"{'s3' if synthetic else 's1'} {mode}", case.annotation(mode, synthetic)
    if synthetic and not case.synthetic.exists:
        if file.exists:
            file.problem("nowhere", f"there are annotations, but no {case.synthetic.path.name} that they are about.")
        return
    source = case.synthetic if synthetic else case.train
    places = case.made.places if synthetic else case.places
    with closing(case.journal_of(file, places)) as journal:
        if not file.exists:
            case.not_there_yet(step, file)
        tally = _compare(case, file, journal, source, mode)
        account_of_replies(case, step, file, journal, journal.known_requests, lambda name: False, by_source=synthetic)
    _accounts_of_annotations(case, step, file, tally, len(places))
    if not file.exists:
        return
    if late := tally.late + tally.unpublished:
        case.book.note(f"{step}: {late:,} stored replies are newer than {file.path}. Publish them with: {file.mend}")
    case.items[mode, synthetic] = tally.items.total()
    not_asked = tally.unasked + tally.unpublished  # when the file was made
    counts = with_reasons({**tally.status, "closed": tally.closed, "not_asked": not_asked})
    file.settle({"sentences": len(places), **counts, "reasons": with_reasons(tally.reasons)}, not not_asked,
                unless=() if journal.exists else ("closed",), stale=file.path in case.stale)


def _compare(case: Case, file: DataFile, journal: Journal, source: DataFile, mode: str) -> _Tally:
    """Each sentence: its row must be what its last reply says."""
    tally, form = _Tally(), reply_format(journal, file)
    language = case.language_in(file.settings)
    sentences = case.sentences() if source is case.train else source.records()
    for sentence, line, row in matched(sentences, case.order_of(source), file, "the sentences it was made from"):
        attempts = journal.attempts(sentence["id"])
        if attempts:
            check_subject(case, file, journal, sentence["id"], attempts[-1], language.join(sentence["text"]))
        if row is None:
            tally.unpublished += bool(attempts)
            tally.unasked += not attempts
            if attempts and file.exists and not (file.is_as_published and file.manifest.get("complete") is False):
                file.problem("missing", f"id {short(sentence['id'])} has a stored reply ({journal.path.name}:"
                                        f"{journal.line(sentence['id'])}) but no row.")
            continue
        dropped, closed = _check_row(file, journal, sentence, line, row, attempts, mode, form, tally)
        tally.add(row, dropped, closed)
    return tally


def _check_row(file: DataFile, journal: Journal, sentence: Record, line: int, row: Record, attempts: list[Entry],
               mode: str, form: str, tally: _Tally) -> tuple[int, bool]:
    """Compare a row with the replies it may come from; (members left out, whether the grammar closed the reply)."""
    if not journal.exists:  # the row alone does not tell whether its reply was cut
        kind = {"failed": "error"}.get(row["status"], "too_long" if row["reason"].startswith("too_long: ") else "stop")
        said = {"text": row["reply"], "error": row["reason"].removeprefix("too_long: ")}
        attempts = [{**said, "finish_reason": how} for how in (["stop", "length"] if kind == "stop" else [kind])]
    elif not attempts:
        file.problem("no reply", f"id {short(row['id'])} has a row but no reply in {journal.path}.", line)
        return 0, False
    readings = [annotation_of(sentence, entry, mode, form) for entry in attempts]
    fitting = [n for n, (wanted, _) in enumerate(readings) if wanted == row]
    if not fitting:
        keys = differing_keys(row, readings[-1][0])
        file.problem("differs", f"id {short(row['id'])}: {keys} is not what its stored reply says.", line)
        return 0, bool(attempts[-1].get("closed"))
    if journal.exists and fitting[-1] != len(attempts) - 1:
        if file.is_as_published:
            tally.late += 1
        else:
            file.problem("old reply", f"id {short(row['id'])}: the row is that of an earlier reply.", line)
    return readings[fitting[-1]][1], bool(attempts[fitting[-1]].get("closed"))


def check_subject(case: Case, file: DataFile, journal: Journal, identity: str, entry: Entry, text: str) -> None:
    """The reply says about which sentence it is."""
    about = entry.get("sentence")
    if about is not None and about != hashlib.sha256(text.encode()).hexdigest()[:16]:
        case.book.problem(journal.path, "subject", f"the reply about {short(identity)} is about another sentence than the "
                          f"one that has this id.", line=journal.line(identity), mend=file.anew)


def account_of_replies(case: Case, step: str, file: DataFile, journal: Journal, in_use: int, asks: Callable[[str], bool], *,
                       by_source: bool) -> None:
    """Every stored reply is in use, replaced by a later one, or about something that is no longer asked about.

    in_use: requests with a reply that are asked. asks: tells of a request that the journal does not know whether it is one of
    these. by_source: an unknown id may be that of something that was there once, made from a training sentence.
    """
    if not journal.exists:
        return
    parts = {"in use": in_use, "replaced by a later one": journal.lines - journal.requests}
    for identity, line in journal.others() if in_use < journal.requests else ():
        if asks(identity):
            continue
        if by_source and source_of(identity) in case.places:
            parts["no longer asked about"] = parts.get("no longer asked about", 0) + 1
        else:
            parts["from nowhere"] = parts.get("from nowhere", 0) + 1
            case.book.problem(journal.path, "nowhere", f"a reply about {short(identity)}, which nothing asks about; remove "
                              "this line first.", line=line, mend=file.mend)
    case.book.account(step, "stored replies", parts, total=journal.lines, file=file)
    made = file.manifest.get("fingerprint")
    if file.exists and made is not None and made != journal.fingerprint:
        case.book.problem(journal.path, "fingerprint", f"the settings in line 1 are not those in the manifest of "
                          f"{file.path.name}.", line=1, mend=file.mend)


def source_of(identity: str) -> str:
    """The training sentence of a synthetic sentence or of a sample: "17-s2" and "17#2" -> "17"."""
    return identity.rpartition("#")[0] if re.search("#[0-9]+$", identity) else _SYNTHETIC.sub("", identity)


def _accounts_of_annotations(case: Case, step: str, file: DataFile, tally: _Tally, sentences: int) -> None:
    late = {"answered, not published yet": tally.unpublished} if tally.unpublished else {}
    case.book.account(step, "sentences", {**{name: tally.status[name] for name in STATUSES}, **late,
                                          "not asked yet": tally.unasked}, tally.reasons, total=sentences, file=file)
    if tally.mended:
        case.book.account(step, "repaired replies", with_reasons(tally.mended))
    if file.exists:
        case.book.account(step, "things listed in the replies", {
            "items of ok replies": tally.items["ok"], "items of repaired replies": tally.items["repaired"],
            "no items": tally.dropped}, total=tally.listed + tally.dropped, file=file)
