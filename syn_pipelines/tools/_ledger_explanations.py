"""Step 2 in the ledger: every stored explanation is cut into pieces again and compared with what was published."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

from syn_pipelines.s2_continous_generation import PLACES
from syn_pipelines.text.filters import candidates
from syn_pipelines.tools._ledger_book import DataFile, Journal, matched, places_of
from syn_pipelines.tools._ledger_case import Case, digest_of
from syn_pipelines.tools._ledger_replies import Entry, account_of_replies, check_subject, source_of
from syn_pipelines.utils.prompts import load_prompt
from syn_pipelines.utils.records import Record, short
from syn_pipelines.utils.summary import with_reasons


@dataclass(frozen=True)
class Piece:
    """A piece of an explanation. id: of the sentence it would be, "" where filters dropped it. reason: "" when kept."""

    id: str
    text: str
    tokens: list[str]
    reason: str

    def row(self, source: str) -> Record:
        """The synthetic sentence."""
        return {"id": self.id, "text": self.tokens, "entities": [], "synthetic": True, "source_id": source}


@dataclass(frozen=True)
class Answer:
    """One sample of a sentence. status: used, rejected, failed or not asked yet."""

    request: str
    attempts: list[Entry]
    status: str
    reason: str
    pieces: list[Piece]


class Explanations:
    """Reads the stored explanations in the order of the training sentences; duplicates depend on that order."""

    def __init__(self, case: Case, file: DataFile, journal: Journal) -> None:
        self.journal, self.language = journal, case.language_in(file.settings)
        self.prompt = load_prompt("explain", self.language.lang).text
        told = file.settings.get("num_samples")
        asked = [int(n) for _, _, n in (name.rpartition("#") for name in journal.places) if n.isdecimal() and len(n) < 6]
        self.samples = told if isinstance(told, int) and 0 < told < PLACES else max(asked, default=1)
        self._seen = {_key(sentence["text"]): "copy_of_source" for sentence in case.sentences()}

    def of(self, sentence: Record) -> list[Answer]:
        """What was written about a sentence with entities; call it once for each of them, in order."""
        return [self._answer(sentence, k) for k in range(1, self.samples + 1)]

    def _answer(self, sentence: Record, k: int) -> Answer:
        request = f"{sentence['id']}#{k}"
        attempts = self.journal.attempts(request)
        if not attempts:
            return Answer(request, [], "not asked yet", "", [])
        entry = attempts[-1]
        if entry["finish_reason"] == "error":
            return Answer(request, attempts, "failed", entry["error"].split(":", 1)[0], [])
        if entry["finish_reason"] == "too_long":
            return Answer(request, attempts, "rejected", "too_long", [])
        found = candidates(entry["text"], source=sentence["text"], prompt=self.prompt, dense=self.language.dense,
                           lang=self.language.lang, cut=entry["finish_reason"] == "length")
        pieces, place = [], (k - 1) * PLACES
        for piece in found:
            place += not piece.reason
            identity = "" if piece.reason else f"{sentence['id']}-s{place}"
            pieces.append(Piece(identity, piece.text, piece.tokens, piece.reason or self._repeats(piece.tokens)))
        if any(not piece.reason for piece in found):
            return Answer(request, attempts, "used", "", pieces)
        return Answer(request, attempts, "rejected", "no_usable_sentence" if found else "empty_reply", pieces)

    def _repeats(self, tokens: list[str]) -> str:
        """Why a sentence is no new one, "" for a new one, which is noted."""
        if reason := self._seen.get(key := _key(tokens)):
            return reason
        self._seen[key] = "duplicate"
        return ""


def _key(tokens: list[str]) -> bytes:
    """Equal for sentences that differ in white space and case alone."""
    return hashlib.sha256("".join("".join(tokens).split()).casefold().encode("utf-8", "surrogatepass")).digest()[:16]


@dataclass
class _Harvest:
    """What the stored explanations hold. wanted: the rows that should be published, as id, digest and request; spare: those of
    sentences that are dropped as duplicates."""

    replies: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    closed: int = 0
    asked_again: int = 0
    pieces: int = 0
    wanted: list[Record] = field(default_factory=list)
    spare: dict[str, bytes] = field(default_factory=dict)

    def add(self, sentence: Record, answer: Answer) -> None:
        """Count one answer and its pieces."""
        self.replies[answer.status] += 1
        self.reasons.update([answer.reason] if answer.reason else [])
        self.closed += bool(answer.attempts and answer.attempts[-1].get("closed"))
        self.asked_again += len(answer.attempts) > 1
        self.pieces += len(answer.pieces)
        for piece in answer.pieces:
            if piece.reason:
                self.dropped[piece.reason] += 1
                if piece.id:
                    self.spare[piece.id] = row_digest(piece.row(sentence["id"]))
            else:
                self.wanted.append({"id": piece.id, "digest": row_digest(piece.row(sentence["id"])), "request": answer.request})

    def is_newer_than(self, manifest: Mapping[str, Any]) -> bool:
        """Whether a file with this manifest was made from other replies than there are: fewer, where it says itself that
        some were to come, or earlier ones."""
        counts = manifest.get("counts")
        told = counts.get("replies") if isinstance(counts, dict) else None
        told = told if isinstance(told, dict) else {}
        answered = sum(n for name, n in told.items() if isinstance(n, int) and name != "not asked yet")
        now = self.replies.total() - self.replies["not asked yet"]
        return (now > answered and manifest.get("complete") is False) or (self.asked_again > 0 and told != with_reasons(self.replies))


def row_digest(row: Record) -> bytes:
    """Of a synthetic sentence as step 2 publishes it."""
    return digest_of(row) + f"{row.get('source_id')}\0{sorted(row)}".encode("utf-8", "surrogatepass")


def check_explanations(case: Case) -> None:
    """Step 2: the replies about each sentence, the pieces in them, and the sentences that were published."""
    file, book = case.synthetic, case.book
    book.account("s2", "sentences", {"with entities": len(case.asked),
                                     "without entities, not asked": len(case.places) - len(case.asked)},
                 total=len(case.gold), file=file)
    with closing(case.journal_of(file)) as journal:
        if not file.exists:
            case.not_there_yet("s2", file)
        if not journal.exists:
            _check_alone(case, file)
            return
        explanations, harvest = Explanations(case, file, journal), _Harvest()
        for sentence in case.sentences():
            for answer in explanations.of(sentence) if sentence["entities"] else ():
                if answer.attempts:
                    check_subject(case, file, journal, answer.request, answer.attempts[-1],
                                   explanations.language.join(sentence["text"]))
                harvest.add(sentence, answer)
        book.account("s2", "explanations", {name: harvest.replies[name] for name in (
            "used", "rejected", "failed", "not asked yet")}, harvest.reasons,
                     total=len(case.asked) * explanations.samples, file=file)
        requests = {f"{identity}#{k}" for identity in case.asked for k in range(1, explanations.samples + 1)}
        account_of_replies(case, "s2", file, journal, requests, by_source=True)
    _check_published(case, file, harvest)


def _check_published(case: Case, file: DataFile, harvest: _Harvest) -> None:
    """Compare the published sentences with the pieces that should be published."""
    older = file.is_as_published and harvest.is_newer_than(file.manifest)
    wanted, late, published = {row["id"]: row["digest"] for row in harvest.wanted}, 0, 0
    asked_by = {row["id"]: row["request"] for row in harvest.wanted}
    siblings = {asked_by[row["id"]] for _, row in file.rows() if row["id"] in asked_by}  # pieces of a reply come together
    if older:  # some were kept when fewer replies were known, and would be duplicates now
        spare = {row["id"]: harvest.spare[row["id"]] for _, row in file.rows() if row["id"] in harvest.spare}
        wanted |= spare
    order = sorted(wanted, key=lambda identity: _place(identity, case.places)) if older else wanted
    expected = [{"id": identity, "digest": wanted[identity]} for identity in order]
    for record, line, row in matched(expected, places_of(order), file, "the stored replies"):
        published += row is not None
        if row is not None and row_digest(row) != record["digest"]:
            file.problem("differs", f"id {short(row['id'])} is not what its stored reply says.", line)
        elif row is None and (not file.exists or (older and asked_by.get(record["id"]) not in siblings)):
            late += 1
        elif row is None:
            file.problem("missing", f"sentence {short(record['id'])} of a stored reply has no row.")
    parts = {"published": published, "dropped": harvest.dropped.total() - (len(wanted) - len(harvest.wanted))}
    if missing := len(expected) - published:
        parts["kept, not published yet" if late == missing else "kept, but missing"] = missing
    case.book.account("s2", "pieces of the explanations", parts, harvest.dropped, total=harvest.pieces, file=file)
    if older:
        case.book.note(f"s2: there are stored replies that are newer than {file.path}. Publish them with: {file.mend}")
    elif file.exists:
        asked = {"with entities": len(case.asked), "without entities, not asked": len(case.places) - len(case.asked)}
        file.settle({
            "sentences": len(case.places), **with_reasons(asked), "replies": with_reasons(harvest.replies),
            "reply_reasons": with_reasons(harvest.reasons), **with_reasons({"closed": harvest.closed}),
            "synthetic_sentences": len(harvest.wanted), "dropped": with_reasons(harvest.dropped)},
            not harvest.replies["not asked yet"], stale=file.path in case.stale)


def _place(identity: str, places: Mapping[str, int]) -> tuple[int, int]:
    source, _, number = identity.rpartition("-s")
    return places.get(source, -1), int(number)


def _check_alone(case: Case, file: DataFile) -> None:
    """The published sentences where the replies are gone: each has its source, and none stands there twice."""
    if not file.exists:
        return
    seen: dict[bytes, str] = {}
    rows = [row["id"] for _, row in file.rows()]
    for _ in matched(({"id": i} for i in rows), places_of(rows), file, "its sentences"):
        pass
    for line, row in file.rows():
        if row["source_id"] not in case.asked or source_of(row["id"]) != row["source_id"]:
            file.problem("nowhere", f"id {short(row['id'])} comes from {short(row['source_id'])}, no sentence with "
                                    "entities.", line)
        if (before := seen.setdefault(_key(row["text"]), row["id"])) != row["id"]:
            file.problem("twice", f"id {short(row['id'])} has the text of {short(before)}.", line)
    case.book.account("s2", "synthetic sentences", {"published, replies gone": len(rows)})
    file.settle({"synthetic_sentences": len(rows)}, file.manifest.get("complete") is True, stale=file.path in case.stale,
                unless=[name for name in file.manifest.get("counts", ()) if name != "synthetic_sentences"])
