"""The document of a scan that `--json` prints: where every copy is, what is in flight, what failed and why.

Its form is part of the interface; see docs/json.md. `scan_document` reads nothing but the ledger.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from beamlines.policy.names import version_of
from beamlines.spec import Asset, Kind, Spec
from resources.ledger import holds, leases, products, removals, scans, steps, tasks
from resources.ledger.scans import File, Scan
from resources.ledger.schema import copies, evidence
from resources.ledger.steps import Step
from resources.ledger.tasks import Task

SCHEMA = "als-scan/1"
ENTRY = "catalog_entry"
LISTINGS = ("listing", "adopted-listing")  # evidence that a file was seen, which proves nothing about its content
COPIES_WANTED = 2  # verified ones in durable places, before a scan counts as safe


def stamp(moment: datetime | None) -> str | None:
    """2026-11-20T10:36:00Z"""
    return None if moment is None else moment.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def scan_document(tx: Connection, spec: Spec, scan: Scan, durable: Collection[str], now: datetime) -> dict[str, Any]:
    """One scan, whole.

    Args:
        durable: names of this beamline's durable places; `safe` means verified copies in two of them.
    """
    mine = {step.asset: step for step in steps.of_scan(tx, scan.id)}
    files = scans.files_of(tx, [scan.id])[scan.id]
    of_scan = sa.select(copies).where(copies.c.scan_id == scan.id)
    places = {str(row["place"]): dict(row) for row in tx.execute(of_scan).mappings()}
    assets = {asset.name: _asset(mine.get(asset.name), places.get(_place(spec, asset)), now) for asset in spec.assets()}
    asked = tasks.of_scan(tx, scan.id)
    for task in asked:
        if task.live and (step := mine.get(task.asset)) is not None and step.task_id == task.id:
            assets[task.asset] |= _under_way(tx, task, now)
    held = _copies(tx, scan.id, files)
    state, why = overall(assets, scan)
    verified = _verified(held, len(files), {place for place, copy in places.items() if copy["state"] == "verified"})
    made = products.of_scan(tx, scan.id)
    analyses = {asset.name for asset in spec.assets() if asset.analysis is not None}
    entries = [p for p in made if p.asset == ENTRY]
    return {
        "schema": SCHEMA,
        "beamline": spec.id,
        "key": scan.key,
        "path": scan.path,
        "hash": scan.hash,
        "state": state,
        "why": why,
        "safe": len(verified & set(durable)) >= COPIES_WANTED,
        "held": _held(tx, scan, now),
        "proposal": scan.proposal,
        "proposal_from": scan.proposal_from,
        "investigator": scan.investigator,
        "groups": scan.groups or [],
        "restricted": scan.restricted,
        "version": version_of(scan.key),
        "noticed_at": stamp(scan.noticed_at),
        "files": [{"path": f.path, "role": f.role, "bytes": f.bytes} for f in files],
        "assets": assets,
        "copies": held,
        "tasks": [
            {
                "asset": t.asset,
                "system": t.system,
                "id": t.external_id,
                "key": t.key,
                "attempt": t.attempt,
                "state": t.state,
                "submitted_at": stamp(t.submitted_at),
                "ended_at": stamp(t.ended_at),
            }
            for t in asked
        ],
        "products": [
            {
                "asset": p.asset,
                "label": p.label,
                "revision": p.revision,
                "path": p.path,
                "parameters": p.document.get("parameters", {}),
                "values": p.document.get("values", {}),
                "qc": p.document.get("qc", {}),
            }
            for p in made
            if p.asset in analyses
        ],
        "catalog": entries[-1].document.get("entries", []) if entries else [],
    }


def _held(tx: Connection, scan: Scan, now: datetime) -> dict[str, Any] | None:
    """Who wants it kept for longest; until then no copy of it is deleted."""
    on = holds.of_scans(tx, [scan.id], now).get(scan.id)
    return {"until": stamp(on[0].until), "who": on[0].who, "why": on[0].why} if on else None


def _place(spec: Spec, asset: Asset) -> str:
    """The place whose copy an asset is; "" for one that is none."""
    return spec.scans.watch if asset.kind is Kind.NOTICED else asset.copy_to.place if asset.copy_to else ""


def _verified(held: Sequence[Mapping[str, Any]], files: int, places: Collection[str]) -> set[str]:
    """Those of the places in which every file of the scan is verified."""
    proven = Counter(entry["place"] for entry in held if entry["verified_at"] and not entry["pruned_at"])
    return {place for place in places if files and proven[place] == files}


def _asset(step: Step | None, copy: Mapping[str, Any] | None, now: datetime) -> dict[str, Any]:
    if step is None:
        return {"state": "missing", "at": None, "why": None}
    if copy is not None and step.state == steps.DONE and copy["state"] in ("pruned", "lost"):
        return {"state": copy["state"], "at": stamp(copy["pruned_at"] or step.done_at), "why": step.why}
    shown = {
        steps.DONE: "materialized",
        steps.FAILED: "failed",
        steps.NOT_APPLICABLE: "not_applicable",
        steps.BLOCKED: "waiting",
        steps.DUE: "waiting",
    }.get(step.state, "in_flight")
    why = step.why
    if step.state == steps.DUE and why is None:
        why = "is due"
    until = step.next_try if step.state == steps.DUE and step.next_try and step.next_try > now else None
    return {
        "state": shown,
        "at": stamp(step.done_at) if step.state == steps.DONE else None,
        "why": why,
        **({"attempt": step.attempt} if step.attempt > 1 else {}),
        **({"until": stamp(until)} if until else {}),
    }


def _under_way(tx: Connection, task: Task, now: datetime) -> dict[str, Any]:
    """What is to be said of a step whose task has not ended: what the task waits for. One that could not be submitted
    yet, since its service rests, is waiting."""
    rest = leases.paused(tx, task.service, now)
    if task.external_id is None and rest is not None:
        return {"state": "waiting", "why": f"waits for {rest.service}: {rest.reason}", "until": stamp(rest.until)}
    return {"why": task.reason} if task.reason else {}


def overall(assets: dict[str, dict[str, Any]], scan: Scan) -> tuple[str, str | None]:
    """The state of a scan as a whole, worst first, and why."""
    if scan.question:
        return "question", scan.question
    for shown, state in (("lost", "failed"), ("failed", "failed"), ("in_flight", "in_flight"), ("waiting", "waiting")):
        for name, asset in assets.items():
            if asset["state"] == shown:
                return state, f"{name}: {asset['why'] or shown.replace('_', ' ')}"
    missing = [name for name, asset in assets.items() if asset["state"] == "missing"]
    if missing:
        return "waiting", f"{', '.join(missing)}: not begun"
    return "done", None


def _copies(tx: Connection, scan_id: int, files: Sequence[File]) -> list[dict[str, Any]]:
    """One entry per file and place, with the evidence for it."""
    by_id = {file.id: file for file in files}
    leaving = removals.of_scans(tx, [scan_id]).get(scan_id, {})
    query = (
        sa.select(
            copies.c.place, copies.c.pruned_at, evidence.c.file_id,
            evidence.c.method, evidence.c.digest, evidence.c.bytes, evidence.c.at,
        )
        .join_from(copies, evidence, evidence.c.copy_id == copies.c.id)
        .where(copies.c.scan_id == scan_id)
        .order_by(copies.c.id, evidence.c.file_id, evidence.c.at)
    )  # fmt: skip
    out: dict[tuple[str, int], dict[str, Any]] = {}
    for row in tx.execute(query).mappings():
        file = by_id[row["file_id"]]
        entry = out.setdefault(
            (row["place"], file.id),
            {
                "place": row["place"],
                "path": file.path,
                "bytes": row["bytes"],
                "sha256": None,
                "verified_at": None,
                "verified_by": None,
                "pruned_at": stamp(row["pruned_at"]),
                "trashed_at": stamp(leaving[row["place"]].trashed_at) if row["place"] in leaving else None,
            },
        )
        entry["bytes"] = row["bytes"]  # the latest evidence counts
        entry["sha256"] = row["digest"] or entry["sha256"]
        if row["method"] not in LISTINGS:
            entry["verified_at"] = stamp(row["at"])
            entry["verified_by"] = " + ".join(filter(None, [entry["verified_by"], row["method"]]))
    return list(out.values())
