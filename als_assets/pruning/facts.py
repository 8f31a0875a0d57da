"""What is known of scans whose copy in a place may be deleted: read from the ledger, for `beamlines.policy.deletable`.

A case has no looks yet (`looks` adds them). It is read three times: to find out what is worth a look, and again
in the transaction that commits each of the two intents, since a hold, a task or a disarming may have come meanwhile.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy.engine import Connection

from beamlines.policy import deletable
from beamlines.policy.deletable import Facts, File, Hold, Look, NoLook, Other, Proof, Reason
from beamlines.spec import Kind, Spec
from resources.ledger import holds, removals, scans, steps
from resources.ledger.removals import Copy
from resources.ledger.scans import Scan
from resources.ledger.tasks import Task
from resources.storage import joined

LISTING = "listing"
DAY = timedelta(days=1)


@dataclass(frozen=True)
class Case:
    """A scan and its copy in the place at hand.

    Attributes:
        copies: place → copy, of all places. ids: path → id, of its files. names: path → its path in the place.
    """

    scan: Scan
    copy: Copy
    copies: Mapping[str, Copy]
    ids: Mapping[str, int]
    facts: Facts

    @property
    def names(self) -> dict[str, str]:
        return {file.path: joined(self.copy.root, file.path) for file in self.facts.files}

    @property
    def bytes(self) -> int:
        return sum(file.bytes for file in self.facts.files)

    def seen(self, others: Mapping[str, Look | NoLook], own: Look | NoLook, in_trash: bool = False) -> Case:
        """With what was seen around."""
        looked = {
            place: replace(other, look=others.get(place, deletable.NOT_LOOKED))
            for place, other in self.facts.others.items()
        }
        return replace(self, facts=replace(self.facts, others=looked, own=own, in_trash=in_trash))

    def looked_like(self, earlier: Case) -> Case:
        """With what was seen for `earlier`, the same case as it was read before."""
        looks = {place: other.look for place, other in earlier.facts.others.items()}
        return self.seen(looks, earlier.facts.own, earlier.facts.in_trash)


@dataclass(frozen=True)
class Docket:
    """What decides about the copies of a beamline in one place. `day`: what a day of retention lasts."""

    spec: Spec
    place: str
    durable: Collection[str]
    day: timedelta

    @property
    def where(self) -> str:
        return f"{self.spec.id}/{self.place}"

    def days(self, count: float) -> str:
        """In words; where a day of retention is no day, as in the sandbox, with what it lasts."""
        short = "" if self.day == DAY else f" of {self.day.total_seconds():g} s"
        return f"{count:g} days{short}"

    def question(self, scan: Scan) -> str:
        """How the questions begin that pruning asks about a scan."""
        return f"{scan.key}: pruning of {self.where}:"

    def reasons(self, case: Case, now: datetime) -> list[Reason]:
        return deletable.reasons(self.spec.prune(self.place), case.facts, now, self.day)

    def cases(self, tx: Connection, scan_ids: Collection[int], now: datetime) -> dict[int, Case]:
        """The cases of scans that have a copy in the place."""
        found = scans.many(tx, scan_ids)
        files = scans.files_of(tx, list(found))
        copies = removals.copies_of(tx, list(found))
        wanted = [copy.id for held in copies.values() for copy in held.values()]
        proofs = removals.evidence_of(tx, wanted)
        on = holds.of_scans(tx, list(found), now)
        leaving = removals.of_scans(tx, list(found))
        at_work = removals.at_work(tx, list(found))
        armed = removals.armed(tx, self.spec.id, self.place) is not None
        undone = self._undone(tx, list(found))
        shared = removals.shared(tx, self.spec.id, self.place, list(found))
        out: dict[int, Case] = {}
        for scan_id, scan in found.items():
            held, mine = copies[scan_id], copies[scan_id].get(self.place)
            if mine is None:
                continue
            gone = set(leaving.get(scan_id, {}))
            names = {file.id: file.path for file in files[scan_id]}
            ours = scan.question is not None and scan.question.startswith(self.question(scan))
            facts = Facts(
                where=self.where,
                state=mine.state,
                files=[
                    File(f.path, f.bytes, self._mtime(f, proofs[mine.id]), f.sha256) for f in files[scan_id]
                ],
                noticed_at=scan.noticed_at,
                armed=armed,
                others={
                    place: Other(copy.state, _by_path(proofs[copy.id], names), place in gone)
                    for place, copy in held.items()
                    if place != self.place
                },
                survivors=sorted(
                    place
                    for place, copy in held.items()
                    if place in self.durable and place != self.place and place not in gone
                    and copy.state == deletable.VERIFIED
                ),
                holds=[Hold(one.until, one.who, one.why) for one in on.get(scan_id, [])],
                question=None if ours else scan.question,  # what ours is about is looked at again
                restricted=scan.restricted,
                observed_only=self.spec.mode == "observe",
                undone=undone[scan_id],
                shared=shared.get(scan_id, ()),
                tasks=[_in_words(task) for task in at_work.get(scan_id, [])],
            )  # fmt: skip
            out[scan_id] = Case(scan, mine, held, {f.path: f.id for f in files[scan_id]}, facts)
        return out

    def _undone(self, tx: Connection, scan_ids: Collection[int]) -> dict[int, dict[str, str]]:
        have: dict[int, dict[str, str]] = {scan_id: {} for scan_id in scan_ids}
        for step in steps.of_scans(tx, scan_ids):
            have[step.scan_id][step.asset] = step.state
        return {
            scan_id: {
                asset.name: states.get(asset.name, "not begun")
                for asset in self.spec.assets()
                if asset.kind is not Kind.NOTICED and states.get(asset.name) not in deletable.DONE
            }
            for scan_id, states in have.items()
        }

    def _mtime(self, file: scans.File, proofs: Collection[Mapping[str, Any]]) -> datetime | None:
        """As the place itself listed the file when its copy there was recorded."""
        if self.place == self.spec.scans.watch:
            return file.mtime
        told = [p for p in proofs if p["file_id"] == file.id and p["method"] in deletable.PROOFS and p["mtime"]]
        return max(told, key=lambda p: p["at"])["mtime"] if told else None


def _in_words(task: Task) -> str:
    return f"{task.system} task {task.external_id or task.proposed_key} ({task.asset})"


def _by_path(rows: Collection[Mapping[str, Any]], names: Mapping[int, str]) -> dict[str, list[Proof]]:
    out: dict[str, list[Proof]] = {}
    for row in rows:
        proof = Proof(row["method"], row["bytes"], row["mtime"], row["at"], row["digest"])
        out.setdefault(names[row["file_id"]], []).append(proof)
    return out


def keep_looks(tx: Connection, case: Case, now: datetime) -> None:
    """What was seen of the copies that let this one go, as evidence by listing. Only of files that are proven: a
    listing alone must never count for a copy."""
    for place, other in case.facts.others.items():
        if isinstance(other.look, NoLook):
            continue
        for path, seen in other.look.files.items():
            if other.proofs.get(path) and path in case.ids:
                copy_id = case.copies[place].id
                scans.add_evidence(
                    tx, copy_id, case.ids[path], LISTING, None, seen.bytes, seen.mtime, other.look.at, None
                )
