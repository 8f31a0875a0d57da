"""The document of a scan: exactly the documented form, in every state."""

from __future__ import annotations

import json
from typing import Any

import pytest
import sqlalchemy as sa

from resources.ledger import products, scans, schema, steps, tasks, views
from resources.tasks import TaskState, TaskStatus
from tests.ledger.conftest import NOW, SECOND

DOCUMENT = {
    "schema", "beamline", "key", "path", "hash", "state", "why", "safe", "held", "proposal", "noticed_at", "files",
    "assets", "copies", "tasks", "products", "catalog", "proposal_from", "investigator", "groups", "restricted",
    "version",
}  # fmt: skip
TIME = "2026-11-20T10:00:00Z"


def document(book: Any, scan_id: int, durable: Any = ("cfs", "hpss")) -> dict[str, Any]:
    with book.ledger.read() as tx:
        found = views.scan_document(tx, book.spec, scans.get(tx, scan_id), set(durable), NOW)
    assert set(found) == DOCUMENT
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["state"] in {"done", "in_flight", "waiting", "failed", "question"}
    for asset in found["assets"].values():
        assert {"state", "at", "why"} <= set(asset) <= {"state", "at", "why", "attempt", "until"}
    for copy in found["copies"]:
        assert set(copy) == {
            "place",
            "path",
            "bytes",
            "sha256",
            "verified_at",
            "verified_by",
            "pruned_at",
            "trashed_at",
        }
    for task in found["tasks"]:
        assert set(task) == {"asset", "system", "id", "key", "attempt", "state", "submitted_at", "ended_at"}
    return found


def prove(book: Any, scan_id: int, place: str, method: str = "globus-checksum", only: str | None = None,
          digest: str | None = None) -> None:  # fmt: skip
    with book.ledger.write() as tx:
        copy_id = scans.keep_copy(tx, scan_id, place, "present", "")
        for file in scans.files_of(tx, [scan_id])[scan_id]:
            if only in (None, file.path):
                scans.add_evidence(tx, copy_id, file.id, method, digest, file.bytes, NOW, NOW, None)
        scans.verified(tx, copy_id, NOW)


def finished(book: Any, scan_id: int) -> None:
    for asset in ("raw_at_cfs", "xpcs_result", "catalog_entry"):
        book.done(scan_id, asset)


def test_a_scan_that_has_just_been_noticed_waits(book: Any) -> None:
    found = document(book, book.scan("day/a.h5", files=["day/a_roi.h5"]))
    assert (found["schema"], found["beamline"], found["key"]) == ("als-scan/1", "bl1", "day/a.h5")
    assert (found["state"], found["why"]) == ("waiting", "raw_at_cfs: is due")
    assert found["noticed_at"] == TIME and found["held"] is None and found["proposal"] is None
    assert found["files"] == [
        {"path": "day/a.h5", "role": "data", "bytes": 5}, {"path": "day/a_roi.h5", "role": "file0", "bytes": 5},
    ]  # fmt: skip
    assert list(found["assets"]) == ["raw_at_dtn", "raw_at_cfs", "xpcs_result", "catalog_entry"]
    assert found["assets"]["raw_at_dtn"] == {"state": "materialized", "at": TIME, "why": None}
    assert found["assets"]["xpcs_result"] == {"state": "waiting", "at": None, "why": "waits for raw_at_cfs"}
    assert [(c["place"], c["verified_at"]) for c in found["copies"]] == [("dtn", None), ("dtn", None)]


def test_a_scan_is_done_when_every_asset_is_there(book: Any) -> None:
    scan_id = book.scan()
    finished(book, scan_id)
    assert (document(book, scan_id)["state"], document(book, scan_id)["why"]) == ("done", None)


@pytest.mark.parametrize("state", [steps.IN_FLIGHT, steps.LANDED, steps.WORKING])
def test_what_is_under_way_is_in_flight(book: Any, state: str) -> None:
    scan_id = book.scan()
    book.put(scan_id, state=state, why=None)
    found = document(book, scan_id)
    assert (found["state"], found["why"]) == ("in_flight", "raw_at_cfs: in flight")


