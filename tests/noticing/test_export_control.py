"""Export control: decided before the first copy; nothing of such a scan is begun, sent or entered, whoever asks."""

from __future__ import annotations

import dagster as dg
import pytest
import sqlalchemy as sa

from beamlines.policy.restricted import NO_PROPOSAL, restricted_by
from beamlines.spec import ExportControl
from resources import once
from resources.ledger import assignments, flow, schema, steps, tasks
from tests.ensure.test_catalogue import Catalogue
from tests.ensure.test_shells import Dagster, message
from tests.noticing.conftest import Beamline

ASSETS = ("raw_at_cfs", "xpcs_result", "catalog_entry")
RULE = {"paths": ["secret/**"], "proposals": ["ALS-X"]}


def nothing_left(beamline: Beamline) -> bool:
    """No task was made, nothing is at NERSC, nothing in the catalogue."""
    files = [p for p in beamline.rig.cfs.rglob("*") if p.is_file() and not p.name.startswith(".")]
    calls = [route for route in beamline.rig.sandbox.requests() if "POST" in route and "/transfer" in route]
    return not files and not calls and not Catalogue(beamline.rig).datasets()


@pytest.mark.parametrize(
    ("path", "proposal", "notified", "reason"),
    [
        ("a.h5", None, False, None),
        ("secret/d/a.h5", None, False, "export control: the path matches secret/**"),
        ("a.h5", "ALS-X", False, "export control: proposal ALS-X"),
        ("a.h5", "ALS-1", True, "export control: whoever notified it says so"),
    ],
)
def test_the_rule(path: str, proposal: str | None, notified: bool, reason: str | None) -> None:
    assert restricted_by(ExportControl.model_validate(RULE), path, proposal, notified) == reason


def test_a_scan_without_a_proposal_is_held_only_where_the_spec_says_so() -> None:
    hold = ExportControl(unknown_proposal="hold")
    assert restricted_by(hold, "a.h5", None, False) == NO_PROPOSAL and restricted_by(hold, "a.h5", "P", False) is None


@pytest.mark.parametrize("how", ["path", "proposal", "notice", "hold"])
def test_nothing_of_a_restricted_scan_leaves_the_beamline(beamline: Beamline, how: str) -> None:
    name = "secret/a.h5" if how == "path" else "a.h5"
    beamline.spec(export_control={**RULE, "unknown_proposal": "hold" if how == "hold" else "allow"})
    if how == "proposal":
        beamline.als_json("notify", "bl7011", name, "--proposal", "ALS-X")
    if how == "notice":
        beamline.als_json("notify", "bl7011", name, "--export-control")
    beamline.raw(name)
    reason = beamline.one(name).restricted
    assert reason and reason.startswith("export control: ")
    for asset in ASSETS:
        step = beamline.rig.step(name, asset)
        assert (step.state, step.why) == ("blocked", reason)
        if how == "path":
            beamline.rig.run(asset, patient=False)
        ran = beamline.rig.run(asset)
        assert not ran.made and reason in ran.failed[name] and "What to do:" in ran.failed[name]
    assert nothing_left(beamline)
    assert beamline.said("restricted") == [("bl7011_new_scans", reason)]
    (listed,) = beamline.als_json("scans", "--state", "restricted")["scans"]
    assert listed["restricted"] == reason and listed["state"] == "waiting" and reason in listed["why"]
    assert reason in beamline.als("scan", "bl7011", name).output


def test_a_person_s_run_fails_with_the_reason_and_changes_nothing(
    beamline: Beamline, monkeypatch: pytest.MonkeyPatch
) -> None:
    beamline.spec(export_control=RULE)
    beamline.raw("secret/a.h5")
    beamline.raw("b.h5")
    monkeypatch.setenv("ALS_LEDGER_URL", f"sqlite:///{beamline.rig.ledger_file}")
    with dg.DagsterInstance.ephemeral() as instance:
        dagster = Dagster(beamline.rig, instance)
        dagster.partitions(["secret/a.h5", "b.h5"])
        before = beamline.rig.step("secret/a.h5", "raw_at_cfs")
        result = dagster.materialize(["raw_at_cfs"], ["secret/a.h5", "b.h5"])
        assert not result.success and "nothing of it may leave the beamline" in message(result)
        assert dagster.red("raw_at_cfs") == {"secret/a.h5"} and [e[0] for e in dagster.events("raw_at_cfs")] == ["b.h5"]
        assert beamline.rig.step("secret/a.h5", "raw_at_cfs") == before
    assert not (beamline.rig.cfs / "secret").exists()


def test_a_run_that_a_person_starts_heeds_today_s_rule_and_leaves_what_is_done(
    beamline: Beamline, monkeypatch: pytest.MonkeyPatch
) -> None:
    beamline.raw("secret/a.h5")
    beamline.rig.run("raw_at_cfs")
    beamline.spec(export_control=RULE)
    monkeypatch.setenv("ALS_LEDGER_URL", f"sqlite:///{beamline.rig.ledger_file}")
    with dg.DagsterInstance.ephemeral() as instance:
        dagster = Dagster(beamline.rig, instance)
        dagster.partitions(["secret/a.h5"])
        result = dagster.materialize(["raw_at_cfs"], ["secret/a.h5"])
        assert "the path matches secret/**" in message(result)
    assert beamline.rig.step("secret/a.h5", "raw_at_cfs").state == "done"
    assert len(beamline.rig.tasks("secret/a.h5")) == 1


def test_a_person_releases_it_with_a_reason_that_is_kept(beamline: Beamline) -> None:
    beamline.spec(export_control=RULE)
    beamline.raw("secret/a.h5")
    beamline.als_json("assign", "bl7011", "secret/a.h5", "--not-restricted", "--why", "checked with the office")
    (record,) = beamline.said("released from export control")
    assert record[0].startswith("person ") and record[1] == "checked with the office"
    for asset in ASSETS:
        assert beamline.rig.run(asset).keys == ["secret/a.h5"], "the rule does not take hold of it again"
    beamline.look()
    assert beamline.one("secret/a.h5").restricted is None


def test_a_scan_that_is_held_for_its_proposal_goes_on_when_one_is_assigned(beamline: Beamline) -> None:
    beamline.spec(export_control={**RULE, "unknown_proposal": "hold"})
    beamline.raw("a.h5")
    beamline.raw("b.h5")
    beamline.als_json("assign", "bl7011", "a.h5", "--proposal", "ALS-1")
    beamline.als_json("assign", "bl7011", "b.h5", "--proposal", "ALS-X")
    assert beamline.rig.run("raw_at_cfs", ["a.h5"]).keys == ["a.h5"]
    assert beamline.one("b.h5").restricted == "export control: proposal ALS-X"
    assert not (beamline.rig.cfs / "b.h5").exists()


def test_a_rule_that_is_made_stricter_holds_what_has_not_been_copied_yet(beamline: Beamline) -> None:
    beamline.raw("secret/a.h5")
    assert beamline.rig.step("secret/a.h5", "raw_at_cfs").state == "due"
    beamline.spec(export_control=RULE)
    beamline.rig.run("raw_at_cfs", patient=False)
    assert beamline.one("secret/a.h5").restricted and nothing_left(beamline)


@pytest.mark.parametrize("released", [False, True])
def test_what_a_restricted_scan_is_written_over_with_is_judged_anew(beamline: Beamline, released: bool) -> None:
    beamline.als_json("notify", "bl7011", "a.h5", "--export-control")
    beamline.raw()
    if released:
        beamline.als_json("assign", "bl7011", "a.h5", "--not-restricted", "--why", "this one may")
    beamline.write("a.h5", b"other frames")
    beamline.settle()
    beamline.als_json("resolve", "bl7011", "a.h5", "--new-version")
    beamline.look()
    assert beamline.one("a.h5=v2").restricted == "export control: whoever notified it says so"
    beamline.rig.run("raw_at_cfs", ["a.h5=v2"], patient=False)
    assert not (beamline.rig.cfs / "als-versions").exists()


# after the fact


def test_what_is_restricted_after_its_copy_goes_no_further(beamline: Beamline) -> None:
    beamline.raw()
    beamline.rig.run("raw_at_cfs")
    document = beamline.als_json("assign", "bl7011", "a.h5", "--restrict", "--why", "the PI called")
    assert document["scans"][0]["copied_to"] == ["cfs"] and document["scans"][0]["under_way"] == []
    for asset in ("xpcs_result", "catalog_entry"):
        assert not beamline.rig.run(asset, patient=False).made
        assert beamline.rig.step("a.h5", asset).state == "blocked"
    assert not Catalogue(beamline.rig).datasets() and (beamline.rig.cfs / "a.h5").exists()
    assert "the PI called" in (beamline.one().restricted or "")


def test_tasks_under_way_are_named_and_cancelled_when_asked(beamline: Beamline) -> None:
    keys = [beamline.raw("a.h5"), beamline.raw("b.h5")]
    beamline.rig.sandbox.fault("transfer", "paused", count=1)
    beamline.rig.run("raw_at_cfs", patient=False)
    (live,) = beamline.rig.tasks("a.h5")
    assert live.external_id and live.live
    words = ("assign", "bl7011", "a.h5", "--restrict", "--why", "the PI called")
    (named,) = beamline.als_json(*words)["scans"][0]["under_way"]
    assert (named["id"], named["other_scans"], named["so"]) == (live.external_id, 1, "goes on")
    (ended,) = beamline.als_json(*words, "--cancel")["scans"][0]["under_way"]
    assert ended["so"] == "asked to end"
    beamline.rig.sandbox.box.clear_faults()
    beamline.rig.until(lambda: (beamline.rig.follow(), not beamline.rig.tasks("a.h5")[0].live)[1])
    assert beamline.rig.run("raw_at_cfs", ["b.h5"]).keys == ["b.h5"], "the other scan of the task is sent again"
    assert not beamline.rig.run("raw_at_cfs", ["a.h5"]).made
    assert not (beamline.rig.cfs / "a.h5").exists() and (beamline.rig.cfs / "b.h5").exists()
    assert [scan for scan in keys if beamline.one(scan).restricted] == ["a.h5"]


