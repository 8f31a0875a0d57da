"""The way back: a copy that may not be deleted any more gets its files back under their names.

intended, in_trash ──→ returning ──→ put_back, or stuck when a file has no place to go back to
"""

from __future__ import annotations

from collections.abc import Sequence

from als_assets.pruning.facts import Case
from als_assets.pruning.place import Place
from als_assets.pruning.report import Item, State
from als_assets.pruning.trash import Spot
from beamlines.policy.deletable import Reason
from resources.ledger import removals
from resources.ledger.removals import Removal


class WayBack(Place):
    """Puts back what is on its way out of a place."""

    def give_back(self, removal: Removal, case: Case, why: str, against: Sequence[Reason] = ()) -> None:
        """It may not be deleted any more: commit that it goes back, and put it back."""
        with self.ledger.write() as tx:
            self.renew(tx)
            leaving = [removals.INTENDED, removals.IN_TRASH]
            if not removals.move(tx, removal, leaving, removals.RETURNING, self.ledger.now(), note=why):
                return
            self.record(tx, case.scan, "back from trash", why)
            removal = removals.get(tx, removal.id)
        self.report.progress += 1
        self.given_back.add(removal.id)
        self.ask_about(case, against)
        self.put_back(removal, case)

    def put_back(self, removal: Removal, case: Case) -> None:
        """Rename the files that are in the trash to their names, where these are free. Repeated by every run until
        all of them are there."""
        for spot in self.trash.of(removal, case):
            if spot.in_trash:
                self.ours()
                self.trash.back(spot)
        missing = [spot for spot in self.trash.of(removal, case) if not spot.is_it(spot.there)]
        if missing:
            self._stuck(removal, case, missing[0])
            return
        now = self.ledger.now()
        with self.ledger.write() as tx:
            leaving = [removals.RETURNING, removals.STUCK]
            if removals.move(tx, removal, leaving, removals.PUT_BACK, now, live=False, ended_at=now):
                self.report.progress += 1
                self.record(tx, case.scan, "put back", removal.note or "")
                if removal.state == removals.STUCK:
                    self.settle_question(tx, case.scan)
        self.put_back_now.add(case.scan.id)
        self.report.keep(Item.of(self.place, case, State.PUT_BACK, note=removal.note))

    def _stuck(self, removal: Removal, case: Case, spot: Spot) -> None:
        why = (removal.note or "they may not be deleted").rstrip(".")
        words = (
            f"its files cannot be put back: {self.strange(spot)}. They were to go back because {why}. What to do: see "
            f"what is in {self.at.absolute(removal.trash)}; move away what is in the way, or put the file back by "
            "hand; the next run goes on."
        )
        with self.ledger.write() as tx:
            if removals.move(tx, removal, [removals.RETURNING], removals.STUCK, self.ledger.now()):
                self.report.progress += 1
                self.record(tx, case.scan, "stuck", words)
            self.ask(tx, case.scan, words)
        self.report.keep(Item.of(self.place, case, State.STUCK, note=words))
        self.trouble(f"{case.scan.key}: {words}")

    def strange(self, spot: Spot) -> str:
        """What is wrong with where a file is."""
        if spot.trashed is not None and not spot.is_it(spot.trashed):
            return f"another file has its name in the trash: {self.at.absolute(spot.trash)}"
        if spot.is_it(spot.trashed) and spot.there is not None:
            return f"another file has come under the name {self.at.absolute(spot.name)}"
        if spot.there is not None:
            return f"{self.at.absolute(spot.name)} is not the file that was noticed"
        return f"{self.at.absolute(spot.name)} is neither at its name nor in the trash"
