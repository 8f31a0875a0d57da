"""Submitting exactly once, and following what was submitted. The only place where tasks are submitted or polled.

The order makes it safe to be killed anywhere, and to run twice at once:

    1. the intent and what it is for are committed, with the steps in flight        (ledger.tasks.intend)
    2. the idempotency key is fetched, if the service gives it, and committed       (Globus: submission_id)
    3. `tried_at` is committed: from here on a submission may have taken effect
    4. the submission is sent, once
    5. the service's id is committed

After a crash or a lost answer between 3 and 5, a service that de-duplicates by key is simply sent the same again; any
other is searched for the key first, for as long as its caches may lag, and only then sent another submission (whose
job ends at once if the first one shows up after all: als-job claims the attempt's directory atomically). A ledger that
was restored from a backup does not know what it had submitted: then the key is searched for before anything is sent.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy.engine import Connection

from resources import stalled
from resources.errors import CredentialProblem, FacilityError, NotFound, Refused, Unavailable
from resources.ledger import Ledger, history, leases, restore, steps, tasks
from resources.ledger.tasks import Task
from resources.tasks import TaskState, TaskStatus, TaskSystem

OUTAGE = "OUTAGE"  # code of an Unavailable whose reason says that somebody works on it


@dataclass(frozen=True)
class Patience:
    """How long to wait for a service, in seconds. See `pace` in the facility file.

    Attributes:
        lookup_s: after an answer was lost, how long a submission may stay invisible to `find`.
        unknown_s: how long a healthy service may not know a task before a person is asked.
        pause_first_s, pause_most_s: how long submissions rest after a failure; doubles each time.
        stall_s: after which a transfer is ended in which nothing moves but a file's trouble (see `stalled`).
    """

    lookup_s: float
    unknown_s: float
    pause_first_s: float
    pause_most_s: float
    stall_s: float = 600.0


def pause(ledger: Ledger, error: FacilityError, patience: Patience) -> leases.Pause:
    """A service is down, or a credential is no good: let everybody rest until it may be back. Uses up no attempt."""
    at_least = None
    if isinstance(error, Unavailable) and error.retry_after_s:
        # a maintenance may end hours before, or after, what was announced: it is asked for now and then
        most = patience.pause_most_s if error.code == OUTAGE else error.retry_after_s
        at_least = timedelta(seconds=min(error.retry_after_s, most))
    now = ledger.now()
    with ledger.write() as tx:
        known = leases.paused(tx, error.service, now)
        if known:
            return known
        rest = leases.pause(
            tx, error.service, error.reason, error.code, now, patience.pause_first_s, patience.pause_most_s, at_least,
            person=isinstance(error, CredentialProblem),
        )  # fmt: skip
        if rest.since == now:
            history.record(tx, now, "platform", "pause", why=f"{error.service}: {error.reason}")
        return rest


def answered(ledger: Ledger, service: str) -> None:
    """A service has answered healthily: whatever pause there was is over."""
    with ledger.read() as tx:
        resting = any(p.service == service for p in leases.all_pauses(tx))
    if resting:
        with ledger.write() as tx:
            if leases.resume(tx, service):
                history.record(tx, ledger.now(), "platform", "resume", why=service)


def submit(ledger: Ledger, system: TaskSystem, task: Task, patience: Patience) -> None:
    """Bring an intended task to its service. Returns without effect when it must be looked at again later.

    Raises Unavailable and CredentialProblem after the service has been paused; a refusal ends the task as failed.
    """
    try:
        if _submit(ledger, system, task, patience):
            answered(ledger, system.service)
    except (Unavailable, CredentialProblem) as error:
        pause(ledger, error, patience)
        raise


def _submit(ledger: Ledger, system: TaskSystem, task: Task, patience: Patience) -> bool:
    """Returns whether the service was asked, and has answered."""
    with ledger.read() as tx:
        task = tasks.get(tx, task.id)  # the caller may have read it long ago
        restored = restore.looks_first(tx, ledger.now())
        held = tasks.held(tx, task.id)
    if task.external_id is not None or not task.live:
        return False
    if held:
        return _kept_here(ledger, system, task, patience)
    try:
        if task.key is None:
            task = _with_key(ledger, system, task)
        if (task.tried_at is not None or restored) and not system.same_key_same_task:
            if _found(ledger, system, task):
                return True
            if task.tried_at is not None and ledger.now() - task.tried_at < timedelta(seconds=patience.lookup_s):
                return True
        script = system.script(task.key or "", task.request)
        with ledger.write() as tx:
            if not tasks.trying(tx, task, script, ledger.now()):
                return False
        external_id = system.submit(task.key or "", task.request)
    except (Refused, NotFound) as error:
        # it may refuse the second sending of what it took at the first one, whose answer was lost
        if task.tried_at is None or not _found(ledger, system, task):
            refusal = TaskStatus("", TaskState.FAILED, "REFUSED", error.reason, error.code, transient=False)
            with ledger.write() as tx:
                tasks.refused(tx, task, refusal, ledger.now())
        return True
    with ledger.write() as tx:
        tasks.submitted(tx, task.id, external_id, ledger.now())
    return True


def _kept_here(ledger: Ledger, system: TaskSystem, task: Task, patience: Patience) -> bool:
    """One of its scans has become export-controlled since the task was intended: it is not sent, and its other scans
    are due again. One whose answer was lost may have been taken: then that is the one to follow."""
    if task.tried_at is not None:
        if _found(ledger, system, task):
            return True
        if ledger.now() - task.tried_at < timedelta(seconds=patience.lookup_s):
            return True
    with ledger.write() as tx:
        tasks.withdraw(tx, task, "not sent: one of its scans has become export-controlled", ledger.now())
    return False


def _with_key(ledger: Ledger, system: TaskSystem, task: Task) -> Task:
    fresh = system.new_key(task.proposed_key)
    with ledger.write() as tx:
        tasks.keep_key(tx, task.id, fresh)
        return tasks.get(tx, task.id)  # of two that fetched one, the first is kept


def _found(ledger: Ledger, system: TaskSystem, task: Task) -> bool:
    """Has an earlier submission of this task shown up? Then that is the one to follow."""
    there = [status for status in system.find(task.key or "") if not status.duplicate]
    if there:
        with ledger.write() as tx:
            tasks.submitted(tx, task.id, there[-1].id, ledger.now())
    return bool(there)


def poll(ledger: Ledger, system: TaskSystem, followed: Iterable[Task], patience: Patience) -> int:
    """Ask once for all these tasks and write down what is said. Returns how many have ended.

    Raises Unavailable and CredentialProblem after the service has been paused.
    """
    by_id = {task.external_id: task for task in followed if task.live and task.external_id}
    if not by_id:
        return 0
    ended = 0
    hopeless: list[str] = []
    try:
        statuses = system.poll(by_id)
        for block in steps.chunks(by_id.items()):
            with ledger.write() as tx:
                for external_id, task in block:
                    status = statuses.get(external_id)
                    if status is None:
                        ended += _not_known(tx, system, task, patience, ledger.now())
                    elif not status.duplicate:
                        noted = stalled.noted(task, status, ledger.now(), patience.stall_s)
                        ended += tasks.seen(tx, task, noted, ledger.now())
                        if stalled.given_up(noted):
                            hopeless.append(external_id)
        for external_id, status in statuses.items():
            if status.duplicate and external_id in by_id:
                ended += _follow_winner(ledger, system, by_id[external_id], status, patience)
        for external_id in hopeless:
            system.cancel(external_id)  # its end is read by a later poll
    except (Unavailable, CredentialProblem) as error:
        pause(ledger, error, patience)
        raise
    answered(ledger, system.service)
    return ended


def _follow_winner(ledger: Ledger, system: TaskSystem, task: Task, status: TaskStatus, patience: Patience) -> bool:
    """This execution lost the race for the claim: follow the one that has it. True when the task has ended."""
    winners = [s for s in system.find(task.key or "") if not s.duplicate and s.id != status.id]
    now = ledger.now()
    with ledger.write() as tx:
        if winners:
            tasks.follow(tx, task, winners[-1].id)
            return False
        since = tasks.unknown(tx, task, now)
        if now - since < timedelta(seconds=patience.lookup_s):
            return False  # the service's caches lag: the winner may be at work without being listed
        # an earlier life of this ledger had it done: the claimed directory holds the outcome
        return tasks.seen(tx, task, status, now)


def _not_known(tx: Connection, system: TaskSystem, task: Task, patience: Patience, now: datetime) -> bool:
    """The service does not know the task. After long that is a failure for a person, never a reason to resubmit."""
    since = tasks.unknown(tx, task, now)
    if now - since < timedelta(seconds=patience.unknown_s):
        return False
    lost = TaskStatus(
        task.external_id or "",
        TaskState.FAILED,
        "UNKNOWN",
        f"{system.service} has not known {task.system} task {task.external_id} since {since:%Y-%m-%d %H:%M} UTC",
        "UNKNOWN",
        transient=False,
    )
    return tasks.seen(tx, task, lost, now)
