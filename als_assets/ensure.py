"""Bring one asset of many scans to completion: observe, compare with what is wanted, act, repeat.

Every turn of the loop starts from the ledger, so it does not matter who did the last one, or whether it was killed in
the middle: attach to live tasks, collect what has landed, begin what is due, wait. Two at once are harmless.

An automatic run takes on what becomes due while it is there, so that a burst is a handful of runs, and ends after a
short grace without progress; its tasks go on without it. A patient one, started by a person or a backfill, stays until
every scan that it covers is done or failed.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar

import sqlalchemy as sa

from als_assets.family import ByHand, ByTask, Done, Family, GoOn, NotDone, Outcome, Refusal, Work
from beamlines.policy import retry
from resources import once
from resources.errors import CredentialProblem, FacilityError, Refused, Unavailable
from resources.facilities import Pace
from resources.ledger import Ledger, flow, history, leases, scans, schema, steps, tasks
from resources.ledger.scans import Scan
from resources.ledger.steps import Step
from resources.ledger.tasks import Task
from resources.tasks import TaskSystem

MOST_SCANS = 500  # that one automatic run takes on
AT_ONCE = 4  # calls to facilities under way at the same time
HOLD = timedelta(minutes=5)  # for how long a run holds a scan that it works on itself
T = TypeVar("T")


@dataclass(frozen=True)
class Made:
    """The asset of a scan is there and the ledger says so; Dagster is to be told."""

    scan: Scan
    metadata: dict[str, Any]


class Stay:
    """How long an automatic run stays: a grace after the last progress while tasks of its scans are under way, a
    moment for more work when there is none, and never longer than `stay_s`."""

    def __init__(self, pace: Pace, clock: Callable[[], float]) -> None:
        self.pace, self.clock = pace, clock
        self.end = clock() + pace.stay_s
        self.progress, self.since = 0, clock()

    def over(self, progress: int, busy: bool) -> bool:
        now = self.clock()
        if progress != self.progress:
            self.progress, self.since = progress, now
        return now > min(self.end, self.since + (self.pace.grace_s if busy else self.pace.linger_s))


@dataclass
class Ensure:
    """One run's work on one asset.

        async for made in Ensure(ledger, family, pace, systems, holder=run_id).run(keys, patient=False):
            context.log_event(AssetMaterialization(...))      # marked as reported when the next one is asked for

    Attributes:
        systems: task system by name ("globus", "sfapi"), to follow tasks that somebody else began.
        holder: who works, for the lease and the history: the id of the Dagster run.
        failed: after `run`: the key of each scan that failed -> why.
        progress: how many changes this run made.
    """

    ledger: Ledger
    family: Family
    pace: Pace
    systems: dict[str, TaskSystem]
    holder: str
    log: logging.Logger = field(default_factory=lambda: logging.getLogger("als"))
    failed: dict[str, str] = field(default_factory=dict)
    progress: int = 0

    def __post_init__(self) -> None:
        self.beamline = self.family.spec.id
        self.asset = self.family.asset.name
        self.told: set[int] = set()
        self._slots = asyncio.Semaphore(AT_ONCE)

    @property
    def lease(self) -> str:
        return f"{self.beamline}/{self.asset}"

    async def run(self, keys: Sequence[str], patient: bool) -> AsyncIterator[Made]:
        """Yield each scan as its asset comes to be. Scans that fail are in `failed` afterwards."""
        stay = Stay(self.pace, asyncio.get_running_loop().time)
        while True:
            if not patient:
                keys = await self._thread(self._with_due, keys)
            mine = await self._thread(self._steps, keys)
            for made in await self._thread(self._untold, mine, patient):
                yield made
                self.told.add(made.scan.id)
                await self._thread(self._reported, made.scan.id)
                self.progress += 1
            await self._turn(mine)
            mine = await self._thread(self._steps, keys)
            self.failed = {s.key: s.why or "no reason was kept" for s in mine if s.state == steps.FAILED}
            still = [s for s in mine if not self._settled(s, patient)]
            untold = [s for s in mine if s.state == steps.DONE and self._to_tell(s, patient)]
            if untold:
                continue
            if patient and not still:
                return
            if not patient and stay.over(self.progress, busy=bool(still)):
                return
            await asyncio.sleep(self.pace.poll_s)

    def _with_due(self, keys: Sequence[str]) -> list[str]:
        """These scans and those that have become due since."""
        now = self.ledger.now()
        with self.ledger.read() as tx:
            due = steps.due(tx, self.beamline, self.asset, now, now - self.pace.span("report_s"), MOST_SCANS)
        new = [key for key in due if key not in set(keys)]
        return [*keys, *new][: max(MOST_SCANS, len(keys))]

    def _settled(self, step: Step, patient: bool) -> bool:
        if step.state in (steps.DONE, steps.FAILED, steps.NOT_APPLICABLE):
            return True
        if patient:
            return self._stuck(step)
        # an automatic run does not wait for what is put off until later
        later = self.ledger.now() + self.pace.span("grace_s")
        return step.state == steps.BLOCKED or (step.next_try is not None and step.next_try > later)

    def _stuck(self, step: Step) -> bool:
        """A blocked step whose upstream has failed, or does not apply, will not come by waiting."""
        if step.state != steps.BLOCKED:
            return False
        with self.ledger.read() as tx:
            above = {s.asset: s for s in steps.of_scan(tx, step.scan_id)}
        for need in self.family.asset.needs:
            up = above.get(need)
            if up is None or up.state in (steps.FAILED, steps.NOT_APPLICABLE):
                self.failed[step.key] = (
                    f"{step.key}: {self.asset} waits for {need}, which {'is missing' if up is None else up.state}"
                    f"{f' ({up.why})' if up and up.why else ''}. What to do: bring {need} about first."
                )
                return True
        with self.ledger.read() as tx:
            missing = scans.get(tx, step.scan_id).missing
        if missing and all(need in above and above[need].state == steps.DONE for need in self.family.asset.needs):
            self.failed[step.key] = (
                f"{step.key}: {self.asset} waits for {', '.join(missing)}, which the beamline has not written. "
                "What to do: export it beside the scan's file."
            )
            return True
        return False

    # one turn

    async def _turn(self, mine: Sequence[Step]) -> None:
        await self._thread(self._renew)
        now = self.ledger.now()
        landed = {s.task_id for s in mine if s.state == steps.LANDED and s.task_id and (s.next_try or now) <= now}
        due = [s for s in mine if s.state in (steps.DUE, steps.WORKING) and (s.next_try or now) <= now]
        await self._all(self._collect(task_id) for task_id in sorted(landed))
        if due:
            await self._begin(due)
        under_way = {s.task_id for s in await self._thread(self._steps, [s.key for s in mine]) if s.task_id}
        await self._follow(sorted(under_way))

    async def _begin(self, due: Sequence[Step]) -> None:
        with self.ledger.read() as tx:
            found = scans.many(tx, [s.scan_id for s in due])
        pairs = [(s, found[s.scan_id]) for s in due]
        try:
            works = await self._thread(self.family.begin, pairs, self._resting)
        except (Unavailable, CredentialProblem) as error:
            self._put_off([s.scan_id for s in due], error)
            return
        by_scan = {s.scan_id: s for s in due}
        await self._all(self._do(work, by_scan) for work in works)

    async def _do(self, work: Work, by_scan: dict[int, Step]) -> None:
        if isinstance(work, Refusal):
            await self._thread(self._settle, by_scan[work.scan.id], work.scan, work.outcome)
            return
        service = work.system.service if isinstance(work, ByTask) else work.service
        with self.ledger.read() as tx:
            rest = leases.paused(tx, service, self.ledger.now())
        if rest is not None:
            ids = [s.id for s in work.scans] if isinstance(work, ByTask) else [work.scan.id]
            with self.ledger.write() as tx:
                why = f"waits for {service} until {rest.until:%H:%M:%S} UTC: {rest.reason}"
                self.progress += steps.put_off(tx, ids, self.asset, rest.until, why, self.ledger.now())
        elif isinstance(work, ByTask):
            await self._thread(self._intend, work)
        else:
            await self._thread(self._act, work, by_scan[work.scan.id])

    def _intend(self, work: ByTask) -> None:
        """Commit what is about to be asked for. Quietly nothing, if another run was faster for any of the scans."""
        ids = [scan.id for scan in work.scans]
        try:
            with self.ledger.write() as tx:
                key = self._proposed_key(tx, work)
                tasks.intend(
                    tx,
                    self.ledger.now(),
                    beamline=self.beamline,
                    asset=self.asset,
                    purpose=work.purpose,
                    system=work.system.system,
                    service=work.system.service,
                    proposed_key=key,
                    request=dict(work.request(key)),
                    attempt=work.attempt,
                    scan_ids=ids,
                )
            self.progress += len(ids)
        except (ValueError, sa.exc.IntegrityError) as error:
            self.log.info("%s of %d scans is begun elsewhere (%s)", work.purpose, len(ids), error)

    def _proposed_key(self, tx: sa.Connection, work: ByTask) -> str:
        """Computed from what is asked for whom, and the how-many-eth time: a ledger restored from yesterday proposes
        the same keys again, and finds what was submitted under them."""
        asked = (
            sa.select(schema.task_scans.c.scan_id, sa.func.count())
            .join_from(schema.task_scans, schema.tasks, schema.tasks.c.id == schema.task_scans.c.task_id)
            .where(schema.tasks.c.asset == self.asset, schema.tasks.c.purpose == work.purpose)
            .where(schema.task_scans.c.scan_id.in_([scan.id for scan in work.scans]))
            .group_by(schema.task_scans.c.scan_id)
        )
        times = {scan_id: n for scan_id, n in tx.execute(asked)}
        whom = sorted(f"{scan.hash}:{times.get(scan.id, 0)}" for scan in work.scans)
        text = "\n".join([self.beamline, self.asset, work.purpose, *whom])
        return f"als-{self.beamline}-{work.purpose}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"

    def _act(self, work: ByHand, step: Step) -> None:
        now = self.ledger.now()
        with self.ledger.write() as tx:
            if not steps.claim(tx, work.scan.id, self.asset, now + HOLD, now):
                return
        try:
            outcome = self.family.act(step, work.scan)
            once.answered(self.ledger, work.service)
        except (Unavailable, CredentialProblem) as error:
            self._put_off([work.scan.id], error)
            return
        except FacilityError as error:
            outcome = NotDone(
                f"{work.scan.key}: {self.asset}: {error.service} said: {error.reason}",
                "correct what it names, then materialize this partition again.",
                transient=False,
            )
        self._settle(step, work.scan, outcome)

    async def _collect(self, task_id: int) -> None:
        with self.ledger.read() as tx:
            task = tasks.get(tx, task_id)
            ids = [i for i, _ in tasks.scans_of(tx, task_id)]
            found = scans.many(tx, ids)
            waiting = {s.scan_id: s for i in ids for s in steps.of_scan(tx, i) if s.asset == self.asset}
        pairs = [(s, found[i]) for i, s in waiting.items() if s.state == steps.LANDED and s.task_id == task_id]
        if not pairs:
            return
        try:
            outcomes = await self._thread(self.family.collect, task, pairs)
        except (Unavailable, CredentialProblem) as error:
            rest = once.pause(self.ledger, error, self.pace.patience)
            why = (
                f"waits for {error.service} to read what came of {task.system} task {task.external_id}: {error.reason}"
            )
            with self.ledger.write() as tx:
                ids = [s.scan_id for s, _ in pairs]
                self.progress += steps.put_off_landed(tx, ids, self.asset, rest.until, why, self.ledger.now())
            return
        for step, scan in pairs:
            await self._thread(self._settle, step, scan, outcomes[scan.id])

    def _settle(self, step: Step, scan: Scan, outcome: Outcome) -> None:
        """Write down what came of a step, with its facts, in one transaction."""
        now = self.ledger.now()
        with self.ledger.write() as tx:
            outcome.write(tx, now)
            if isinstance(outcome, Done):
                moved = steps.finish(tx, scan.id, self.asset, now, outcome.why)
                if moved:
                    flow.came_true(tx, self.family.spec, scan.id, self.asset, now)
            elif isinstance(outcome, GoOn):
                moved = bool(steps.go_on(tx, [scan.id], self.asset, now, outcome.why))
                if moved and outcome.at is not None:
                    steps.put_off(tx, [scan.id], self.asset, outcome.at, outcome.why or "", now)
            else:
                moved = self._not_done(tx, step, scan, outcome)
        self.progress += bool(moved)

    def _not_done(self, tx: sa.Connection, step: Step, scan: Scan, outcome: NotDone) -> bool:
        now = self.ledger.now()
        rule = self.family.spec.retry
        again = retry.after_failure(rule, step.attempt, outcome.transient, outcome.why, now, self.pace.retry_speed)
        if outcome.question:
            scans.ask_person(tx, scan.id, outcome.message, now)
        if again.at is not None:
            moved = steps.try_again(tx, scan.id, self.asset, again.at, again.why, now)
        else:
            why = f"{again.why} What to do: {outcome.then}"
            moved = steps.fail(tx, scan.id, self.asset, why, now)
        if moved:
            what = "retry" if again.at else "failed"
            history.record(
                tx, now, f"run {self.holder}", what, beamline=self.beamline, scan_id=scan.id, asset=self.asset,
                why=again.why,
            )  # fmt: skip
            self.log.warning("%s", again.why)
        return moved

    async def _follow(self, task_ids: Sequence[int]) -> None:
        """Submit what is intended, and look after what is live."""
        with self.ledger.read() as tx:
            followed = [t for t in tasks.many(tx, task_ids) if t.live]
        await self._all(self._submit(task) for task in followed if task.external_id is None)
        before = self.ledger.now() - timedelta(seconds=self.pace.poll_s)
        by_service: dict[str, list[Task]] = {}
        for task in followed:
            if task.external_id and (task.polled_at is None or task.polled_at <= before):
                by_service.setdefault(task.system, []).append(task)
        for name, group in by_service.items():
            if self._resting(self.systems[name].service) is None:
                await self._quietly(once.poll, self.ledger, self.systems[name], group, self.pace.patience)

    async def _submit(self, task: Task) -> None:
        system = self.systems[task.system]
        if self._resting(system.service) is None:
            await self._quietly(once.submit, self.ledger, system, task, self.pace.patience)

    async def _quietly(self, call: Callable[..., Any], *arguments: Any) -> None:
        try:
            await self._thread(call, *arguments)
        except (Unavailable, CredentialProblem) as error:  # the service is paused now; the ledger says so
            self.log.warning("%s", error)
        except Refused as error:
            self.log.error("%s", error)

    # the ledger

    def _resting(self, service: str) -> str | None:
        with self.ledger.read() as tx:
            rest = leases.paused(tx, service, self.ledger.now())
        return rest.reason if rest else None

    def _put_off(self, scan_ids: Sequence[int], error: FacilityError) -> None:
        rest = once.pause(self.ledger, error, self.pace.patience)
        why = f"waits for {error.service} until {rest.until:%H:%M:%S} UTC: {error.reason}"
        with self.ledger.write() as tx:
            self.progress += steps.put_off(tx, scan_ids, self.asset, rest.until, why, self.ledger.now())

    def _steps(self, keys: Sequence[str]) -> list[Step]:
        with self.ledger.read() as tx:
            return steps.of_keys(tx, self.beamline, self.asset, keys)

    def _to_tell(self, step: Step, patient: bool) -> bool:
        return step.scan_id not in self.told and (patient or step.reported_at is None)

    def _untold(self, mine: Sequence[Step], patient: bool) -> list[Made]:
        ids = [s.scan_id for s in mine if s.state == steps.DONE and self._to_tell(s, patient)]
        with self.ledger.read() as tx:
            found = scans.many(tx, ids)
            return [Made(found[i], self.family.metadata(tx, found[i])) for i in ids]

    def _reported(self, scan_id: int) -> None:
        with self.ledger.write() as tx:
            steps.reported(tx, [scan_id], self.asset, self.ledger.now())

    def _renew(self) -> None:
        now = self.ledger.now()
        with self.ledger.write() as tx:
            leases.take_over(tx, self.lease, self.holder, now, self.pace.span("lease_s"))

    # threads

    async def _thread(self, call: Callable[..., T], *arguments: Any) -> T:
        async with self._slots:
            return await asyncio.to_thread(call, *arguments)

    async def _all(self, jobs: Any) -> None:
        """Run them side by side; one that raises does not keep the others from their end."""
        outcomes = await asyncio.gather(*jobs, return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome
