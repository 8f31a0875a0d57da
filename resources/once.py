"""Submitting exactly once, and following what was submitted. The only place where tasks are submitted or polled.

The order makes it safe to be killed anywhere, and to run twice at once:

    1. the intent and what it is for are committed, with the steps in flight        (ledger.tasks.intend)
    2. the idempotency key is fetched, if the service gives it, and committed       (Globus: submission_id)
    3. `tried_at` is committed: from here on a submission may have taken effect
    4. the submission is sent, once
    5. the service's id is committed

After a crash or a lost answer between 3 and 5, a service that de-duplicates by key is simply sent the same again; any
other is searched for the key first, for as long as its caches may lag, and only then sent another submission (whose
job ends at once if the first one shows up after all: als-job claims the attempt's directory atomically).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta

from resources.errors import CredentialProblem, FacilityError, Refused, Unavailable
from resources.ledger import Ledger, history, leases, tasks
from resources.ledger.tasks import Task
from resources.tasks import TaskState, TaskStatus, TaskSystem


@dataclass(frozen=True)
class Patience:
    """How long to wait for a service, in seconds. See `pace` in the facility file.

    Attributes:
        lookup_s: after an answer was lost, how long a submission may stay invisible to `find`.
        unknown_s: how long a healthy service may not know a task before a person is asked.
        pause_first_s, pause_most_s: how long submissions rest after a failure; doubles each time.
    """

    lookup_s: float
    unknown_s: float
    pause_first_s: float
    pause_most_s: float


def pause(ledger: Ledger, error: FacilityError, patience: Patience) -> leases.Pause:
    """A service is down, or a credential is no good: let everybody rest until it may be back. Uses up no attempt."""
    at_least = None
    if isinstance(error, Unavailable) and error.retry_after_s:
        at_least = timedelta(seconds=error.retry_after_s)
    now = ledger.now()
    with ledger.write() as tx:
        known = leases.paused(tx, error.service, now)
        if known:
            return known
        rest = leases.pause(
            tx, error.service, error.reason, error.code, now, patience.pause_first_s, patience.pause_most_s, at_least
        )
        if rest.failures == 1:
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
        _submit(ledger, system, task, patience)
        answered(ledger, system.service)
    except Refused as error:
        refused = TaskStatus("", TaskState.FAILED, "REFUSED", error.reason, error.code, transient=False)
        with ledger.write() as tx:
            tasks.seen(tx, task, refused, ledger.now())
    except (Unavailable, CredentialProblem) as error:
        pause(ledger, error, patience)
        raise


def _submit(ledger: Ledger, system: TaskSystem, task: Task, patience: Patience) -> None:
    if task.external_id is not None or not task.live:
        return
    key = task.key
    if key is None:
        fresh = system.new_key(task.proposed_key)
        with ledger.write() as tx:
            tasks.keep_key(tx, task.id, fresh)
            task = tasks.get(tx, task.id)
        key = task.key or fresh
    if task.tried_at is not None and not system.same_key_same_task:
        found = [status for status in system.find(key) if not status.duplicate]
        if found:
            with ledger.write() as tx:
                tasks.submitted(tx, task.id, found[-1].id, ledger.now())
            return
        if ledger.now() - task.tried_at < timedelta(seconds=patience.lookup_s):
            return
    with ledger.write() as tx:
        if not tasks.trying(tx, task, ledger.now()):
            return
    external_id = system.submit(key, task.request)
    with ledger.write() as tx:
        tasks.submitted(tx, task.id, external_id, ledger.now())


def poll(ledger: Ledger, system: TaskSystem, followed: Iterable[Task], patience: Patience) -> int:
    """Ask once for all these tasks and write down what is said. Returns how many have ended.

    Raises Unavailable and CredentialProblem after the service has been paused.
    """
    by_id = {task.external_id: task for task in followed if task.live and task.external_id}
    if not by_id:
        return 0
    try:
        statuses = system.poll(by_id)
        ended = 0
        for external_id, task in by_id.items():
            status = statuses.get(external_id)
            if status is None:
                _not_known(ledger, system, task, patience)
            elif status.duplicate:
                _follow_winner(ledger, system, task, status)
            else:
                with ledger.write() as tx:
                    ended += tasks.seen(tx, task, status, ledger.now())
    except (Unavailable, CredentialProblem) as error:
        pause(ledger, error, patience)
        raise
    answered(ledger, system.service)
    return ended


def _follow_winner(ledger: Ledger, system: TaskSystem, task: Task, status: TaskStatus) -> None:
    """This execution lost the race for the claim: follow the one that has it."""
    winners = [s for s in system.find(task.key or "") if not s.duplicate and s.id != status.id]
    with ledger.write() as tx:
        if winners:
            tasks.follow(tx, task, winners[-1].id)
        else:  # an earlier life of this ledger had it done: the claimed directory holds the outcome
            tasks.seen(tx, task, status, ledger.now())


def _not_known(ledger: Ledger, system: TaskSystem, task: Task, patience: Patience) -> None:
    now = ledger.now()
    with ledger.write() as tx:
        since = tasks.unknown(tx, task, now)
        if now - since < timedelta(seconds=patience.unknown_s):
            return
        lost = TaskStatus(
            task.external_id or "",
            TaskState.FAILED,
            "UNKNOWN",
            f"{system.service} has not known {task.system} task {task.external_id} since {since:%Y-%m-%d %H:%M} UTC",
            "UNKNOWN",
            transient=False,
        )
        tasks.seen(tx, task, lost, now)