def test_what_is_put_off_says_why_until_when_and_which_attempt(book: Any) -> None:
    scan_id = book.scan()
    with book.ledger.write() as tx:
        steps.try_again(tx, scan_id, "raw_at_cfs", NOW + 60 * SECOND, "attempt 1: the disk was full", NOW)
    assert document(book, scan_id)["assets"]["raw_at_cfs"] == {
        "state": "waiting", "at": None, "why": "attempt 1: the disk was full", "attempt": 2,
        "until": "2026-11-20T10:01:00Z",
    }  # fmt: skip


def test_a_failure_is_told_before_anything_else_is(book: Any) -> None:
    scan_id = book.scan()
    book.done(scan_id, "raw_at_cfs")
    book.put(scan_id, "xpcs_result", state=steps.IN_FLIGHT)
    book.put(scan_id, "catalog_entry", state=steps.FAILED, why="SciCat said no", next_try=NOW + SECOND)
    found = document(book, scan_id)
    assert (found["state"], found["why"]) == ("failed", "catalog_entry: SciCat said no")
    assert found["assets"]["catalog_entry"] == {"state": "failed", "at": None, "why": "SciCat said no"}


def test_a_question_to_a_person_comes_first(book: Any) -> None:
    scan_id = book.scan()
    book.put(scan_id, state=steps.FAILED, why="no")
    with book.ledger.write() as tx:
        scans.ask_person(tx, scan_id, "which of the two?", NOW)
    assert (document(book, scan_id)["state"], document(book, scan_id)["why"]) == ("question", "which of the two?")


def test_an_asset_that_does_not_apply_keeps_no_scan_from_being_done(book: Any) -> None:
    scan_id = book.scan()
    finished(book, scan_id)
    book.put(scan_id, "xpcs_result", state=steps.NOT_APPLICABLE, why="this analysis runs on request")
    assert document(book, scan_id)["assets"]["xpcs_result"]["state"] == "not_applicable"
    assert document(book, scan_id)["state"] == "done"


def test_an_asset_that_today_s_spec_demands_and_that_was_never_begun_is_missing(book: Any) -> None:
    scan_id = book.scan()
    finished(book, scan_id)
    with book.ledger.write() as tx:
        tx.execute(sa.delete(schema.steps).where(schema.steps.c.asset == "xpcs_result"))
    found = document(book, scan_id)
    assert found["assets"]["xpcs_result"]["state"] == "missing"
    assert (found["state"], found["why"]) == ("waiting", "xpcs_result: not begun")


def test_a_pruned_copy_is_shown_as_pruned_and_the_scan_stays_done(book: Any) -> None:
    scan_id = book.scan()
    finished(book, scan_id)
    with book.ledger.write() as tx:
        tx.execute(sa.update(schema.copies).values(state="pruned", pruned_at=NOW))
    found = document(book, scan_id)
    assert found["assets"]["raw_at_dtn"] == {"state": "pruned", "at": TIME, "why": None}
    assert found["copies"][0]["pruned_at"] == TIME and found["state"] == "done"


def test_a_lost_copy_is_a_failure(book: Any) -> None:
    scan_id = book.scan()
    finished(book, scan_id)
    prove(book, scan_id, "cfs")
    with book.ledger.write() as tx:
        tx.execute(sa.update(schema.copies).where(schema.copies.c.place == "cfs").values(state="lost"))
    found = document(book, scan_id)
    assert found["assets"]["raw_at_cfs"]["state"] == "lost"
    assert (found["state"], found["why"]) == ("failed", "raw_at_cfs: lost")


# safe


def test_safe_means_verified_in_two_durable_places(book: Any) -> None:
    scan_id = book.scan()
    assert not document(book, scan_id)["safe"]
    prove(book, scan_id, "cfs")
    assert not document(book, scan_id)["safe"], "one place"
    prove(book, scan_id, "hpss", "htar", digest="ab")
    assert document(book, scan_id)["safe"]
    assert not document(book, scan_id, durable=["cfs"])["safe"], "one of the two is not durable"
    with book.ledger.write() as tx:
        tx.execute(
            sa.update(schema.copies).where(schema.copies.c.place == "hpss").values(state="pruned", pruned_at=NOW)
        )
    assert not document(book, scan_id)["safe"], "one of the two is gone"


def test_a_copy_that_lacks_the_proof_for_one_file_does_not_count(book: Any) -> None:
    scan_id = book.scan("a.h5", files=["b.h5"])
    prove(book, scan_id, "cfs")
    prove(book, scan_id, "hpss", only="a.h5")
    assert not document(book, scan_id)["safe"]
    prove(book, scan_id, "hpss", only="b.h5")
    assert document(book, scan_id)["safe"]


