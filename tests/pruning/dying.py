"""Ends a run after its n-th change, as kill -9 does: what would have followed is not done, and nothing is tidied up.

    with dying(7) as death: …          killed after the 7th change: a commit, or a call that changes something of a scan

Between two changes it makes no difference where a run is killed, so that these are all points that there are. A commit
that only renews the lease of the run is none.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from als_assets.pruning.place import Place
from resources.globus import GlobusTransfer
from resources.ledger import Ledger

CALLS = ("rename", "submit", "cancel")


class Killed(BaseException):
    """The process is dead."""


class Death:
    """`where`: what had been done last when the run was killed; "" while it lives."""

    def __init__(self, after: int) -> None:
        self.after, self.seen, self.where = after, 0, ""
        self.counts = True

    def alive(self) -> None:
        if self.where:
            raise Killed(self.where)

    def done(self, what: str) -> None:
        self.seen += self.counts
        if self.counts and self.seen >= self.after:
            self.where = what
            raise Killed(what)

    def install(self, patch: pytest.MonkeyPatch) -> None:
        for name in CALLS:
            patch.setattr(GlobusTransfer, name, self._wrapped(name, getattr(GlobusTransfer, name)))
        write, ours = Ledger.write, Place.ours

        @contextmanager
        def dying_write(ledger: Ledger) -> Iterator[Any]:
            self.alive()
            with write(ledger) as tx:
                yield tx
            self.done("commit")

        def uncounted(place: Place) -> None:
            self.counts = False
            ours(place)
            self.counts = True

        patch.setattr(Ledger, "write", dying_write)
        patch.setattr(Place, "ours", uncounted)

    def _wrapped(self, name: str, real: Any) -> Any:
        def call(globus: GlobusTransfer, *arguments: Any) -> Any:
            self.alive()
            out = real(globus, *arguments)
            self.done(name)
            return out

        return call


@contextmanager
def dying(after: int) -> Iterator[Death]:
    """Everything inside is killed after so many changes; ends quietly when it was."""
    death = Death(after)
    with pytest.MonkeyPatch.context() as patch:
        death.install(patch)
        try:
            yield death
        except Killed:
            assert death.where
