"""Step 2 in the ledger: every stored explanation is cut into pieces again and compared with what was published."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from syn_pipelines.s2_continous_generation import PLACES
from syn_pipelines.text.filters import candidates
from syn_pipelines.tools._ledger_case import Case
from syn_pipelines.tools._ledger_files import DataFile, Order, matched
from syn_pipelines.tools._ledger_journal import Journal
from syn_pipelines.tools._ledger_replies import Entry, account_of_replies, check_subject, source_of
from syn_pipelines.utils.compact import IdMap
from syn_pipelines.utils.prompts import load_prompt
from syn_pipelines.utils.records import Record, short
from syn_pipelines.utils.summary import with_reasons

_COPY, _NEW = 0, 1  # of the texts that were seen: of a training sentence, of a synthetic one


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
        self.samples = self.samples_of(file, journal)
        self._seen = IdMap(narrow=True)
        for sentence in case.sentences():
            self._seen[_key(sentence["text"])] = _COPY

    @staticmethod
    def samples_of(file: DataFile, journal: Journal) -> int:
        """How often each sentence was asked about."""
        told = file.settings.get("num_samples")
        return told if isinstance(told, int) and 0 < told < PLACES else journal.samples

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
        found = self._seen.get(key := _key(tokens))
        if found is not None:
            return "copy_of_source" if found == _COPY else "duplicate"
        self._seen[key] = _NEW
        return ""


def _key(tokens: list[str]) -> str:
    """Equal for sentences that differ in white space and case alone."""
    return "".join("".join(tokens).split()).casefold()


@dataclass
class _Harvest:
    """What the stored explanations hold. kept: sentences that are new and whole. revived: of those dropped as duplicates, how
    many stand in the file all the same (see ``_is_older``)."""

    replies: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    closed: int = 0
    asked_again: int = 0
    pieces: int = 0
    kept: int = 0
    revived: int = 0

    @property
    def answered(self) -> int:
        """Requests with a reply."""
        return self.replies.total() - self.replies["not asked yet"]

    def add(self, answer: Answer) -> None:
        """Count one answer and its pieces."""
        self.replies[answer.status] += 1
        self.reasons.update([answer.reason] if answer.reason else [])
        self.closed += bool(answer.attempts and answer.attempts[-1].get("closed"))
        self.asked_again += len(answer.attempts) > 1
        self.pieces += len(answer.pieces)
        for piece in answer.pieces:
            self.kept += not piece.reason
            self.dropped.update([piece.reason] if piece.reason else [])

    def is_newer_than(self, manifest: Mapping[str, Any]) -> bool:
        """Whether a file with this manifest was made from other replies than there are: fewer, where it says itself that
        some were to come, or earlier ones."""
        counts = manifest.get("counts")
        told = counts.get("replies") if isinstance(counts, dict) else None
        told = told if isinstance(told, dict) else {}
        answered = sum(n for name, n in told.items() if isinstance(n, int) and name != "not asked yet")
        return (self.answered > answered and manifest.get("complete") is False) or (
            self.asked_again > 0 and told != with_reasons(self.replies))


class _Expected:
    """The rows that the stored replies give, in their order.

    published: ids of a file that is older than the replies, else None. Some of its sentences were kept when fewer replies were
    known, and would be duplicates now.
    """

    def __init__(self, case: Case, file: DataFile, journal: Journal, published: IdMap | None) -> None:
        self.case, self.file, self.journal, self.published = case, file, journal, published
        self.harvest = _Harvest()

    def answers(self) -> Iterator[tuple[Record, Answer, Explanations]]:
        """Each answer with the sentence that it is about."""
        explanations = Explanations(self.case, self.file, self.journal)
        for sentence in self.case.sentences():
            for answer in explanations.of(sentence) if sentence["entities"] else ():
                self.harvest.add(answer)
                yield sentence, answer, explanations

    def rows(self, *, checked: bool = False) -> Iterator[Record]:
        """``id``, ``row``, and whether another row of the same reply is ``published`` (they come together).

        checked: look whether each reply is about its sentence.
        """
        for sentence, answer, explanations in self.answers():
            if checked and answer.attempts:
                check_subject(self.case, self.file, self.journal, answer.request, answer.attempts[-1],
                              explanations.language.join(sentence["text"]))
            older = self.published
            came = older is not None and any(not piece.reason and piece.id in older for piece in answer.pieces)
            for piece in answer.pieces:
                if piece.reason and (older is None or not piece.id or piece.id not in older):
                    continue
                self.harvest.revived += bool(piece.reason)
                yield {"id": piece.id, "row": piece.row(sentence["id"]), "published": came}

    def order(self) -> Order:
        """The places of these rows; finding them takes as long as everything else."""
        again = _Expected(self.case, self.file, self.journal, self.published)
        return Order(lambda: (row["id"] for row in again.rows()), distinct=True)


def check_explanations(case: Case) -> None:
    """Step 2: the replies about each sentence, the pieces in them, and the sentences that were published."""
    file, book = case.synthetic, case.book
    book.account("s2", "sentences", {"with entities": case.asked, "without entities, not asked": len(case.places) - case.asked},
                 total=len(case), file=file)
    with closing(case.journal_of(file)) as journal:
        if not file.exists:
            case.not_there_yet("s2", file)
        if not journal.exists:
            _check_alone(case, file)
            return
        older = _is_older(case, file, journal)
        expected = _Expected(case, file, journal, _ids_of(file) if older else None)
        file.book = book.apart()  # what is found in the replies comes first
        published, late = _compare(file, expected, older)
        apart, file.book, harvest = file.book, book, expected.harvest
        samples = Explanations.samples_of(file, journal)
        book.account("s2", "explanations", {name: harvest.replies[name] for name in (
            "used", "rejected", "failed", "not asked yet")}, harvest.reasons, total=case.asked * samples, file=file)
        account_of_replies(case, "s2", file, journal, harvest.answered, lambda name: _is_asked(case, name, samples), by_source=True)
        book.take_in(apart)
    _account_of_published(case, file, harvest, published, late, older)


def _is_asked(case: Case, request: str, samples: int) -> bool:
    """Whether a sentence of the data set is asked about under this name."""
    source, _, k = request.rpartition("#")
    return bool(case.gold_of(source)) and k.isdecimal() and len(k) < 10 and str(int(k)) == k and 1 <= int(k) <= samples


def _is_older(case: Case, file: DataFile, journal: Journal) -> bool:
    """Whether the file was made from other replies than there are."""
    if not file.is_as_published or (file.manifest.get("complete") is not False and journal.lines == journal.requests):
        return False
    expected = _Expected(case, file, journal, None)
    for _ in expected.answers():
        pass
    return expected.harvest.is_newer_than(file.manifest)


def _ids_of(file: DataFile) -> IdMap:
    ids = IdMap(narrow=True)
    for row in file.records():
        ids[row["id"]] = 0
    return ids


def _compare(file: DataFile, expected: _Expected, older: bool) -> tuple[int, int]:
    """Lay the published sentences beside those that the replies give; (sentences that are there, that are not there yet)."""
    published = late = 0
    for record, line, row in matched(expected.rows(checked=True), expected.order(), file, "the stored replies"):
        published += row is not None
        if row is not None and row != record["row"]:
            file.problem("differs", f"id {short(row['id'])} is not what its stored reply says.", line)
        elif row is None and (not file.exists or (older and not record["published"])):
            late += 1
        elif row is None:
            file.problem("missing", f"sentence {short(record['id'])} of a stored reply has no row.")
    return published, late


def _account_of_published(case: Case, file: DataFile, harvest: _Harvest, published: int, late: int, older: bool) -> None:
    parts = {"published": published, "dropped": harvest.dropped.total() - harvest.revived}
    if missing := harvest.kept + harvest.revived - published:
        parts["kept, not published yet" if late == missing else "kept, but missing"] = missing
    case.book.account("s2", "pieces of the explanations", parts, harvest.dropped, total=harvest.pieces, file=file)
    if older:
        case.book.note(f"s2: there are stored replies that are newer than {file.path}. Publish them with: {file.mend}")
    elif file.exists:
        asked = {"with entities": case.asked, "without entities, not asked": len(case.places) - case.asked}
        file.settle({
            "sentences": len(case.places), **with_reasons(asked), "replies": with_reasons(harvest.replies),
            "reply_reasons": with_reasons(harvest.reasons), **with_reasons({"closed": harvest.closed}),
            "synthetic_sentences": harvest.kept, "dropped": with_reasons(harvest.dropped)},
            not harvest.replies["not asked yet"], stale=file.path in case.stale)


def _check_alone(case: Case, file: DataFile) -> None:
    """The published sentences where the replies are gone: each has its source, and none stands there twice."""
    if not file.exists:
        return
    texts, ids, rows = IdMap(), IdMap(narrow=True), 0
    for rows, (line, row) in enumerate(file.rows(), 1):  # noqa: B007 (it is the count)
        if row["id"] in ids:
            file.problem("order", f"id {short(row['id'])} stands there twice or out of the order of its sentences.", line)
        ids[row["id"]] = 0
    file.distinct = len(ids) == rows
    for place, (line, row) in enumerate(file.rows()):
        if not case.gold_of(row["source_id"]) or source_of(row["id"]) != row["source_id"]:
            file.problem("nowhere", f"id {short(row['id'])} comes from {short(row['source_id'])}, no sentence with "
                                    "entities.", line)
        before = texts.get(key := _key(row["text"]))
        if before is None:
            texts[key] = place
        elif (name := _name_of(file, before)) != row["id"]:
            file.problem("twice", f"id {short(row['id'])} has the text of {short(name)}.", line)
    case.book.account("s2", "synthetic sentences", {"published, replies gone": rows})
    file.settle({"synthetic_sentences": rows}, file.manifest.get("complete") is True, stale=file.path in case.stale,
                unless=[name for name in file.manifest.get("counts", ()) if name != "synthetic_sentences"])


def _name_of(file: DataFile, place: int) -> str:
    """The id of a row; of no use where so many findings are listed that no more will be."""
    return next(islice(file.records(), place, None))["id"] if file.book.lists(file.path, "twice") else ""
