"""May the copy of a scan in a place be deleted now? Decided here and nowhere else, from facts, by today's spec.

    reasons(rule, facts, now, day)      every reason against it, in words for people; none: it may go

Deletion is decided three times for each copy: before its files are moved to the trash, again before they are deleted
from there, and whenever a later run finds them on the way. A high-water mark is no fact here: a full disk is never a
reason to delete. An answer that could not be had is a reason against it, never one for it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum

from beamlines.spec import Prune

# how a copy was compared with another one, byte by byte; a listing, or a digest of this copy alone, proves nothing
PROOFS = ("globus-checksum", "htar-crc")
VERIFIED = "verified"
DONE = ("done", "not_applicable")


class Kind(StrEnum):
    """What a reason is about, which decides what becomes of files that are in the trash already."""

    RULE = "rule"  # what the ledger knows forbids it: they are put back
    DISARMED = "disarmed"  # the place is not armed: put back, and otherwise it could go
    DIFFERS = "differs"  # another copy is not what was proven: put back, and a person is asked
    OWN = "own"  # the copy itself is not what was noticed: it is no longer ours to delete
    UNKNOWN = "unknown"  # it could not be found out now: everything stays where it is


@dataclass(frozen=True)
class Reason:
    kind: Kind
    words: str


@dataclass(frozen=True)
class File:
    """A file of the scan as it was noticed. mtime: as the place listed it."""

    path: str
    bytes: int
    mtime: datetime | None
    sha256: str | None = None


@dataclass(frozen=True)
class Proof:
    """What the ledger keeps of one file in one place; `at`: when it was found, by our clock."""

    method: str
    bytes: int
    mtime: datetime | None
    at: datetime
    digest: str | None = None


@dataclass(frozen=True)
class Seen:
    """A file as it is there now. mtime None: that place (tape) keeps none that can be compared."""

    bytes: int
    mtime: datetime | None = None
    sha256: str | None = None


@dataclass(frozen=True)
class Look:
    """What was seen in a place, by path; a path that is not in it was not there, as a healthy service said.

    lasts: how long it counts. problem: what is wrong with the copy as a whole (an archive that is not whole).
    """

    at: datetime
    files: Mapping[str, Seen]
    lasts: timedelta = timedelta(minutes=10)
    problem: str | None = None


@dataclass(frozen=True)
class NoLook:
    """Nobody has seen what is there, and why. wanted: nobody has tried yet, so that a look may help."""

    why: str
    wanted: bool = False


NOT_LOOKED = NoLook("nobody has looked at it yet", wanted=True)


@dataclass(frozen=True)
class Other:
    """The copy in one of the places that the rule demands. state: None when there is none. leaving: it is itself about
    to be deleted. proofs: by path."""

    state: str | None
    proofs: Mapping[str, Sequence[Proof]] = field(default_factory=dict)
    leaving: bool = False
    look: Look | NoLook = NOT_LOOKED


@dataclass(frozen=True)
class Hold:
    until: datetime
    who: str
    why: str


@dataclass(frozen=True)
class Facts:
    """What is to be known of a scan and its copy in a place.

    Attributes:
        where: the place in words, "bl7011/dtn". state: of the copy there, by the ledger.
        noticed_at: when it became a scan, by our clock; the clock of the disk's host does not count.
        own: what is there now; for files in the trash, what is in the trash now.
        in_trash: its files are in the trash already, and a few of them may be deleted.
        others: place -> the copy there, for every place of the rule's `needs`.
        survivors: durable places that hold a verified copy which nobody is about to delete; never this place.
        undone: asset -> state, of the steps that today's spec demands and that are not done.
        tasks: live tasks of the scan, in words. shared: (path, key) of files that belong to another scan as well.
    """

    where: str
    state: str
    files: Sequence[File]
    noticed_at: datetime
    armed: bool
    others: Mapping[str, Other]
    survivors: Collection[str]
    own: Look | NoLook = NOT_LOOKED
    in_trash: bool = False
    holds: Sequence[Hold] = ()
    question: str | None = None
    restricted: str | None = None
    observed_only: bool = False
    undone: Mapping[str, str] = field(default_factory=dict)
    tasks: Sequence[str] = ()
    shared: Sequence[tuple[str, str]] = ()


def reasons(rule: Prune | None, facts: Facts, now: datetime, day: timedelta) -> list[Reason]:
    """All reasons for which the copy must not be deleted now. `day`: what a day of retention lasts."""
    if rule is None:
        return [Reason(Kind.RULE, f"today's spec does not prune {facts.where}")]
    return [
        *_standing(rule, facts, now, day),
        *(reason for place in rule.needs for reason in _other(place, rule, facts, now, day)),
        *_own(facts, now),
    ]


def firm(found: Sequence[Reason]) -> list[Reason]:
    """Those that no further look can remove."""
    return [reason for reason in found if reason.kind is not Kind.UNKNOWN]


def _standing(rule: Prune, facts: Facts, now: datetime, day: timedelta) -> Iterator[Reason]:
    """What the ledger and the spec say, without a look at any place."""

    def no(words: str) -> Reason:
        return Reason(Kind.RULE, words)

    age = (now - facts.noticed_at) / day
    if age < rule.after_days:
        yield no(f"it was noticed {max(age, 0):.1f} days ago, and stays for {rule.after_days:g} days")
    if facts.observed_only:
        yield no("the beamline is in mode observe: another system is in charge of its disk")
    if facts.state not in (VERIFIED, "present"):
        yield no(f"by the ledger its copy in {facts.where} is {facts.state}")
    if not facts.files:
        yield no("the ledger knows no files of it")
    for hold in facts.holds:
        if hold.until > now:
            yield no(f"held until {hold.until:%Y-%m-%d %H:%M} UTC by {hold.who}: {hold.why}")
    if facts.question:
        yield no(f"a person is asked about it: {facts.question}")
    if facts.restricted:
        yield no(f"it is export-controlled: {facts.restricted}")
    for asset, state in facts.undone.items():
        yield no(f"{asset} is {state.replace('_', ' ')}, not done")
    for task in facts.tasks:
        yield no(f"{task} is at work on it")
    for path, key in facts.shared:
        yield no(f"{path} belongs to the scan {key} as well")
    if not facts.survivors:
        yield no("no verified copy would be left in a durable place")
    if not facts.armed:
        yield Reason(Kind.DISARMED, f"deletion in {facts.where} is not armed")


def _other(place: str, rule: Prune, facts: Facts, now: datetime, day: timedelta) -> Iterator[Reason]:
    """Is the copy in `place` proven for every file, recently enough, and is it there now as it was proven?"""
    copy = facts.others.get(place, Other(None))
    if copy.state != VERIFIED:
        yield Reason(Kind.RULE, f"its copy in {place} is {copy.state or 'missing'}, not verified")
        return
    if copy.leaving:
        yield Reason(Kind.RULE, f"its copy in {place} is about to be deleted, too")
    for file in facts.files:
        proof = _proof(copy.proofs.get(file.path, ()))
        if proof is None:
            yield Reason(Kind.RULE, f"nothing proves {file.path} in {place}")
            continue
        if (now - proof.at) / day > rule.evidence_days:
            yield Reason(
                Kind.RULE, f"what proves {file.path} in {place} is of {proof.at:%Y-%m-%d}, too long ago to count"
            )
        if proof.bytes != file.bytes:
            yield Reason(Kind.DIFFERS, f"{file.path} in {place} was proven with {proof.bytes} bytes, not {file.bytes}")
        digests = {one.digest for one in copy.proofs.get(file.path, ()) if one.digest} | {file.sha256} - {None}
        if len(digests) > 1:
            yield Reason(Kind.DIFFERS, f"{file.path} in {place} was read with more than one SHA-256")
        yield from _there(place, file, proof, copy.look, now)
    yield from _whole(place, copy.look, now)


def _proof(known: Sequence[Proof]) -> Proof | None:
    """The latest that compared bytes."""
    return max((one for one in known if one.method in PROOFS), key=lambda one: one.at, default=None)


def _there(place: str, file: File, proof: Proof, look: Look | NoLook, now: datetime) -> Iterator[Reason]:
    if isinstance(look, NoLook) or look.problem:
        return
    seen = look.files.get(file.path)
    if seen is None:
        yield Reason(Kind.DIFFERS, f"{file.path} is not in {place} any more")
    elif seen.bytes != proof.bytes:
        yield Reason(Kind.DIFFERS, f"{file.path} has {seen.bytes} bytes in {place}, not {proof.bytes} as was proven")
    elif seen.mtime is not None and seen.mtime != proof.mtime:
        yield Reason(Kind.DIFFERS, f"{file.path} was written in {place} after it had been proven")
    elif seen.sha256 and proof.digest and seen.sha256 != proof.digest:
        yield Reason(Kind.DIFFERS, f"{file.path} is in {place} with another SHA-256 than was proven")


def _whole(place: str, look: Look | NoLook, now: datetime) -> Iterator[Reason]:
    if isinstance(look, NoLook):
        yield Reason(Kind.UNKNOWN, f"{place}: {look.why}")
    elif look.problem:
        yield Reason(Kind.DIFFERS, f"its copy in {place} is not whole: {look.problem}")
    elif now - look.at > look.lasts:
        yield Reason(Kind.UNKNOWN, f"{place}: the look of {look.at:%Y-%m-%d %H:%M} UTC is too long ago")


def _own(facts: Facts, now: datetime) -> Iterator[Reason]:
    """Only what was recorded is deleted: a file that has changed is another file."""
    look = facts.own
    if isinstance(look, NoLook) or now - look.at > look.lasts:
        why = look.why if isinstance(look, NoLook) else "the last look is too long ago"
        yield Reason(Kind.UNKNOWN, f"{facts.where}: {why}")
        return
    for file in facts.files:
        seen = look.files.get(file.path)
        if seen is None:
            if not facts.in_trash:  # in the trash some may be deleted already
                yield Reason(Kind.OWN, f"{file.path} is not in {facts.where} any more")
        elif (seen.bytes, seen.mtime) != (file.bytes, file.mtime):
            yield Reason(Kind.OWN, f"{file.path} in {facts.where} is not the file that was noticed")
