"""Looking at the copies that are to let another one go: what is there now, in every place that the rule demands.

A place with a Globus view is listed. What has none (tape) is looked at by a job: `als-archive verify --level listing`
compares the manifest that lies beside each archive, the archive's index and the sizes on tape. Its answer is read from
the facility whenever it is needed and counts for `look_s`; an answer that cannot be had is no answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from als_assets import intents, jobs
from als_assets.families import TRANSFER, storage
from als_assets.pruning.facts import Case
from beamlines.policy.deletable import Look, NoLook, Seen
from beamlines.spec import Spec
from resources import once
from resources.errors import CredentialProblem, FacilityError, NotFound, Unavailable
from resources.facilities import Facilities
from resources.ledger import Ledger, products, removals, tasks
from resources.ledger.tasks import Task
from resources.storage import Storage, WrongPlace, joined

MOST_LOOKS = 100  # archives per job: each takes a few seconds of hsi
SKEW = timedelta(minutes=2)  # by which the clock of a transfer node may be ahead of ours

Looked = dict[int, Look | NoLook]  # scan id → what was seen


@dataclass
class Looks:
    """The looks of one run.

    Attributes:
        asset: under which pruning keeps its tasks, "prune_dtn".
        troubles: what kept a look from being made, for people.
    """

    ledger: Ledger
    spec: Spec
    facilities: Facilities
    services: Mapping[str, Any]
    asset: str
    troubles: list[FacilityError] = field(default_factory=list)
    asked: set[int] = field(default_factory=set)  # scans that this run has asked a job for
    _answers: dict[tuple[int, int], Look | NoLook] = field(default_factory=dict)

    def around(self, needs: Sequence[str], cases: Sequence[Case]) -> dict[int, dict[str, Look | NoLook]]:
        """scan id → place → what is there now, for each place of `needs`."""
        out: dict[int, dict[str, Look | NoLook]] = {case.scan.id: {} for case in cases}
        for place in needs:
            found = self._at(place, cases)
            for scan_id, look in found.items():
                out[scan_id][place] = look
        return out

    def _at(self, place: str, cases: Sequence[Case]) -> Looked:
        if self.facilities.place(self.spec.id, place).globus is not None:
            at = storage(self.spec, place, self.facilities, self.services[TRANSFER])
            names = {
                case.scan.id: {f.path: joined(case.copies[place].root, f.path) for f in case.facts.files}
                for case in cases
                if place in case.copies
            }
            return self.listed(at, names)
        if self.spec.archive is not None and place == self.spec.archive.place:
            return self._on_tape(cases)
        nobody = NoLook("nothing can look at it: the facility file gives it no Globus view, and it is no archive")
        return {case.scan.id: nobody for case in cases}

    def listed(self, at: Storage, names: Mapping[int, Mapping[str, str]]) -> Looked:
        """scan id → what the place lists now. names: scan id → path → its path in the place."""
        if not names:
            return {}
        began = self.ledger.now()
        try:
            found = at.look({name for one in names.values() for name in one.values()})
        except FacilityError as error:
            self.trouble(error)
            return {scan_id: NoLook(f"it could not be looked at: {error.reason}") for scan_id in names}
        out: Looked = {}
        for scan_id, wanted in names.items():
            shut = [found.closed[f] for name in wanted.values() if (f := name.rpartition("/")[0]) in found.closed]
            if shut:
                out[scan_id] = NoLook(f"its folder there may not be looked into: {shut[0]}")
                continue
            seen = {path: found.files[name] for path, name in wanted.items() if name in found.files}
            out[scan_id] = Look(began, {path: Seen(one.bytes, one.mtime) for path, one in seen.items()})
        return out

    def trouble(self, error: FacilityError) -> None:
        if all(str(error) != str(other) for other in self.troubles):
            self.troubles.append(error)

    # tape

    def _on_tape(self, cases: Sequence[Case]) -> Looked:
        assert self.spec.archive is not None
        ids = [case.scan.id for case in cases]
        with self.ledger.read() as tx:
            latest = removals.latest_looks(tx, self.asset, ids)
            made = {scan_id: products.latest(tx, scan_id, self.spec.archive.asset) for scan_id in ids}
        out: Looked = {}
        for case in cases:
            product, task = made[case.scan.id], latest.get(case.scan.id)
            if product is None or not product.path:
                out[case.scan.id] = NoLook("the ledger does not know the name of its archive")
            elif task is None:
                out[case.scan.id] = NoLook("nobody has looked at its archive yet", wanted=True)
            elif task.live:
                out[case.scan.id] = NoLook(f"its archive is being looked at, by job {task.external_id or 'to come'}")
            else:
                out[case.scan.id] = self._answer(task, case, product.path)
        return out

    def _answer(self, task: Task, case: Case, archive: str) -> Look | NoLook:
        """What the job found. One that is too old, or of another archive, is as good as none."""
        known = (task.id, case.scan.id)
        if known not in self._answers:
            try:
                self._answers[known] = self._read(task, case, archive)
            except FacilityError as error:
                self.trouble(error)
                return NoLook(f"what job {task.external_id} saw of its archive cannot be read: {error.reason}")
        look = self._answers[known]
        if isinstance(look, Look) and self.ledger.now() - look.at > look.lasts:
            return NoLook(f"its archive was looked at {look.at:%Y-%m-%d %H:%M} UTC, too long ago", wanted=True)
        return look

    def _read(self, task: Task, case: Case, archive: str) -> Look | NoLook:
        assert self.spec.archive is not None
        compute = self.services[self.spec.archive.facility]
        ended = jobs.outcome(compute, task)[case.scan.hash]
        folder = joined(task.request["job"]["attempt_dir"], case.scan.hash)
        try:
            document = jobs.read_json(compute.read(joined(folder, "verify.json"), jobs.MOST_BYTES))
        except NotFound:
            why = ended.message.rstrip(".") or "it left no verify.json"
            return NoLook(f"its archive could not be looked at in job {task.external_id}: {why}", wanted=True)
        if document["archive"] != archive:
            return NoLook("its archive is a newer one than the one that was looked at", wanted=True)
        at = datetime.fromisoformat(str(document["at"]))
        if at > self.ledger.now() + SKEW:
            return NoLook(f"job {task.external_id} says that it looked at {at:%Y-%m-%d %H:%M} UTC, which is to come")
        files = {str(f["name"]): Seen(f["bytes"], None, f["sha256"]) for f in document["files"] or []}
        problems = [f"{p['name']}: {p['reason']}" if p["name"] else str(p["reason"]) for p in document["problems"]]
        problem = None if document["whole"] and not problems else "; ".join(problems[:3]) or "it is not whole"
        return Look(at, files, self.facilities.pace.span("look_s"), problem)

    def ask(self, cases: Sequence[Case]) -> list[int]:
        """Have a job look at the archives of these scans, many in one; returns the ids of the tasks. Each scan is asked
        for once in a run: a look that failed is tried again by the next one."""
        assert self.spec.archive is not None
        archive = self.spec.archive
        fresh = [case for case in cases if case.scan.id not in self.asked]
        folders = self.facilities.work(archive.facility, self.spec.id)
        compute = self.services[archive.facility]
        out: list[int] = []
        for start in range(0, len(fresh), MOST_LOOKS):
            block = fresh[start : start + MOST_LOOKS]
            with self.ledger.write() as tx:
                key = intents.proposed_key(tx, self.spec.id, self.asset, removals.LOOK, [c.scan for c in block])
                out_dir = jobs.attempt_dir(folders, key)
                commands = []
                for case in block:
                    product = products.latest(tx, case.scan.id, archive.asset)
                    assert product is not None
                    wanted = {
                        "schema": "als-archive/1", "archive": product.path, "out": joined(out_dir, case.scan.hash),
                    }  # fmt: skip
                    argv = ["als-archive", "verify", "--level", "listing"]
                    commands.append(jobs.Command(case.scan.hash, argv, wanted))
                task_id = tasks.ask(
                    tx, self.ledger.now(), beamline=self.spec.id, asset=self.asset, purpose=removals.LOOK,
                    system=compute.system, service=compute.service, proposed_key=key, attempt=1,
                    request=jobs.request(folders, key, archive.directives, commands),
                    scan_ids=[case.scan.id for case in block],
                )  # fmt: skip
                out.append(task_id)
            self.asked |= {case.scan.id for case in block}
        return out

    def rest(self, error: FacilityError) -> None:
        """Let a service rest that did not answer. A place that is not itself is no trouble of the service."""
        if isinstance(error, Unavailable | CredentialProblem) and not isinstance(error, WrongPlace):
            once.pause(self.ledger, error, self.facilities.pace.patience)