def test_work_that_was_intended_and_not_sent_is_withdrawn_and_its_other_scans_go_on(
    beamline: Beamline, monkeypatch: pytest.MonkeyPatch
) -> None:
    beamline.raw("a.h5")
    beamline.raw("b.h5")
    monkeypatch.setattr(once, "submit", lambda *a, **k: None)  # the run dies before it sends
    beamline.rig.run("raw_at_cfs", patient=False)
    monkeypatch.undo()
    (task,) = beamline.rig.tasks("a.h5")
    assert task.live and task.external_id is None
    restrict(beamline, "a.h5")
    assert beamline.rig.step("b.h5", "raw_at_cfs").state == "due"
    assert beamline.rig.step("a.h5", "raw_at_cfs").state == "blocked"
    assert beamline.rig.run("raw_at_cfs", ["b.h5"]).keys == ["b.h5"]
    assert not (beamline.rig.cfs / "a.h5").exists()


def restrict(beamline: Beamline, key: str) -> None:
    rig = beamline.rig
    with rig.ledger.write() as tx:
        assert assignments.restrict(tx, rig.spec, rig.found(key).id, "export control: test", "a test", rig.ledger.now())


def test_a_task_that_was_about_to_be_sent_is_not_sent_when_its_scan_becomes_restricted(
    beamline: Beamline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look at the task and its submission: the last guard is the statement before the request."""
    beamline.raw()
    globus = beamline.rig.services["globus"]
    real = globus.new_key

    def new_key(proposed: str) -> str:
        key: str = real(proposed)
        with beamline.rig.ledger.write() as tx:  # and nothing else of what a restriction does
            tx.execute(sa.update(schema.scans).values(restricted="export control: test"))
        return key

    object.__setattr__(globus, "new_key", new_key)
    try:
        beamline.rig.run("raw_at_cfs", patient=False)
    finally:
        object.__delattr__(globus, "new_key")
    assert nothing_left(beamline)
    beamline.rig.run("raw_at_cfs", patient=False)
    assert nothing_left(beamline) and beamline.rig.step("a.h5", "raw_at_cfs").state == "blocked"
    with beamline.rig.ledger.read() as tx:
        assert [t for t in tasks.live(tx, "globus")] == []


@pytest.mark.parametrize("guard", ["start", "claim"])
def test_no_statement_of_the_ledger_begins_a_step_of_a_restricted_scan(beamline: Beamline, guard: str) -> None:
    beamline.raw()
    rig = beamline.rig
    scan, now = rig.found("a.h5"), rig.ledger.now()
    with rig.ledger.write() as tx:  # past everything that would have blocked the step
        tx.execute(sa.update(schema.scans).values(restricted="export control: test"))
        if guard == "claim":
            assert not steps.claim(tx, scan.id, "raw_at_cfs", now, now)
        else:
            assert steps.start(tx, [scan.id], "raw_at_cfs", 1, now) == 0
        flow.advance(tx, rig.spec, [scan.id], now)
    assert rig.step("a.h5", "raw_at_cfs").state == "blocked"


def test_a_notice_after_the_fact_restricts_and_a_second_one_does_not_release(beamline: Beamline) -> None:
    beamline.raw()
    beamline.als_json("notify", "bl7011", "a.h5", "--export-control")
    assert beamline.one().restricted == "export control: whoever notified it says so"
    beamline.als_json("notify", "bl7011", "a.h5", "--proposal", "ALS-1")
    assert beamline.one().restricted
    beamline.als_json("assign", "bl7011", "a.h5", "--not-restricted", "--why", "a mistake")
    assert beamline.one().restricted is None
    beamline.look()
    assert beamline.one().restricted is None


def test_what_a_person_has_restricted_stays_so_when_it_is_written_anew(beamline: Beamline) -> None:
    beamline.raw()
    beamline.als_json("assign", "bl7011", "a.h5", "--restrict", "--why", "the PI called")
    beamline.write("a.h5", b"other frames")
    beamline.settle()
    beamline.als_json("resolve", "bl7011", "a.h5", "--new-version")
    beamline.look()
    assert beamline.one("a.h5=v2").restricted == beamline.one("a.h5").restricted
