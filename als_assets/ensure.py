"""Bring one asset of many scans to completion: observe, compare with what is wanted, act, repeat.

Every turn of the loop starts from the ledger, so it does not matter who did the last one, or whether it was killed in
the middle: attach to live tasks, collect what has landed, begin what is due, wait. Two at once are harmless.

An automatic run takes on what becomes due while it is there, so that a burst is a handful of runs, and ends after a
short grace without progress; its tasks go on without it. A patient one, started by a person or a backfill, stays until
every scan that it covers is done or failed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, TypeVar

from als_assets import intents
from als_assets.family import ByHand, ByTask, Family, NotDone, Outcome, PutOff, Refusal, Rests, Wait, Work
from als_assets.outcomes import Outcomes
from als_assets.reports import Made, Reports
from als_assets.stay import Stay
from beamlines.policy import restricted
from resources import once
from resources.errors import CredentialProblem, FacilityError, Refused, Unavailable
from resources.facilities import Pace
from resources.ledger import Ledger, assignments, flow, leases, scans, steps, tasks
from resources.ledger.leases import Pause
from resources.ledger.scans import Scan
from resources.ledger.steps import Step
from resources.ledger.tasks import Task
from resources.tasks import TaskSystem

MOST_SCANS = 500  # that one automatic run takes on
AT_ONCE = 4  # calls to facilities under way at the same time
T = TypeVar("T")
Pair = tuple[Step, Scan]


@dataclass
class Ensure:
    """One run's work on one asset.

        async for made in Ensure(ledger, family, pace, systems, holder=run_id).run(keys, patient=False):
            context.log_event(AssetMaterialization(...))      # marked as reported when the next one is asked for

    Attributes:
        systems: task system by the name of its service ("globus", "nersc"), to follow tasks that somebody else began.
        holder: who works, for the lease and the history: the id of the Dagster run.
        failed: after `run`: the key of each scan that failed -> why.
        bugs: exceptions that nobody foresaw. What they concern is put off, the rest goes on, and `run` raises them
            at its end.
        progress: how many changes this run made.
    """

    ledger: Ledger
    family: Family
    pace: Pace
    systems: dict[str, TaskSystem]
    holder: str
    log: logging.Logger = field(default_factory=lambda: logging.getLogger("als"))
    failed: dict[str, str] = field(default_factory=dict)
    bugs: list[Exception] = field(default_factory=list)
    progress: int = 0

    def __post_init__(self) -> None:
        self.beamline = self.family.spec.id
        self.asset = self.family.asset.name
        self.outcomes = Outcomes(self.ledger, self.family, self.pace, self.holder, self.log)
        self.reports = Reports(self.ledger, self.family, self.log, self.bugs)
        self._stop = False
        self._slots = asyncio.Semaphore(AT_ONCE)

    @property
    def lease(self) -> str:
        return f"{self.beamline}/{self.asset}"

    async def run(self, keys: Sequence[str], patient: bool) -> AsyncIterator[Made]:
        """Yield each scan as its asset comes to be. Scans that fail are in `failed` afterwards.

        Raises ExceptionGroup at the end when there were `bugs`; every scan that they do not concern has had its turn.
        """
        stay = Stay(self.pace, asyncio.get_running_loop().time)
        while True:
            if not patient:
                keys = await self._thread(self._with_due, keys)
            mine = await self._thread(self._steps, keys)
            for made in await self._thread(self.reports.untold, mine, patient):
                yield made
                await self._thread(self.reports.mark, made)
                self.progress += 1
            if self._stop:
                break
            await self._turn(mine, patient)
            mine = await self._thread(self._steps, keys)
            self.failed = {s.key: s.why or "no reason was kept" for s in mine if s.state == steps.FAILED}
            still = [s for s in mine if not self._settled(s, patient)]
            untold = [s for s in mine if self.reports.wanted(s, patient)]
            if not untold and not self._stop:
                if stay.over(self.progress, busy=bool(still)) if not patient else not still:
                    break
                await asyncio.sleep(self.pace.poll_s)
        if self.bugs:
            first = f"{type(self.bugs[0]).__name__}: {self.bugs[0]}"
            words = f"{self.beamline}/{self.asset} met {len(self.bugs)} unforeseen errors; the first: {first}"
            raise ExceptionGroup(words, self.bugs)

    def _with_due(self, keys: Sequence[str]) -> list[str]:
        """These scans and those that have become due since."""
        now = self.ledger.now()
        with self.ledger.read() as tx:
            due = steps.due(tx, self.beamline, self.asset, now, now - self.pace.span("report_s"), MOST_SCANS)
        mine = set(keys)
        return [*keys, *(key for key in due if key not in mine)][: max(MOST_SCANS, len(keys))]

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
            scan = scans.get(tx, step.scan_id)
            missing = scan.missing
        if scan.restricted:
            self.failed[step.key] = restricted.message(step.key, scan.restricted)
            return True
        for need in self.family.asset.needs:
            up = above.get(need)
            if up is None or up.state in (steps.FAILED, steps.NOT_APPLICABLE):
                self.failed[step.key] = (
                    f"{step.key}: {self.asset} waits for {need}, which {'is missing' if up is None else up.state}"
                    f"{f' ({up.why})' if up and up.why else ''}. What to do: bring {need} about first."
                )
                return True
        if missing and all(above[need].state == steps.DONE for need in self.family.asset.needs):
            self.failed[step.key] = (
                f"{step.key}: {self.asset} waits for {', '.join(missing)}, which the beamline has not written. "
                "What to do: export it beside the scan's file."
            )
            return True
        return False

    # one turn

    async def _turn(self, mine: Sequence[Step], patient: bool) -> None:
        if not patient:  # the lease is that of automatic runs: a backfill of two days must not keep them away
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
        held = await self._thread(self._hold_back, [found[s.scan_id] for s in due])
        due = [s for s in due if s.scan_id not in held]
        rests = Resting(self.ledger, self.pace)
        pairs = [(s, found[s.scan_id]) for s in due]
        by_scan = {s.scan_id: s for s in due}
        works = await self._thread(self._works, pairs, rests)
        await self._all(self._do(work, by_scan, rests) for work in works)

    def _hold_back(self, mine: Sequence[Scan]) -> set[int]:
        """Those of which nothing may leave the beamline, as today's spec says, whatever it said when they came."""
        spec = self.family.spec
        held = assignments.held(spec, mine)
        if held:
            with self.ledger.write() as tx:
                now = self.ledger.now()
                for scan in held:
                    assignments.decide(tx, spec, scans.get(tx, scan.id), f"run {self.holder}", now)
                flow.advance(tx, spec, [scan.id for scan in held], now)
        return {scan.id for scan in held}

    def _works(self, pairs: Sequence[Pair], rests: Rests) -> list[Work]:
        try:
            return self.family.begin(pairs, rests)
        except (Unavailable, CredentialProblem) as error:
            self._put_off([scan.id for _, scan in pairs], error)
            return []
        except Exception as error:  # noqa: BLE001 - one by one, so that what one scan meets holds no other
            if len(pairs) > 1:
                return [work for pair in pairs for work in self._works([pair], rests)]
            step, scan = pairs[0]
            if isinstance(error, FacilityError):
                return [Refusal(scan, self._said_no(scan, error))]
            self._bug(error, step, scan)
            return []

    async def _do(self, work: Work, by_scan: dict[int, Step], rests: Rests) -> None:
        if isinstance(work, Refusal):
            await self._thread(self._settle, by_scan[work.scan.id], work.scan, work.outcome)
            return
        if isinstance(work, Wait):
            await self._thread(self._wait, [work.scan.id], work.until, work.why)
            return
        service = work.system.service if isinstance(work, ByTask) else work.service
        rest = rests.of(service)
        if rest is not None:
            ids = [s.id for s in work.scans] if isinstance(work, ByTask) else [work.scan.id]
            await self._thread(self._wait, ids, rest.until, waits_for(rest))
        elif isinstance(work, ByTask):
            await self._thread(self._intend, work)
        else:
            await self._thread(self._act, work, by_scan[work.scan.id])

    def _intend(self, work: ByTask) -> None:
        try:
            intents.intend(self.ledger, self.family, work)
            self.progress += len(work.scans)
        except intents.BegunElsewhere as error:
            self.log.info("%s of %d scans is begun elsewhere (%s)", work.purpose, len(work.scans), error)

    def _act(self, work: ByHand, step: Step) -> None:
        now = self.ledger.now()
        until = now + self.pace.span("lease_s")
        with self.ledger.write() as tx:
            if not steps.claim(tx, work.scan.id, self.asset, until, now):
                return
        step = replace(step, state=steps.WORKING, next_try=until)
        try:
            outcome = self.family.act(step, work.scan)
            once.answered(self.ledger, work.service)
        except (Unavailable, CredentialProblem) as error:
            self._put_off([work.scan.id], error)
            return
        except FacilityError as error:
            outcome = self._said_no(work.scan, error)
        except Exception as bug:  # noqa: BLE001 - kept and raised at the end of the run
            self._bug(bug, step, work.scan)
            return
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
        outcomes = await self._thread(self._outcomes_of, task, pairs)
        for step, scan in pairs:
            if scan.id in outcomes:
                await self._thread(self._settle, step, scan, outcomes[scan.id])

    def _outcomes_of(self, task: Task, pairs: Sequence[Pair]) -> dict[int, Outcome]:
        try:
            outcomes = self.family.collect(task, pairs)
            return {scan.id: outcomes[scan.id] for _, scan in pairs}
        except (Unavailable, CredentialProblem) as error:
            self._put_off_landed(task, [scan.id for _, scan in pairs], error)
            return {}
        except Exception as error:  # noqa: BLE001 - one by one, so that what one scan meets holds no other
            if len(pairs) > 1:
                return {i: one for pair in pairs for i, one in self._outcomes_of(task, [pair]).items()}
            step, scan = pairs[0]
            if isinstance(error, FacilityError):
                return {scan.id: self._said_no(scan, error)}
            self._bug(error, step, scan)
            return {}

    def _settle(self, step: Step, scan: Scan, outcome: Outcome) -> None:
        try:
            if isinstance(outcome, PutOff):
                rest = once.pause(self.ledger, outcome.error, self.pace.patience)
                self.progress += self.outcomes.put_off(step, scan, rest.until, waits_for(rest))
            else:
                self.progress += self.outcomes.settle(step, scan, outcome)
        except Exception as bug:  # noqa: BLE001 - kept and raised at the end of the run
            self._bug(bug, step, scan)

    def _said_no(self, scan: Scan, error: FacilityError) -> NotDone:
        return NotDone(
            f"{scan.key}: {self.asset}: {error.service} said: {error.reason.rstrip('.')}.",
            "correct what it names, then materialize this partition again.",
            transient=False,
        )

    def _bug(self, bug: Exception, step: Step, scan: Scan) -> None:
        self.bugs.append(bug)
        self.log.error("%s: %s met a bug", scan.key, self.asset, exc_info=bug)
        self.progress += self.outcomes.broken(step, scan, bug)

    # following tasks

    async def _follow(self, task_ids: Sequence[int]) -> None:
        """Submit what is intended, and look after what is live."""
        with self.ledger.read() as tx:
            followed = [t for t in tasks.many(tx, task_ids) if t.live]
        await self._all(self._submit(task) for task in followed if task.external_id is None)
        before = self.ledger.now() - timedelta(seconds=self.pace.poll_s)
        by_service: dict[str, list[Task]] = {}
        for task in followed:
            if task.external_id and (task.polled_at is None or task.polled_at <= before):
                by_service.setdefault(task.service, []).append(task)
        for name, group in by_service.items():
            if self._resting(name) is None:
                await self._quietly(once.poll, self.ledger, self.systems[name], group, self.pace.patience)

    async def _submit(self, task: Task) -> None:
        system = self.systems[task.service]
        if self._resting(system.service) is None:
            await self._quietly(once.submit, self.ledger, system, task, self.pace.patience)

    async def _quietly(self, call: Callable[..., Any], *arguments: Any) -> None:
        try:
            await self._thread(call, *arguments)
        except (Unavailable, CredentialProblem) as error:  # the service is paused now; the ledger says so
            self.log.warning("%s", error)
        except Refused as error:
            self.log.error("%s", error)
        except Exception as bug:
            self.log.error("a task could not be submitted or followed", exc_info=bug)
            self.bugs.append(bug)
            self._stop = True

    # the ledger

    def _resting(self, service: str) -> Pause | None:
        with self.ledger.read() as tx:
            return leases.paused(tx, service, self.ledger.now())

    def _wait(self, scan_ids: Sequence[int], until: datetime, why: str) -> None:
        with self.ledger.write() as tx:
            self.progress += steps.put_off(tx, scan_ids, self.asset, until, why, self.ledger.now())

    def _put_off(self, scan_ids: Sequence[int], error: FacilityError) -> None:
        rest = once.pause(self.ledger, error, self.pace.patience)
        self._wait(scan_ids, rest.until, waits_for(rest))

    def _put_off_landed(self, task: Task, scan_ids: Sequence[int], error: FacilityError) -> None:
        rest = once.pause(self.ledger, error, self.pace.patience)
        why = f"{waits_for(rest)}; then what came of {task.system} task {task.external_id} will be read"
        with self.ledger.write() as tx:
            self.progress += steps.put_off_landed(tx, scan_ids, self.asset, rest.until, why, self.ledger.now())

    def _steps(self, keys: Sequence[str]) -> list[Step]:
        with self.ledger.read() as tx:
            return steps.of_keys(tx, self.beamline, self.asset, keys)

    def _renew(self) -> None:
        now = self.ledger.now()
        with self.ledger.write() as tx:
            leases.take_over(tx, self.lease, self.holder, now, self.pace.span("lease_s"))

    # threads

    async def _thread(self, call: Callable[..., T], *arguments: Any) -> T:
        async with self._slots:
            return await asyncio.to_thread(call, *arguments)

    async def _all(self, jobs: Iterable[Awaitable[None]]) -> None:
        """Run them side by side; one that raises does not keep the others from their end."""
        outcomes = await asyncio.gather(*jobs, return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome


class Resting:
    """Which services rest, asked once: between the look at a destination and the submission a pause may run out, and
    then nobody has looked."""

    def __init__(self, ledger: Ledger, pace: Pace) -> None:
        self.ledger, self.pace = ledger, pace
        self.known: dict[str, Pause | None] = {}

    def of(self, service: str) -> Pause | None:
        if service not in self.known:
            with self.ledger.read() as tx:
                self.known[service] = leases.paused(tx, service, self.ledger.now())
        return self.known[service]

    def begin(self, error: FacilityError) -> Pause:
        rest = once.pause(self.ledger, error, self.pace.patience)
        self.known[error.service] = rest
        return rest


def waits_for(rest: Pause) -> str:
    return f"waits for {rest.service} until {rest.until:%H:%M:%S} UTC: {rest.reason}"
