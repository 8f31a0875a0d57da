"""The ledger as a Dagster resource. Apart, so that the command line reads the ledger without importing Dagster."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path

import dagster as dg

from resources.ledger.database import Ledger


class LedgerResource(dg.ConfigurableResource):  # type: ignore[type-arg]
    """Where the ledger is. `url_env` names the variable with its SQLAlchemy URL (it may hold a password); without it
    the ledger is ledger.db in the folder that ALS_STATE names."""

    facilities: str
    url_env: str = "ALS_LEDGER_URL"

    def open(self) -> Ledger:
        """The ledger, one per process."""
        return _opened(ledger_url(self.url_env), self.facilities)


@lru_cache(maxsize=4)
def _opened(url: str, facilities: str) -> Ledger:
    return Ledger(url, facilities)


def ledger_url(variable: str = "ALS_LEDGER_URL") -> str:
    return os.environ.get(variable) or f"sqlite:///{state_dir() / 'ledger.db'}"


def state_dir() -> Path:
    """The folder of everything that this installation remembers: ALS_STATE, or .als in the present folder."""
    return Path(os.environ.get("ALS_STATE") or ".als").resolve()
