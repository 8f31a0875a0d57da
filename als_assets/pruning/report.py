"""What a run of pruning has done, or a dry run would do, and why the rest stays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from als_assets.pruning.facts import DAY, Case
from beamlines.policy.deletable import Reason
from resources.facilities import Facilities
from resources.ledger.views import stamp

SCHEMA = "als-prune/1"


def short_days(facilities: Facilities) -> str | None:
    """What is to be said before all that speaks of days, where a day of retention is none; None where it is one."""
    lasts = facilities.pace.day_s
    if timedelta(seconds=lasts) == DAY:
        return None
    return f"a day of retention lasts {lasts:g} s here (day_s of the facility file {facilities.name!r})"


class State(StrEnum):
    WOULD_GO = "would_go"  # only in a dry run
    STAYS = "stays"
    IN_TRASH = "in_trash"
    TRASHED = "trashed"  # in this run
    DELETED = "deleted"  # in this run
    PUT_BACK = "put_back"  # in this run
    STUCK = "stuck"


@dataclass(frozen=True)
class Item:
    """One copy. until: when it may be deleted from the trash."""

    beamline: str
    place: str
    key: str
    scan_id: int
    bytes: int
    state: State
    reasons: Sequence[Reason] = ()
    until: datetime | None = None
    note: str | None = None

    @classmethod
    def of(
        cls, place: str, case: Case, state: State, reasons: Sequence[Reason] = (), until: datetime | None = None,
        note: str | None = None,
    ) -> Item:  # fmt: skip
        scan = case.scan
        return cls(scan.beamline, place, scan.key, scan.id, case.bytes, state, tuple(reasons), until, note)


@dataclass(frozen=True)
class Trouble:
    """What kept a place or a scan from being worked on. waits: it goes by itself (an outage), nobody need act."""

    beamline: str
    place: str
    words: str
    waits: bool


@dataclass
class Report:
    """items: the latest word on each copy. progress: changes so far. bugs: exceptions that nobody foresaw."""

    items: dict[tuple[str, int], Item] = field(default_factory=dict)
    troubles: list[Trouble] = field(default_factory=list)
    bugs: list[Exception] = field(default_factory=list)
    progress: int = 0

    def keep(self, item: Item) -> None:
        before = self.items.get((item.place, item.scan_id))
        if item.state is not State.STAYS or before is None or before.state is State.STAYS:
            self.items[item.place, item.scan_id] = item  # that something stays is no news once something was done

    def trouble(self, trouble: Trouble) -> None:
        if trouble not in self.troubles:
            self.troubles.append(trouble)

    def of(self, state: State) -> list[Item]:
        return [item for item in self.items.values() if item.state is state]

    def sums(self) -> dict[str, dict[str, int]]:
        """state → number of scans and bytes."""
        return {
            state: {"scans": len(items), "bytes": sum(item.bytes for item in items)}
            for state in State
            if (items := self.of(state))
        }

    def document(self) -> dict[str, Any]:
        """`als prune --json` without what is common to all beamlines."""
        return {
            "sums": self.sums(),
            "scans": [
                {
                    "beamline": item.beamline,
                    "place": item.place,
                    "key": item.key,
                    "bytes": item.bytes,
                    "state": str(item.state),
                    "reasons": [{"kind": str(r.kind), "words": r.words} for r in item.reasons],
                    "until": stamp(item.until),
                    "note": item.note,
                }
                for item in self.items.values()
            ],
            "troubles": [
                {"beamline": t.beamline, "place": t.place, "says": t.words, "waits": t.waits} for t in self.troubles
            ],
        }
