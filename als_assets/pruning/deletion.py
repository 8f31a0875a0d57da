"""The second phase: files that have been in the trash for long enough are deleted, by a task that names each of them.

    in_trash ──→ deleting ──→ deleted; back to in_trash when the trash still lists some of them

The intent is committed first, with the decision in the same transaction. The task is sent by a run of pruning only,
which decides once more when it did not commit the intent itself: a hold may have come since.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from sqlalchemy.engine import Connection

from als_assets import intents
from als_assets.earlier import Earlier
from als_assets.pruning import trash as trash_of
from als_assets.pruning.facts import Case, keep_looks
from als_assets.pruning.place import asset_of
from als_assets.pruning.report import Item, State
from als_assets.pruning.trash import Spot, Trash
from als_assets.pruning.way_back import WayBack
from beamlines.policy import due
from resources import once
from resources.errors import Unavailable
from resources.ledger import removals, steps, tasks
from resources.ledger.removals import Removal
from resources.ledger.tasks import Task

DEADLINE_S = 24 * 3600.0  # of a delete task; Globus allows no more
Ready = tuple[Removal, Case, Sequence[Spot]]


class Deletion(WayBack):
    """Deletes what is in the trash of a place."""

    def delete(self, ready: Sequence[Ready]) -> None:
        """Commit which files are to be deleted, if nothing has come between, and have them deleted."""
        earlier = Earlier(self.ledger, self.globus, self.spec.id, removals.DELETE)
        if earlier.restored() and (task_id := earlier.under_way()) is not None:
            words = (
                f"deletion waits for task {task_id}, which was submitted before the ledger was restored from a backup"
            )
            self.looks.trouble(Unavailable(self.globus.service, words))
            return
        now = self.ledger.now()
        with self.ledger.write() as tx:
            self.renew(tx)
            still = [
                (removal, fresh, spots)
                for removal, case, spots in ready
                if (fresh := self.still(tx, case, now)) is not None
                and removals.get(tx, removal.id).state == removals.IN_TRASH
            ]
            if not still:
                return
            task = tasks.get(tx, self._intend(tx, still, now))
        self.report.progress += len(still)
        self.tried |= {removal.id for removal, _, _ in still}
        once.submit(self.ledger, self.globus, task, self.pace.patience)
        self.busy = True

    def _intend(self, tx: Connection, still: Sequence[Ready], now: datetime) -> int:
        spots = [spot for _, _, group in still for spot in group]
        members = [case.scan for _, case, _ in still]
        key = intents.proposed_key(tx, self.spec.id, self.looks.asset, removals.DELETE, members)
        task_id = tasks.ask(
            tx, now, beamline=self.spec.id, asset=self.looks.asset, purpose=removals.DELETE, attempt=1,
            system=self.globus.system, service=self.globus.service, proposed_key=key,
            request=self.trash.request(spots, key, DEADLINE_S), scan_ids=[scan.id for scan in members],
        )  # fmt: skip
        for removal, case, _ in still:
            keep_looks(tx, case, now)
            removals.move(tx, removal, [removals.IN_TRASH], removals.DELETING, now, task_id=task_id)
            self.record(tx, case.scan, "deleting", self.why(case))
        return task_id

    def follow(self, task_id: int, group: Sequence[Removal]) -> None:
        """What has become of a delete task; one whose files may not be deleted any more is ended."""
        cases = self.cases([removal.scan_id for removal in group])
        task = self._task(task_id)
        if task.live and task.external_id is None:
            self._send_or_call_off(task, group, cases)
        elif task.live:
            once.poll(self.ledger, self.globus, [task], self.pace.patience)
            against = [r for case in cases.values() for r in self.standing(case)]
            if against and self._task(task_id).live:
                self.run.log.warning("delete task %s is ended: %s", task.external_id, against[0].words)
                self.globus.cancel(str(task.external_id))
        task = self._task(task_id)
        if task.live:
            self.busy = True
        else:
            self._collect(task, group, cases)

    def _task(self, task_id: int) -> Task:
        with self.ledger.read() as tx:
            return tasks.get(tx, task_id)

    def _send_or_call_off(self, task: Task, group: Sequence[Removal], cases: Mapping[int, Case]) -> None:
        """The run that intended it was killed, or its answer was lost. The same submission id is the same task."""
        pairs = [(removal, cases[removal.scan_id]) for removal in group]
        now = self.ledger.now()
        spots = self.trash.find(pairs)
        needs = self.rule.needs if self.rule is not None else []
        around = self.looks.around(needs, list(cases.values()))
        looked = []
        if len(spots) < len(pairs):
            self.trouble(f"what is in the trash of {self.where} may not be looked into; its deletion waits")
            return
        for removal, case in pairs:
            if any(spot.trashed is not None for spot in spots[removal.id]):
                own = trash_of.seen_in_trash(spots[removal.id], now)
                looked.append(case.seen(around[case.scan.id], own, in_trash=True))
        with self.ledger.write() as tx:
            self.renew(tx)
            clear = len(looked) == len(pairs) and all(self.still(tx, case, now) is not None for case in looked)
        if clear:
            once.submit(self.ledger, self.globus, task, self.pace.patience)
        else:
            self._call_off(task)

    def _call_off(self, task: Task) -> None:
        """Some of it is gone already or may not be deleted any more: do not send the task, or end it if it was sent."""
        why = "not sent: what it was to delete is gone, or may not be deleted any more"
        now = self.ledger.now()
        if task.tried_at is None:
            with self.ledger.write() as tx:
                removals.withdraw(tx, task, unseen=False, why=why, now=now)
            return
        there = self.globus.find(task.key or "")
        if there:
            with self.ledger.write() as tx:
                tasks.submitted(tx, task.id, there[-1].id, now)
            self.globus.cancel(there[-1].id)
        elif now - task.tried_at >= self.pace.span("lookup_s"):
            with self.ledger.write() as tx:
                removals.withdraw(tx, task, unseen=True, why=why, now=now)

    def _collect(self, task: Task, group: Sequence[Removal], cases: Mapping[int, Case]) -> None:
        """What the trash lists counts, not how the task says that it ended."""
        pairs = [(removal, cases[removal.scan_id]) for removal in group]
        spots = self.trash.find(pairs)
        for removal, case in pairs:
            if removal.id not in spots:
                self.trouble(f"{case.scan.key}: what is left of it in the trash of {self.where} may not be looked into")
                continue
            left = [spot for spot in spots[removal.id] if spot.trashed is not None]
            if not left:
                self.guarded(case, lambda r=removal, c=case: self.gone(r, c, None))
                continue
            with self.ledger.write() as tx:
                removals.move(tx, removal, [removals.DELETING], removals.IN_TRASH, self.ledger.now(), task_id=None)
            self.report.progress += 1
            if task.external_id is None and task.state == "cancelled":
                continue  # it was called off
            self.tried.add(removal.id)
            if not self.standing(case):
                said = (task.reason or f"the task ended as {task.native}").rstrip(".")
                self.trouble(
                    f"{case.scan.key}: {len(left)} of its files are still in the trash of {self.where} after Globus "
                    f"task {task.external_id}: {said}. What to do: look at the task's page; the next run tries again."
                )

    def gone(self, removal: Removal, case: Case, note: str | None) -> None:
        """The files are not there any more: the copy is pruned, and the catalogue and Dagster are to be told."""
        now = self.ledger.now()
        with self.ledger.write() as tx:
            if not removals.gone(tx, removal, now, note):
                return
            self.settle_question(tx, case.scan)
            details = {"files": sorted(case.names.values()), "bytes": case.bytes}
            self.record(tx, case.scan, "pruned", note or removal.why, details)
            for name in due.again_after(self.spec, asset_of(self.spec, self.place)):
                steps.do_again(tx, case.scan.id, name, f"its copy in {self.place} was pruned", now)
        self.report.progress += 1
        self.report.keep(Item.of(self.place, case, State.DELETED, note=note))
        if trash_of.tidy(self.at, removal, case.names, self.pace.trash_s):
            self.trash = Trash(self.at)  # of some folders that it has made it is no longer so