@pytest.mark.parametrize("state", ["lost", "present"])
def test_a_copy_that_is_lost_or_was_never_verified_as_a_whole_does_not_count(book: Any, state: str) -> None:
    scan_id = book.scan()
    prove(book, scan_id, "cfs")
    prove(book, scan_id, "hpss")
    with book.ledger.write() as tx:
        tx.execute(sa.update(schema.copies).where(schema.copies.c.place == "hpss").values(state=state))
    assert not document(book, scan_id)["safe"]


def test_a_listing_proves_nothing(book: Any) -> None:
    scan_id = book.scan()
    prove(book, scan_id, "cfs")
    prove(book, scan_id, "hpss", "listing")
    assert not document(book, scan_id)["safe"]
    assert [c["verified_by"] for c in document(book, scan_id)["copies"]] == [None, "globus-checksum", None]


def test_a_copy_has_one_entry_per_file_with_all_that_proves_it(book: Any) -> None:
    scan_id = book.scan()
    prove(book, scan_id, "cfs")
    prove(book, scan_id, "cfs", "sha256", digest="ab" * 32)
    copy = document(book, scan_id)["copies"][1]
    assert (copy["place"], copy["path"], copy["bytes"], copy["sha256"]) == ("cfs", "a.h5", 5, "ab" * 32)
    assert (copy["verified_at"], copy["verified_by"]) == (TIME, "globus-checksum + sha256")


# what was asked for, and what came of it


def test_tasks_products_and_catalogue_entries_are_told(book: Any) -> None:
    scan_id = book.scan()
    with book.ledger.write() as tx:
        task_id = tasks.intend(
            tx, NOW, beamline="bl1", asset="raw_at_cfs", purpose="copy", system="globus", service="globus",
            proposed_key="p", request={}, attempt=1, scan_ids=[scan_id],
        )  # fmt: skip
        empty = document_in(tx, book, scan_id)["tasks"][0]
        assert (empty["id"], empty["key"], empty["state"], empty["submitted_at"]) == (None, None, "intended", None)
        tasks.keep_key(tx, task_id, "k")
        tasks.submitted(tx, task_id, "g-1", NOW)
        tasks.seen(tx, tasks.get(tx, task_id), TaskStatus("g-1", TaskState.SUCCEEDED, "SUCCEEDED"), NOW)
        summary = {"parameters": {"dq": 4}, "values": {"tau_s": [1.0, None]}, "qc": {"x": {}}, "versions": {}}
        for revision in (1, 2):
            products.keep(tx, scan_id, "xpcs_result", "", revision, task_id, f"/r{revision}", summary, {}, NOW)
        entries = [{"pid": "als/bl1/x", "type": "raw"}]
        products.keep(tx, scan_id, "catalog_entry", "", 1, None, None, {"entries": entries}, {}, NOW)
    found = document(book, scan_id)
    assert found["tasks"] == [
        {"asset": "raw_at_cfs", "system": "globus", "id": "g-1", "key": "k", "attempt": 1, "state": "succeeded",
         "submitted_at": TIME, "ended_at": TIME},
    ]  # fmt: skip
    assert [p["revision"] for p in found["products"]] == [1, 2]
    assert found["products"][1] == {
        "asset": "xpcs_result", "label": "", "revision": 2, "path": "/r2", "parameters": {"dq": 4},
        "values": {"tau_s": [1.0, None]}, "qc": {"x": {}},
    }  # fmt: skip
    assert found["catalog"] == entries


def document_in(tx: Any, book: Any, scan_id: int) -> dict[str, Any]:
    return views.scan_document(tx, book.spec, scans.get(tx, scan_id), set(), NOW)


def test_a_product_made_again_replaces_its_revision_with_its_pictures(book: Any) -> None:
    scan_id = book.scan()
    with book.ledger.write() as tx:
        for n in (1, 2):
            product_id = products.keep(
                tx, scan_id, "xpcs_result", "", 1, None, None, {"n": n}, {f"g{n}": b"%d" % n}, NOW
            )
        assert [p.document for p in products.of_scan(tx, scan_id, "xpcs_result")] == [{"n": 2}]
        assert products.pngs(tx, product_id) == {"g2": b"2"}
        assert products.latest(tx, scan_id, "other") is None
