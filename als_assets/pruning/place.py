"""What all parts of a run on one place share: what is known, what may be written, who is told."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from sqlalchemy.engine import Connection

from als_assets import families
from als_assets.pruning.facts import Case, Docket
from als_assets.pruning.looks import Looks
from als_assets.pruning.report import Trouble
from als_assets.pruning.trash import Trash
from beamlines.policy import deletable
from beamlines.policy.deletable import NOT_LOOKED, Kind, Reason
from beamlines.spec import Spec
from resources.errors import CredentialProblem, FacilityError, Unavailable
from resources.ledger import history, leases, scans
from resources.ledger.scans import Scan
from resources.storage import Storage

if TYPE_CHECKING:
    from als_assets.pruning.run import Pruning


class AtWork(Exception):
    """Another run is pruning this beamline."""


def asset_of(spec: Spec, place: str) -> str:
    """The asset whose copies are in a place."""
    return spec.archive.asset if spec.archive and spec.archive.place == place else f"raw_at_{place}"


class Place:
    """The copies of a beamline in one place, for one run.

    Attributes:
        rule: by which copies may be deleted here; None when today's spec prunes the place no more.
        busy: something that was asked for here is under way.
        tried: ids of the removals whose files this run has had deleted, or tried to.
        given_back: ids of the removals that this run has turned round.
        put_back_now: ids of the scans that this run has put back, and that it does not remove again.
    """

    def __init__(self, run: Pruning, place: str) -> None:
        self.run, self.place = run, place
        self.ledger, self.spec, self.pace, self.globus = run.ledger, run.spec, run.pace, run.globus
        self.report = run.report
        # also where today's spec prunes no more, what is on its way out needs the sentinel
        at = run.facilities.place(self.spec.id, place)
        self.at = Storage(self.globus, f"{self.spec.id}/{place}", at, prunable=True)
        self.trash = Trash(self.at)
        self.rule = self.spec.prune(place)
        for need in self.rule.needs if self.rule is not None else ():
            run.facilities.place(self.spec.id, need)  # one that the facility file lacks must not pass in silence
        durable = {n for n, p in run.facilities.file.places.get(self.spec.id, {}).items() if p.durable}
        self.docket = Docket(self.spec, place, durable, timedelta(seconds=self.pace.day_s))
        self.looks = Looks(self.ledger, self.spec, run.facilities, run.services, f"prune_{place}")
        self.systems = families.systems(run.services)
        self.tried: set[int] = set()
        self.put_back_now: set[int] = set()
        self.given_back: set[int] = set()
        self.busy = False

    @property
    def where(self) -> str:
        return self.docket.where

    # deciding

    def cases(self, scan_ids: Sequence[int]) -> dict[int, Case]:
        with self.ledger.read() as tx:
            return self.docket.cases(tx, scan_ids, self.ledger.now())

    def standing(self, case: Case) -> list[Reason]:
        """What speaks against it without a look at any place; of what is in the trash already."""
        unseen = case.seen({}, NOT_LOOKED, in_trash=True)
        return deletable.firm(self.docket.reasons(unseen, self.ledger.now()))

    def still(self, tx: Connection, case: Case, now: datetime) -> Case | None:
        """The case as the ledger has it in this transaction, with what was seen; None when something now speaks
        against it."""
        fresh = self.docket.cases(tx, [case.scan.id], now).get(case.scan.id)
        if fresh is None or fresh.names != case.names:
            return None
        fresh = fresh.looked_like(case)
        return None if self.docket.reasons(fresh, now) else fresh

    def why(self, case: Case) -> str:
        """Why it may go, for the record."""
        assert self.rule is not None
        days, needs = self.docket.days(self.rule.after_days), " and ".join(self.rule.needs)
        return f"noticed {case.scan.noticed_at:%Y-%m-%d}, {days} are over; proven in {needs}"

    def waits_for_looks_only(self, case: Case, against: Sequence[Reason]) -> bool:
        """Would it be clear after a look at tape, which nobody has taken yet?"""
        assert self.rule is not None
        looks = [case.facts.others[place].look for place in self.rule.needs if place in case.facts.others]
        blind = [look for look in (*looks, case.facts.own) if isinstance(look, deletable.NoLook)]
        return not deletable.firm(against) and bool(blind) and all(look.wanted for look in blind)

    # writing

    def renew(self, tx: Connection) -> None:
        """Before each change: is the beamline still ours to prune? Raises AtWork."""
        hold = 3 * self.pace.span("lease_s")
        if not leases.take_over(tx, self.run.lease, self.run.holder, self.ledger.now(), hold):
            raise AtWork(f"another run has taken over the pruning of {self.spec.id}; this one has stopped")

    def ours(self) -> None:
        """The same, before a call that changes something in the place."""
        with self.ledger.write() as tx:
            self.renew(tx)

    def record(self, tx: Connection, scan: Scan, what: str, why: str, details: dict[str, Any] | None = None) -> None:
        history.record(
            tx, self.ledger.now(), self.run.who, what, beamline=self.spec.id, scan_id=scan.id,
            asset=asset_of(self.spec, self.place), why=f"{self.where}: {why}", details=details,
        )  # fmt: skip

    def guarded(self, case: Case, do: Callable[[], None]) -> bool:
        """A refusal or a bug about one scan holds no other. False when it was one."""
        try:
            do()
            return True
        except (Unavailable, CredentialProblem, AtWork):
            raise
        except FacilityError as error:
            self.trouble(f"{case.scan.key}: {error}")
        except Exception as bug:
            self.run.log.error("%s: pruning met a bug", case.scan.key, exc_info=bug)
            self.report.bugs.append(bug)
        return False

    # telling people

    def trouble(self, words: str) -> None:
        self.report.trouble(Trouble(self.spec.id, self.place, words, waits=False))

    def ask_about(self, case: Case, against: Sequence[Reason]) -> None:
        """A copy that another one relies on is not what was proven: staff must know, whatever becomes of the other."""
        differs = [reason.words for reason in against if reason.kind is Kind.DIFFERS]
        if not differs:
            return
        words = (
            f"{'; '.join(differs[:3])}. Nothing of it is deleted. What to do: compare that copy with the one at "
            f"{self.where}; if it is damaged, move it away and materialize its asset again."
        )
        with self.ledger.write() as tx:
            if self.ask(tx, case.scan, words):
                self.record(tx, case.scan, "question", words)

    def ask(self, tx: Connection, scan: Scan, words: str) -> bool:
        """Put a question, unless a person is asked something else about the scan already."""
        beginning = self.docket.question(scan)
        known = scans.get(tx, scan.id).question
        if known is not None and not known.startswith(beginning):
            return False
        return scans.ask_person(tx, scan.id, f"{beginning} {words}", self.ledger.now())

    def settle_question(self, tx: Connection, scan: Scan) -> None:
        scans.settle_question(tx, scan.id, self.docket.question(scan), self.ledger.now())
