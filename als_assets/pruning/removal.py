"""The first phase, and the decision about everything that is on its way.

(held) ──→ intended ──→ in_trash, where it waits for `trash_s`
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime

from als_assets.pruning import trash as trash_of
from als_assets.pruning.deletion import Deletion, Ready
from als_assets.pruning.facts import Case, keep_looks
from als_assets.pruning.report import Item, State
from als_assets.pruning.trash import Spot
from beamlines.policy import deletable
from beamlines.policy.deletable import Kind, NoLook, Reason
from beamlines.spec import Prune
from resources import once
from resources.errors import CredentialProblem, FacilityError, Unavailable
from resources.ledger import leases, removals, steps, tasks
from resources.ledger.removals import Removal

PAGE = 200  # copies that are looked at together
TOGETHER = 25  # copies whose files are moved between two looks at the disk
GIVE_UP = 5  # refusals in a row, after which a place is left for this run


class Removing(Deletion):
    """Everything that is to be done about the copies in one place."""

    # a dry run

    def plan(self) -> None:
        """What a turn would do. Nothing is written."""
        with self.ledger.read() as tx:
            under_way = removals.live(tx, self.spec.id, self.place)
        for removal in under_way:
            case = self.cases([removal.scan_id])[removal.scan_id]
            state = State.STUCK if removal.state == removals.STUCK else State.IN_TRASH
            until = removal.trashed_at and removal.trashed_at + self.pace.span("trash_s")
            self.report.keep(Item.of(self.place, case, state, self.standing(case), until, removal.note))
        for cases in self._pages(self.ledger.now()):
            for case, against in self._judged(cases, dry=True):
                goes = not against or (self.rule is not None and self.waits_for_looks_only(case, against))
                self.report.keep(Item.of(self.place, case, State.WOULD_GO if goes else State.STAYS, against))

    def _pages(self, noticed_before: datetime) -> Iterator[list[Case]]:
        after = 0
        while True:
            with self.ledger.read() as tx:
                page = removals.held(tx, self.spec.id, self.place, noticed_before, after, PAGE)
            if not page:
                return
            after = page[-1].scan_id
            yield list(self.cases([copy.scan_id for copy in page]).values())

    def _judged(self, cases: Sequence[Case], dry: bool = False) -> list[tuple[Case, list[Reason]]]:
        """Each case with what was seen around it, and all reasons against it. Only those are looked at that nothing
        which is known already keeps; a dry run also looks at what only wants arming."""
        now = self.ledger.now()
        out: list[tuple[Case, list[Reason]]] = []
        worth: list[Case] = []
        for case in cases:
            known = deletable.firm(self.docket.reasons(case, now))
            if [reason for reason in known if not (dry and reason.kind is Kind.DISARMED)]:
                out.append((case, known))
            else:
                worth.append(case)
        if worth and self.rule is not None:
            own = self.looks.listed(self.at, {case.scan.id: case.names for case in worth})
            around = self.looks.around(self.rule.needs, worth)
            for case in worth:
                looked = case.seen(around[case.scan.id], own[case.scan.id])
                out.append((looked, self.docket.reasons(looked, self.ledger.now())))
        return out

    # a run

    def turn(self) -> None:
        """Everything that can be done now. Raises FacilityErrors; what was done until then stands."""
        self.busy = False
        with self.ledger.read() as tx:
            rest = leases.paused(tx, self.globus.service, self.ledger.now())
        if rest is not None:
            raise Unavailable(rest.service, f"it rests until {rest.until:%H:%M:%S} UTC: {rest.reason}")
        try:
            self.at.confirm()
            self._follow_looks()
            self._settle()
            if self.rule is not None:
                self._begin(self.rule)
        except FacilityError as error:
            self.looks.rest(error)
            raise

    def _follow_looks(self) -> None:
        """Submit looks that were only intended, and see which have ended."""
        with self.ledger.read() as tx:
            mine = [
                task
                for system in self.systems.values()
                for task in tasks.live(tx, system.service)
                if (task.beamline, task.asset, task.purpose) == (self.spec.id, self.looks.asset, removals.LOOK)
            ]
        for task in mine:
            system = self.systems[task.service]
            try:
                if task.external_id is None:
                    once.submit(self.ledger, system, task, self.pace.patience)
                else:
                    self.report.progress += once.poll(self.ledger, system, [task], self.pace.patience)
                self.busy = True
            except (Unavailable, CredentialProblem) as error:
                self.looks.trouble(error)

    def _ask_looks(self, cases: Sequence[Case]) -> None:
        asked = self.looks.ask(cases) if cases else []
        if asked:
            self.report.progress += len(asked)
            self._follow_looks()

    # phase 1

    def _begin(self, rule: Prune) -> None:
        with self.ledger.read() as tx:
            if removals.armed(tx, self.spec.id, self.place) is None:
                return
        refused = 0
        for cases in self._pages(self.ledger.now() - rule.after_days * self.docket.day):
            wanted: list[Case] = []
            clear: list[Case] = []
            for case, against in self._judged([c for c in cases if c.scan.id not in self.put_back_now]):
                if against:
                    self._stays(case, against)
                    wanted += [case] if self.waits_for_looks_only(case, against) else []
                    continue
                clear.append(case)
            for block in steps.chunks(clear, TOGETHER):
                done = self._remove(block)
                refused = 0 if done else refused + len(block)
                if refused >= GIVE_UP:
                    return
            self._ask_looks(wanted)

    def _stays(self, case: Case, against: Sequence[Reason]) -> None:
        self.report.keep(Item.of(self.place, case, State.STAYS, against))
        self.ask_about(case, against)
        looked = not any(isinstance(other.look, NoLook) for other in case.facts.others.values())
        ours = case.scan.question is not None and case.facts.question is None
        if ours and looked and not any(reason.kind is Kind.DIFFERS for reason in against):
            with self.ledger.write() as tx:  # what was asked about is as it should be again
                self.settle_question(tx, case.scan)

    def _remove(self, cases: Sequence[Case]) -> int:
        """Commit the intents, if nothing has come between, and move the files to the trash. Returns how many went."""
        now = self.ledger.now()
        folders = {case.scan.id: trash_of.folder_for(case, now) for case in cases}
        spots = self.trash.spots({case.scan.id: (folders[case.scan.id], case) for case in cases})
        intended: list[tuple[Removal, Case, Sequence[Spot]]] = []
        for case in cases:
            mine = spots.get(case.scan.id)
            strange = next((spot for spot in mine or () if not spot.free_to_go), None)
            if mine is None:
                self.trouble(f"{case.scan.key}: its folder in {self.where} may not be looked into")
            elif strange is not None:
                self._in_the_way(case, strange)
            elif (removal := self._intend_removal(case, folders[case.scan.id], now)) is not None:
                intended.append((removal, case, mine))
        return self._to_trash(intended)

    def _in_the_way(self, case: Case, spot: Spot) -> None:
        words = f"{self.strange(spot)}. What to do: see whose file that is, and move it away."
        self.trouble(f"{case.scan.key}: {words}")
        with self.ledger.write() as tx:
            self.ask(tx, case.scan, words)

    def _intend_removal(self, case: Case, folder: str, now: datetime) -> Removal | None:
        with self.ledger.write() as tx:
            self.renew(tx)
            fresh = self.still(tx, case, now)
            if fresh is None:
                return None
            why = self.why(fresh)
            removal_id = removals.intend(tx, fresh.copy, self.spec.id, folder, self.run.who, why, now)
            if removal_id is None:
                return None
            keep_looks(tx, fresh, now)
            self.settle_question(tx, case.scan)
            self.record(tx, case.scan, "to trash", why)
            self.report.progress += 1
            return removals.get(tx, removal_id)

    def _to_trash(self, intended: Sequence[tuple[Removal, Case, Sequence[Spot]]]) -> int:
        """Rename every file that is at its name; one whose rename has taken effect already is in the trash. Then look
        whether all of them are, as they were: one that was exchanged between the look and the rename goes back."""
        moved = [
            (removal, case)
            for removal, case, spots in intended
            if self.guarded(case, lambda r=removal, c=case, s=spots: self._throw(r, c, s))
        ]
        there = self.trash.find([(r, c) for r, c in moved if r.id not in self.given_back])
        for removal, case in moved:
            if removal.id in there:
                self.guarded(case, lambda r=removal, c=case: self._is_in_trash(r, c, there[r.id]))
        return len(moved)

    def _throw(self, removal: Removal, case: Case, spots: Sequence[Spot]) -> None:
        for spot in spots:
            if not spot.in_trash and not spot.free_to_go:
                self.give_back(removal, case, self.strange(spot))
                return
        for spot in spots:
            if not spot.in_trash:
                self.ours()
                self.trash.throw(spot)

    def _is_in_trash(self, removal: Removal, case: Case, spots: Sequence[Spot]) -> None:
        for spot in spots:
            if not spot.in_trash:
                self.give_back(removal, case, self.strange(spot))
                return
        now = self.ledger.now()
        with self.ledger.write() as tx:
            if removals.move(tx, removal, [removals.INTENDED], removals.IN_TRASH, now, trashed_at=now):
                self.report.progress += 1
        self.report.keep(Item.of(self.place, case, State.TRASHED, until=now + self.pace.span("trash_s")))

    # what is on its way

    def _settle(self) -> None:
        with self.ledger.read() as tx:
            live = removals.live(tx, self.spec.id, self.place)
        by_task: dict[int, list[Removal]] = {}
        for removal in live:
            if removal.state == removals.DELETING and removal.task_id is not None:
                by_task.setdefault(removal.task_id, []).append(removal)
        for task_id, group in by_task.items():
            self.follow(task_id, group)
        for block in steps.chunks((r for r in live if r.state != removals.DELETING), PAGE):
            self._settle_some(block)

    def _settle_some(self, block: Sequence[Removal]) -> None:
        """Those that are no longer deletable go back; whose time in the trash is over are looked at again."""
        cases = self.cases([removal.scan_id for removal in block])
        now = self.ledger.now()
        ready: list[tuple[Removal, Case]] = []
        for removal in block:
            case = cases[removal.scan_id]
            against = self.standing(case)
            if removal.state in (removals.RETURNING, removals.STUCK):
                self.guarded(case, lambda r=removal, c=case: self.put_back(r, c))
            elif against:
                self._give_back(removal, case, against)
            elif removal.id in self.tried:
                continue
            elif removal.trashed_at is None or now - removal.trashed_at >= self.pace.span("trash_s"):
                ready.append((removal, case))
        if ready:
            self._look_again(ready)

    def _give_back(self, removal: Removal, case: Case, against: Sequence[Reason]) -> None:
        words = "; ".join(reason.words for reason in deletable.firm(against))
        self.guarded(case, lambda: self.give_back(removal, case, words, against))

    def _look_again(self, ready: Sequence[tuple[Removal, Case]]) -> None:
        assert self.rule is not None
        around = self.looks.around(self.rule.needs, [case for _, case in ready])
        now = self.ledger.now()
        spots = self.trash.find(ready)
        wanted: list[Case] = []
        clear: list[Ready] = []
        intended: list[tuple[Removal, Case, Sequence[Spot]]] = []
        for removal, unseen in ready:
            mine, on_the_way = spots.get(removal.id), removal.state == removals.INTENDED
            if mine is None:
                self.trouble(f"{unseen.scan.key}: its folder in {self.where}, or in the trash, may not be looked into")
                continue
            own = trash_of.seen_on_the_way(mine, now) if on_the_way else trash_of.seen_in_trash(mine, now)
            case = unseen.seen(around[unseen.scan.id], own, in_trash=True)
            against = self.docket.reasons(case, now)
            if deletable.firm(against):
                self._give_back(removal, case, against)
            elif against:
                wanted += [case] if self.waits_for_looks_only(case, against) else []
                self.report.keep(Item.of(self.place, case, State.IN_TRASH, against))
            elif on_the_way:
                intended.append((removal, case, mine))
            elif any(spot.at_its_name for spot in mine):
                words = "its files are at their names again, and it was not this platform that put them there"
                self.guarded(case, lambda r=removal, c=case, w=words: self.give_back(r, c, w))
            elif all(spot.trashed is None for spot in mine):
                words = "its files had gone from the trash: deleted by hand, or in an earlier life of this ledger"
                self.guarded(case, lambda r=removal, c=case, w=words: self.gone(r, c, w))
            else:
                clear.append((removal, case, [spot for spot in mine if spot.trashed is not None]))
        self._ask_looks(wanted)
        self._to_trash(intended)
        if clear:
            self.delete(clear)
