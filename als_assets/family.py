"""What an asset family has to know, so that `ensure` can bring its scans to completion.

A family says which work is to be done for scans that are due (`begin`), and what came of it (`collect`, `act`). It
asks facilities; it never changes a step by itself: that is the engine's, in one transaction with `write`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from sqlalchemy.engine import Connection

from beamlines.spec import Asset, Spec
from resources.errors import FacilityError
from resources.ledger.leases import Pause
from resources.ledger.scans import Scan
from resources.ledger.steps import Step
from resources.ledger.tasks import Task
from resources.tasks import TaskSystem

Write = Callable[[Connection, datetime], None]


def nothing(tx: Connection, now: datetime) -> None:
    """Nothing to write besides the step itself."""


@dataclass(frozen=True)
class Done:
    """The asset of this scan is there, verified. `write` records the facts."""

    write: Write = nothing
    why: str | None = None


@dataclass(frozen=True)
class GoOn:
    """A part of the step is done; the rest is due now."""

    write: Write = nothing
    why: str | None = None


@dataclass(frozen=True)
class NotDone:
    """It did not work. `why` names scan, place and reason; `then` says what to do next.

    Attributes:
        transient: another attempt may work.
        question: a person has to decide about the scan; the question is kept on it.
    """

    why: str
    then: str
    transient: bool = True
    question: bool = False
    write: Write = nothing

    @property
    def message(self) -> str:
        return f"{self.why} What to do: {self.then}"


@dataclass(frozen=True)
class PutOff:
    """What the task needed was down, which is no fault of the scan: the same attempt once more when it may be back.
    `error` tells what rests from now on, and why."""

    error: FacilityError


Outcome = Done | GoOn | NotDone | PutOff


@dataclass(frozen=True)
class ByTask:
    """Work for a facility: one task for these scans."""

    purpose: str
    system: TaskSystem
    scans: Sequence[Scan]
    attempt: int
    request: Callable[[str], Mapping[str, Any]]  # from the proposed key


@dataclass(frozen=True)
class ByHand:
    """Work that is done in this process, by calls to `service`."""

    service: str
    scan: Scan


@dataclass(frozen=True)
class Refusal:
    """A due scan for which no work can be begun."""

    scan: Scan
    outcome: NotDone


@dataclass(frozen=True)
class Wait:
    """A due scan for which nothing can be done until then; uses up no attempt."""

    scan: Scan
    until: datetime
    why: str


Work = ByTask | ByHand | Refusal | Wait


class Rests(Protocol):
    """Which services rest now. The answers stay the same while one `begin` and what follows from it is done."""

    def of(self, service: str) -> Pause | None:
        """Why and until when a service is not to be asked, or None."""
        ...

    def begin(self, error: FacilityError) -> Pause:
        """A service has turned out not to work: let it rest."""
        ...


class Family(Protocol):
    spec: Spec
    asset: Asset

    def begin(self, due: Sequence[tuple[Step, Scan]], rests: Rests) -> list[Work]:
        """What to do for these scans. Blocks."""
        ...

    def collect(self, task: Task, scans: Sequence[tuple[Step, Scan]]) -> dict[int, Outcome]:
        """What came of an ended task, for each of its scans that still waits for it. Blocks."""
        ...

    def act(self, step: Step, scan: Scan) -> Outcome:
        """Do the work of a `ByHand`. Blocks; may be repeated, also at the same time."""
        ...

    def metadata(self, tx: Connection, scan: Scan) -> dict[str, Any]:
        """What Dagster shows for the partition, from the ledger alone."""
        ...
