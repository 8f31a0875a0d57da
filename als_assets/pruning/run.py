"""One run of pruning on a beamline: the Dagster job's, or that of `als prune`.

    Pruning(ledger, spec, facilities, services, who, holder).plan()     what would go, and why the rest stays
    Pruning(…).run()                                                    do it

    1. decide, look at every copy that the rule demands, commit the intent, rename the files into the trash
    2. after the trash time decide and look again, commit the intent, delete the files that were listed in the trash

Level-triggered: a run starts from the ledger and from what is on the disk, so that it may be killed anywhere and
repeated. Nothing is scheduled ahead: which copies are due is computed from today's spec at each run.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from als_assets import families
from als_assets.pruning.place import AtWork
from als_assets.pruning.removal import Removing
from als_assets.pruning.report import Report, Trouble
from beamlines.spec import Spec
from resources.errors import FacilityError, Unavailable
from resources.facilities import Facilities, FacilityFileError
from resources.ledger import Ledger, leases, removals
from resources.storage import WrongPlace

__all__ = ["AtWork", "Pruning"]


@dataclass
class Pruning:
    """One run on one beamline.

    Attributes:
        services: the facilities' resources by their names. who: for the history ("kim", "run 7f3a…").
        holder: of the lease, different for every run. sleep: how it waits for its tasks.
    """

    ledger: Ledger
    spec: Spec
    facilities: Facilities
    services: Mapping[str, Any]
    who: str
    holder: str
    log: logging.Logger = field(default_factory=lambda: logging.getLogger("als"))
    sleep: Callable[[float], None] = time.sleep

    def __post_init__(self) -> None:
        self.globus = self.services[families.TRANSFER]
        self.pace = self.facilities.pace
        self.report = Report()

    @property
    def lease(self) -> str:
        return f"{self.spec.id}/prune"

    def plan(self) -> Report:
        """What a run would do now, and why the rest stays. Asks the places that would be asked; writes nothing."""
        for place in self._places():
            at = self._at(place)
            if at is not None:
                self._tried(at, at.plan)
        return self.report

    def run(self) -> Report:
        """Do what may be done now. Raises AtWork when another run has the beamline; ExceptionGroup at the end when
        there were bugs, each of which kept one copy from being worked on and no other."""
        with self.ledger.write() as tx:
            if not leases.take_over(tx, self.lease, self.holder, self.ledger.now(), 3 * self.pace.span("lease_s")):
                raise AtWork(
                    f"another run is pruning {self.spec.id}. What to do: wait for its end; if it was killed, the "
                    f"beamline is free again after {3 * self.pace.lease_s:.0f} s."
                )
        try:
            self._turns([at for place in self._places() if (at := self._at(place)) is not None])
        finally:
            with self.ledger.write() as tx:
                leases.release(tx, self.lease, self.holder, self.ledger.now(), progress=True)
        if self.report.bugs:
            raise ExceptionGroup(f"pruning {self.spec.id} met {len(self.report.bugs)} bugs", self.report.bugs)
        return self.report

    def _turns(self, places: list[Removing]) -> None:
        """Until nothing more can be done now. What is under way at a facility goes on without this run."""
        since = time.monotonic()
        while True:
            before = self.report.progress
            for at in places:
                self._tried(at, at.turn)
            progressed = self.report.progress != before
            busy = any(at.busy for at in places)
            if progressed:
                since = time.monotonic()
            elif not busy or time.monotonic() - since > self.pace.grace_s:
                return
            if busy:
                self.sleep(self.pace.poll_s)

    def _places(self) -> list[str]:
        """Those that today's spec prunes, and those that something is on its way out of."""
        with self.ledger.read() as tx:
            under_way = removals.places(tx, self.spec.id)
        return list(dict.fromkeys([rule.place for rule in self.spec.prunes] + under_way))

    def _at(self, place: str) -> Removing | None:
        try:
            return Removing(self, place)
        except (FacilityFileError, FacilityError) as error:
            self._trouble(place, error)
            return None

    def _tried(self, at: Removing, do: Callable[[], None]) -> None:
        """What goes wrong with one place keeps no other from its turn."""
        try:
            do()
        except FacilityError as error:
            at.looks.trouble(error)
        for error in at.looks.troubles:
            self._trouble(at.place, error)

    def _trouble(self, place: str, error: Exception) -> None:
        waits = isinstance(error, Unavailable) and not isinstance(error, WrongPlace)
        self.report.trouble(Trouble(self.spec.id, place, str(error), waits))
