"""What analyses made of scans."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from resources.ledger.schema import previews, products


@dataclass(frozen=True)
class Product:
    id: int
    scan_id: int
    asset: str
    label: str
    revision: int
    task_id: int | None
    path: str | None
    document: dict[str, Any]
    made_at: datetime


def keep(
    tx: Connection,
    scan_id: int,
    asset: str,
    label: str,
    revision: int,
    task_id: int | None,
    path: str | None,
    document: dict[str, Any],
    pngs: Mapping[str, bytes],
    now: datetime,
) -> int:
    """Write down a product; the same revision again replaces what was kept of it."""
    one = (products.c.scan_id == scan_id) & (products.c.asset == asset)
    one = one & (products.c.label == label) & (products.c.revision == revision)
    values = {"task_id": task_id, "path": path, "document": document, "made_at": now}
    row = tx.execute(sa.select(products.c.id).where(one)).first()
    if row:
        product_id = int(row[0])
        tx.execute(sa.update(products).where(products.c.id == product_id).values(**values))
        tx.execute(sa.delete(previews).where(previews.c.product_id == product_id))
    else:
        names = {"scan_id": scan_id, "asset": asset, "label": label, "revision": revision}
        result = tx.execute(sa.insert(products).values(**names, **values))
        product_id = int((result.inserted_primary_key or [0])[0])
    for name, png in pngs.items():
        tx.execute(sa.insert(previews).values(product_id=product_id, name=name, png=png))
    return product_id


def of_scan(tx: Connection, scan_id: int, asset: str | None = None) -> list[Product]:
    """Oldest first."""
    query = sa.select(products).where(products.c.scan_id == scan_id).order_by(products.c.id)
    if asset is not None:
        query = query.where(products.c.asset == asset)
    return [
        Product(**{name: row[name] for name in Product.__dataclass_fields__}) for row in tx.execute(query).mappings()
    ]


def latest(tx: Connection, scan_id: int, asset: str) -> Product | None:
    found = of_scan(tx, scan_id, asset)
    return found[-1] if found else None


def pngs(tx: Connection, product_id: int) -> dict[str, bytes]:
    query = sa.select(previews.c.name, previews.c.png).where(previews.c.product_id == product_id)
    return {name: png for name, png in tx.execute(query)}
