"""The ledger as a Dagster resource. Apart, so that the command line reads the ledger without importing Dagster."""

from __future__ import annotations

from functools import lru_cache

import dagster as dg

from resources.ledger.database import Ledger
from resources.ledger.location import URL_VARIABLE, ledger_url


class LedgerResource(dg.ConfigurableResource):  # type: ignore[type-arg]
    """Where the ledger is. `url_env` names the variable with its SQLAlchemy URL (it may hold a password); without it
    the ledger is ledger.db in the folder that ALS_STATE names."""

    facilities: str
    url_env: str = URL_VARIABLE

    def open(self) -> Ledger:
        """The ledger, one per process."""
        return _opened(ledger_url(self.url_env), self.facilities)


@lru_cache(maxsize=4)
def _opened(url: str, facilities: str) -> Ledger:
    return Ledger(url, facilities)
