"""Where an installation keeps what it remembers: ALS_STATE, ALS_LEDGER_URL, ALS_BACKUPS."""

from __future__ import annotations

import os
from pathlib import Path

URL_VARIABLE = "ALS_LEDGER_URL"


def state_dir() -> Path:
    """The folder of everything that this installation remembers: ALS_STATE, or .als in the present folder."""
    return Path(os.environ.get("ALS_STATE") or ".als").resolve()


def backups_dir() -> Path:
    """Where backups of the ledger are kept: ALS_BACKUPS, or `backups` in the state folder (the same disk, then)."""
    return Path(os.environ.get("ALS_BACKUPS") or state_dir() / "backups").resolve()


def sqlite_file() -> Path:
    """The ledger's file, when no URL is given."""
    return state_dir() / "ledger.db"


def ledger_url(variable: str = URL_VARIABLE) -> str:
    """SQLAlchemy URL of the ledger; it may hold a password."""
    return os.environ.get(variable) or f"sqlite:///{sqlite_file()}"
