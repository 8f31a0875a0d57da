"""The append-only record of who did what, and why."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from resources.ledger.schema import history


def record(
    tx: Connection,
    now: datetime,
    who: str,
    what: str,
    *,
    beamline: str | None = None,
    scan_id: int | None = None,
    asset: str | None = None,
    why: str | None = None,
    details: dict[str, Any] | None = None,
) -> None:
    tx.execute(
        sa.insert(history).values(
            at=now, who=who, what=what, beamline=beamline, scan_id=scan_id, asset=asset, why=why, details=details
        )
    )


def of_scan(tx: Connection, scan_id: int, limit: int = 200) -> list[dict[str, Any]]:
    rows = tx.execute(
        sa.select(history).where(history.c.scan_id == scan_id).order_by(history.c.id.desc()).limit(limit)
    ).mappings()
    return [dict(row) for row in rows]
