"""What has been seen becomes scans, whose steps follow today's rules."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa

from beamlines.policy.grouping import Group
from resources.ledger import flow, refusals, scans, schema, steps
from resources.ledger.scans import Listed
from resources.ledger.steps import BLOCKED, DONE, DUE, FAILED, NOT_APPLICABLE
from tests.ledger.conftest import NOW, SECOND, spec_of

LATER = NOW + 60 * SECOND


def see(book: Any, *listed: Listed, now: Any = NOW) -> dict[str, scans.Known]:
    with book.ledger.write() as tx:
        return scans.see(tx, "bl1", listed, now)


def states(book: Any, scan_id: int) -> dict[str, str]:
    with book.ledger.read() as tx:
        return {step.asset: step.state for step in steps.of_scan(tx, scan_id)}


def test_a_file_is_unchanged_since_it_was_last_seen_to_change_by_our_clock(book: Any) -> None:
    see(book, Listed("a.h5", 5, NOW - 999 * SECOND))
    see(book, Listed("a.h5", 5, NOW - 999 * SECOND), now=NOW + SECOND)
    grown = see(book, Listed("a.h5", 6, NOW - 999 * SECOND), now=NOW + 2 * SECOND)["a.h5"]
    assert grown.changed and grown.sighting.unchanged_since == NOW + 2 * SECOND and grown.sighting.first_seen == NOW
    same = see(book, Listed("a.h5", 6, NOW - 999 * SECOND), now=NOW + 3 * SECOND)["a.h5"]
    assert not same.changed and same.sighting == grown.sighting


def test_beamlines_do_not_see_each_other_s_files(book: Any) -> None:
    see(book, Listed("a.h5", 5, NOW))
    with book.ledger.read() as tx:
        assert scans.remembered(tx, "bl2", ["a.h5"]) == {}


def test_a_listing_of_thousands_of_files_is_remembered_as_one(book: Any) -> None:
    listed = [Listed(f"{n}.h5", n, NOW) for n in range(2500)]
    assert len(see(book, *listed)) == 2500
    assert not any(known.changed for known in see(book, *listed, now=LATER).values())


def test_refused_names_are_news_once_and_again_for_another_reason(book: Any) -> None:
    with book.ledger.write() as tx:
        assert refusals.refuse(tx, "bl1", {"'a\\n'": "newline", "'b'": "too long"}, NOW) == ["'a\\n'", "'b'"]
        assert refusals.refuse(tx, "bl1", {"'a\\n'": "newline"}, NOW) == []
        assert refusals.refuse(tx, "bl1", {"'a\\n'": "another"}, NOW) == ["'a\\n'"]
        assert refusals.refused(tx, "bl1") == {"'a\\n'": "another", "'b'": "too long"}
        assert refusals.refused(tx, "bl2") == {}


def test_a_registered_scan_has_its_files_its_copy_and_the_evidence_for_it(book: Any) -> None:
    scan_id = book.scan("day/a.h5", files=["day/a_roi.h5"])
    with book.ledger.read() as tx:
        scan = scans.find(tx, "bl1", "day/a.h5")
        assert scan is not None and scan == scans.get(tx, scan_id)
        assert (scan.id, scan.path, scan.noticed_at, scan.announced_at) == (scan_id, "day/a.h5", NOW, None)
        files = scans.files_of(tx, [scan_id])[scan_id]
        assert [(f.role, f.path, f.bytes) for f in files] == [("data", "day/a.h5", 5), ("file0", "day/a_roi.h5", 5)]
        assert {f.id for f in files} == set(scans.evidence_in(tx, scan_id, "dtn"))
        assert {k.scan_id for k in scans.remembered(tx, "bl1", ["day/a.h5", "day/a_roi.h5"]).values()} == {scan_id}


def test_registering_twice_changes_nothing(book: Any) -> None:
    def everything() -> dict[str, int]:
        with book.ledger.read() as tx:
            return {
                t.name: tx.execute(sa.select(sa.func.count()).select_from(t)).scalar_one()
                for t in schema.metadata.sorted_tables
            }

    scan_id = book.scan()
    before = everything()
    assert book.scan() == scan_id
    assert everything() == before


def test_a_late_companion_joins_its_scan(book: Any) -> None:
    scan_id = book.scan("a.h5", missing=["roi"])
    assert states(book, scan_id)["xpcs_result"] == BLOCKED
    book.done(scan_id, "raw_at_cfs")
    assert book.step(scan_id, "xpcs_result").why == "waits for the companion roi"
    assert book.scan("a.h5", files=["a_roi.h5"]) == scan_id
    with book.ledger.read() as tx:
        assert scans.get(tx, scan_id).missing == []
        assert len(scans.files_of(tx, [scan_id])[scan_id]) == 2
    assert states(book, scan_id)["xpcs_result"] == DUE


def test_a_sighting_that_lost_its_scan_is_tied_to_it_again(book: Any) -> None:
    scan_id = book.scan()
    with book.ledger.write() as tx:
        tx.execute(sa.update(schema.sightings).values(scan_id=None))
    book.scan()
    with book.ledger.read() as tx:
        assert scans.remembered(tx, "bl1", ["a.h5"])["a.h5"].scan_id == scan_id


def test_a_name_that_is_refused_cannot_be_registered(book: Any) -> None:
    with pytest.raises(ValueError, match="newline"), book.ledger.write() as tx:
        scans.register(tx, "bl1", "dtn", Group("a\nb.h5", {"data": "a\nb.h5"}), {}, NOW)


def test_scans_are_announced_once_in_the_order_in_which_they_came(book: Any) -> None:
    ids = [book.scan(f"{n}.h5") for n in range(3)]
    with book.ledger.write() as tx:
        assert [s.id for s in scans.unannounced(tx, "bl1", 2)] == ids[:2]
        scans.announced(tx, ids[:1], NOW)
        scans.announced(tx, ids[:1], LATER)
        assert [s.id for s in scans.unannounced(tx, "bl1", 9)] == ids[1:]
        assert scans.get(tx, ids[0]).announced_at == NOW


def test_the_newest_scans_come_first(book: Any) -> None:
    ids = [book.scan(f"{n}.h5") for n in range(3)]
    with book.ledger.read() as tx:
        assert [s.id for s in scans.latest(tx, "bl1", 2)] == [ids[2], ids[1]]


def test_a_question_is_asked_once_and_settled_by_its_answer_only(book: Any) -> None:
    scan_id = book.scan()
    with book.ledger.write() as tx:
        assert scans.ask_person(tx, scan_id, "100% sure? a_b", NOW)
        assert not scans.ask_person(tx, scan_id, "100% sure? a_b", LATER)
        assert not scans.settle_question(tx, scan_id, "100% sure? aXb", NOW)
        assert scans.settle_question(tx, scan_id, "100% sure? a_", NOW)
        assert scans.get(tx, scan_id).question is None


def test_a_digest_is_kept_as_first_read_and_another_one_is_told(book: Any) -> None:
    scan_id = book.scan()
    with book.ledger.write() as tx:
        file_id = scans.files_of(tx, [scan_id])[scan_id][0].id
        assert scans.keep_sha256(tx, file_id, "aa") is None
        assert scans.keep_sha256(tx, file_id, "aa") is None
        assert scans.keep_sha256(tx, file_id, "bb") == "aa"


def test_the_latest_evidence_of_each_method_counts(book: Any) -> None:
    scan_id = book.scan()
    with book.ledger.write() as tx:
        copy_id = scans.keep_copy(tx, scan_id, "cfs", "present", "")
        assert scans.keep_copy(tx, scan_id, "cfs", "present", "") == copy_id
        file_id = scans.files_of(tx, [scan_id])[scan_id][0].id
        for at in (NOW, LATER):
            scans.add_evidence(tx, copy_id, file_id, "globus-checksum", None, 5, NOW, at, None)
        assert [e["at"] for e in scans.evidence_in(tx, scan_id, "cfs")[file_id]] == [LATER]


# the flow of steps


def test_the_steps_of_a_scan_follow_each_other(book: Any) -> None:
    scan_id = book.scan()
    assert states(book, scan_id) == {
        "raw_at_dtn": DONE, "raw_at_cfs": DUE, "xpcs_result": BLOCKED, "catalog_entry": BLOCKED,
    }  # fmt: skip
    assert book.step(scan_id, "xpcs_result").why == "waits for raw_at_cfs"
    book.done(scan_id, "raw_at_cfs")
    assert states(book, scan_id)["xpcs_result"] == states(book, scan_id)["catalog_entry"] == DUE
    book.done(scan_id, "catalog_entry")
    book.done(scan_id, "xpcs_result")
    assert states(book, scan_id)["catalog_entry"] == DUE, "it tells of the result, too"
    assert book.step(scan_id, "catalog_entry").why == "xpcs_result has changed"


def test_advancing_twice_changes_nothing(book: Any) -> None:
    scan_id = book.scan()
    before = [book.raw(scan_id, asset) for asset in states(book, scan_id)]
    with book.ledger.write() as tx:
        flow.advance(tx, book.spec, [scan_id], LATER)
    assert [book.raw(scan_id, asset) for asset in states(book, scan_id)] == before


def test_a_spec_that_gains_an_asset_gives_it_to_every_scan_that_passes(book: Any) -> None:
    book.spec = spec_of(mode="copy")
    scan_id = book.scan()
    assert set(states(book, scan_id)) == {"raw_at_dtn", "raw_at_cfs"}
    book.spec = spec_of()
    book.done(scan_id, "raw_at_cfs")
    assert states(book, scan_id)["xpcs_result"] == DUE


def analyses(**more: Any) -> list[dict[str, Any]]:
    return [{"asset": "xpcs_result", "program": "xpcs", "place": "cfs", "layout": "als_7011", **more}]


def test_today_s_spec_decides_which_scans_an_analysis_is_for(book: Any) -> None:
    book.spec = spec_of(analyses=analyses(when="pattern", pattern="good/*"))
    scan_id = book.scan("a.h5")
    assert book.step(scan_id, "xpcs_result").state == NOT_APPLICABLE
    assert book.step(scan_id, "xpcs_result").why == "the name does not match good/*"
    book.spec = spec_of()
    book.scan("a.h5")
    assert book.step(scan_id, "xpcs_result").state == BLOCKED
    book.spec = spec_of(analyses=analyses(when="on_request"))
    book.scan("a.h5")
    assert book.step(scan_id, "xpcs_result").state == NOT_APPLICABLE
    book.spec = spec_of()
    book.done(scan_id, "raw_at_cfs")
    assert book.step(scan_id, "xpcs_result").state == DUE


def test_what_is_asked_for_waits_for_what_it_needs(book: Any) -> None:
    book.spec = spec_of(analyses=analyses(when="on_request"))
    scan_id = book.scan()
    with book.ledger.write() as tx:
        assert flow.ask(tx, book.spec, [scan_id], "xpcs_result", "run-1", NOW) == 1
        assert flow.ask(tx, book.spec, [scan_id], "xpcs_result", "run-1", NOW) == 0
    assert book.step(scan_id, "xpcs_result").state == BLOCKED
    book.done(scan_id, "raw_at_cfs")
    assert book.step(scan_id, "xpcs_result").state == DUE, "though the spec does not want it by itself"


def test_what_is_asked_for_and_needs_nothing_is_due_at_once(book: Any) -> None:
    scan_id = book.scan()
    book.put(scan_id, "raw_at_cfs", state=FAILED, next_try=None)
    with book.ledger.write() as tx:
        assert flow.ask(tx, book.spec, [scan_id], "raw_at_cfs", "run-1", NOW) == 1
    assert book.step(scan_id).state == DUE


def test_advancing_many_scans_takes_a_handful_of_statements(book: Any) -> None:
    said: list[str] = []
    with book.ledger.write() as tx:
        groups = [Group(f"{n}.h5", {"data": f"{n}.h5"}) for n in range(300)]
        seen = scans.see(tx, "bl1", [Listed(g.path, 5, NOW) for g in groups], NOW)
        ids = [scans.register(tx, "bl1", "dtn", g, seen, NOW) for g in groups]
        sa.event.listen(tx, "before_cursor_execute", lambda *arguments: said.append(arguments[2]))
        flow.advance(tx, book.spec, ids, NOW)
    assert len(said) < 20
