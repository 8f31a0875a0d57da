"""Writing down what came of a step: its state, its facts, and what follows from it, in one transaction."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa

from als_assets.family import Done, Family, GoOn, NotDone
from beamlines.policy import retry
from resources.facilities import Pace
from resources.ledger import Ledger, flow, history, scans, steps
from resources.ledger.scans import Scan
from resources.ledger.steps import Step


@dataclass(frozen=True)
class Outcomes:
    """Of one run on one asset. `holder` is who works, for the history."""

    ledger: Ledger
    family: Family
    pace: Pace
    holder: str
    log: logging.Logger

    @property
    def asset(self) -> str:
        return self.family.asset.name

    def settle(self, step: Step, scan: Scan, outcome: Done | GoOn | NotDone) -> bool:
        """True when it was written down; False when the step was no longer as it was read: another run has settled it,
        and what this one found out may be about something that is over."""
        now = self.ledger.now()
        with self.ledger.write() as tx:
            if not steps.unchanged(tx, step, now):
                return False
            outcome.write(tx, now)
            if isinstance(outcome, Done):
                if steps.finish(tx, scan.id, self.asset, now, outcome.why):
                    flow.came_true(tx, self.family.spec, scan.id, self.asset, now)
            elif isinstance(outcome, GoOn):
                steps.go_on(tx, [scan.id], self.asset, now, outcome.why)
            else:
                self._not_done(tx, step, scan, outcome)
        return True

    def put_off(self, step: Step, scan: Scan, until: datetime, why: str) -> bool:
        """The same attempt once more, at `until`."""
        now = self.ledger.now()
        with self.ledger.write() as tx:
            if not steps.unchanged(tx, step, now):
                return False
            steps.go_on(tx, [scan.id], self.asset, now, why)
            steps.put_off(tx, [scan.id], self.asset, until, why, now)
        self.log.warning("%s: %s %s", scan.key, self.asset, why)
        return True

    def _not_done(self, tx: sa.Connection, step: Step, scan: Scan, outcome: NotDone) -> None:
        now = self.ledger.now()
        again = self._again(step, outcome)
        if outcome.question:
            scans.ask_person(tx, scan.id, outcome.message, now)
        if again.at is not None:
            steps.try_again(tx, scan.id, self.asset, again.at, again.why, now)
        else:
            steps.fail(tx, scan.id, self.asset, f"{again.why} What to do: {outcome.then}", now)
        self._record(tx, scan, again)

    def broken(self, step: Step, scan: Scan, bug: Exception) -> bool:
        """A bug kept a step from being worked on. It is looked at again later and later, so that a corrected program
        goes on by itself, and fails once its attempts are used up; a task that has landed is not done again for it."""
        why = f"{scan.key}: {self.asset} met a bug: {type(bug).__name__}: {str(bug)[:500]}."
        then = f"see the traceback in the log of {self.holder}, correct it, then materialize this partition again."
        now = self.ledger.now()
        with self.ledger.write() as tx:
            if not steps.unchanged(tx, step, now):
                return False
            again = self._again(step, NotDone(why, then))
            if again.at is None:
                steps.fail(tx, scan.id, self.asset, f"{again.why} What to do: {then}", now)
            elif step.state == steps.LANDED:
                steps.look_again(tx, scan.id, self.asset, again.at, again.why, now)
            else:
                steps.try_again(tx, scan.id, self.asset, again.at, again.why, now)
            self._record(tx, scan, again)
        return True

    def _again(self, step: Step, outcome: NotDone) -> retry.Again:
        rule, speed = self.family.spec.retry, self.pace.retry_speed
        return retry.after_failure(rule, step.attempt, outcome.transient, outcome.why, self.ledger.now(), speed)

    def _record(self, tx: sa.Connection, scan: Scan, again: retry.Again) -> None:
        history.record(
            tx, self.ledger.now(), f"run {self.holder}", "retry" if again.at else "failed",
            beamline=self.family.spec.id, scan_id=scan.id, asset=self.asset, why=again.why,
        )  # fmt: skip
        self.log.warning("%s", again.why)
