"""`als prune`, `als hold`, `als release`, `als arm`: what they print, what they refuse, their exit status."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from als import platform
from als.arm import arm
from als.hold import hold
from als.prune import prune
from als.release import release
from als.scan import scan
from resources.ledger import removals
from tests.ensure.conftest import rig  # noqa: F401  (a fixture)
from tests.pruning.conftest import Disk, disk  # noqa: F401  (a fixture)


@pytest.fixture
def als(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:  # noqa: F811
    """A verb against the facilities, the spec and the ledger of the rig."""
    monkeypatch.setattr(platform, "specs", lambda: {"bl7011": disk.rig.spec})
    monkeypatch.setattr(platform, "facilities", lambda: disk.rig.facilities)
    monkeypatch.setattr(platform, "ledger", lambda created=False: disk.ledger)

    def run(verb: Any, *words: str) -> Result:
        return CliRunner().invoke(verb, list(words))

    return run


def test_without_yes_it_says_what_would_go_and_changes_nothing(disk: Disk, als: Any) -> None:  # noqa: F811
    old, held, young = disk.scans(3)
    disk.hold(held)
    disk.noticed(young, 2)
    ended = als(prune, "-b", "bl7011")
    assert ended.exit_code == 0, ended.output
    assert f"would go                19 B  {old}" in ended.output
    assert f"{held}  held until" in ended.output and "by kim: for the thesis" in ended.output
    assert f"{young}  it was noticed 2.0 days ago, and stays for 30 days" in ended.output
    assert "would go: 1 scans, 19 B" in ended.output and "stays: 2 scans, 38 B" in ended.output
    assert all(disk.there(key) for key in (old, held, young)) and disk.removal(old) is None


def test_its_document_says_the_same_for_machines(disk: Disk, als: Any) -> None:  # noqa: F811
    old, held = disk.scans(2)
    disk.hold(held)
    ended = als(prune, "--json")
    document = json.loads(ended.stdout)
    assert (document["schema"], document["dry_run"], document["ok"]) == ("als-prune/1", True, True)
    assert document["places"][0]["armed"]["who"] == "a test"
    assert document["sums"] == {"would_go": {"scans": 1, "bytes": 19}, "stays": {"scans": 1, "bytes": 19}}
    stays = next(scan for scan in document["scans"] if scan["key"] == held)
    assert stays["reasons"][0]["kind"] == "rule" and "for the thesis" in stays["reasons"][0]["words"]
    ended = als(prune, "--json", "--yes")
    document = json.loads(ended.stdout)
    assert document["dry_run"] is False and document["sums"]["trashed"] == {"scans": 1, "bytes": 19}
    assert not disk.there(old) and disk.there(held)


def test_defect_13_what_could_not_be_found_out_is_told_and_is_an_exit_status(disk: Disk, als: Any) -> None:  # noqa: F811
    """ "All files are synced", said while both endpoints were offline."""
    disk.scans()
    disk.rig.sandbox.fault("transfer", "endpoint_down", count=-1)
    ended = als(prune)
    assert ended.exit_code == 1
    assert "could not be looked at" in ended.output and "would go" not in ended.output


def test_als_scan_shows_the_hold_the_trash_and_what_was_deleted(disk: Disk, als: Any) -> None:  # noqa: F811
    (key,) = disk.scans()
    disk.hold(key)
    assert "by kim: for the thesis" in als(scan, "bl7011", key).output
    als(release, "bl7011", key)
    disk.prune()
    assert "in the trash since 20" in als(scan, "bl7011", key).output
    disk.trash_is_over()
    disk.prune()
    shown = als(scan, "bl7011", key).output
    assert shown.count("deleted 20") == 2 and "held" not in shown.split("assets")[0]


def test_another_run_at_work_is_said(disk: Disk, als: Any) -> None:  # noqa: F811
    from resources.ledger import leases

    with disk.ledger.write() as tx:
        leases.take_over(tx, "bl7011/prune", "another", disk.ledger.now(), disk.rig.facilities.pace.span("day_s"))
    ended = als(prune, "--yes")
    assert ended.exit_code == 1 and "another run is pruning bl7011. What to do:" in ended.output


def test_a_hold_lasts_to_the_end_of_its_day_and_is_released(disk: Disk, als: Any) -> None:  # noqa: F811
    (key,) = disk.scans()
    ended = als(hold, "bl7011", key, "--until", "2999-12-31", "--why", "for the thesis")
    assert ended.exit_code == 0 and f"{key} is held until 3000-01-01T00:00:00Z" in ended.output
    held = disk.rig.document(key)["held"]
    assert held["until"] == "3000-01-01T00:00:00Z" and held["why"] == "for the thesis" and held["who"]
    disk.prune()
    assert disk.there(key)
    assert "1 hold ended" in als(release, "bl7011", key, "--why", "handed in").output
    assert disk.rig.document(key)["held"] is None
    assert [what for what in disk.history(key) if what in ("held", "released")] == ["held", "released"]
    assert "was not held" in als(release, "bl7011", key).output


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["nosuch.h5", "--until", "2999-12-31", "--why", "w"], "has no scan 'nosuch.h5'"),
        (["--until", "2020-01-01", "--why", "w"], "that is over already"),
        (["--until", "soon", "--why", "w"], "is no day and no time"),
        (["--until", "2999-12-31", "--why", " "], "say why"),
    ],
)
def test_a_hold_that_makes_no_sense_is_refused(disk: Disk, als: Any, words: list[str], says: str) -> None:  # noqa: F811
    (key,) = disk.scans()
    ended = als(hold, "bl7011", *([] if words[0].endswith(".h5") else [key]), *words)
    assert ended.exit_code != 0 and says in ended.output
    assert disk.rig.document(key)["held"] is None


def test_a_place_is_armed_with_a_reason_and_disarmed_with_one(disk: Disk, als: Any) -> None:  # noqa: F811
    disk.disarmed()
    assert "bl7011/dtn  not armed: nothing is deleted there" in als(arm, "bl7011").output
    assert als(arm, "bl7011", "dtn").exit_code == 2
    ended = als(arm, "bl7011", "dtn", "--why", "checked for a month")
    assert ended.exit_code == 0 and ": checked for a month" in ended.output
    assert "armed already" in als(arm, "bl7011", "dtn", "--why", "again").output
    assert als(arm, "bl7011", "dtn", "--off", "--why", "new disk").exit_code == 0
    with disk.ledger.read() as tx:
        assert removals.armed(tx, "bl7011", "dtn") is None
    document = json.loads(als(arm, "bl7011", "--json").stdout)
    assert document == {"schema": "als-arm/1", "places": [{"beamline": "bl7011", "place": "dtn", "armed": None}]}


def test_a_place_that_the_spec_does_not_prune_cannot_be_armed(disk: Disk, als: Any) -> None:  # noqa: F811
    ended = als(arm, "bl7011", "cfs", "--why", "w")
    assert ended.exit_code == 2 and "prunes dtn, not 'cfs'" in " ".join(ended.output.split())


def test_a_place_that_does_not_say_what_it_is_cannot_be_armed(disk: Disk, als: Any) -> None:  # noqa: F811
    disk.disarmed()
    sentinel = Path(disk.root) / ".als-place.bl7011.dtn"
    sentinel.unlink()
    ended = als(arm, "bl7011", "dtn", "--why", "w")
    assert ended.exit_code == 1 and ".als-place.bl7011.dtn" in ended.output and "was not armed" in ended.output
    sentinel.touch()
    disk.rig.sandbox.fault("transfer", "permission_denied", path="*.als-check*", count=1)
    ended = als(arm, "bl7011", "dtn", "--why", "w")
    assert ended.exit_code == 1 and "the platform may not rename there" in ended.output
    assert als(arm, "bl7011", "dtn", "--why", "w").exit_code == 0


def test_where_a_day_lasts_seconds_it_says_so(disk: Disk, als: Any) -> None:  # noqa: F811
    (key,) = disk.scans()
    assert "A day of retention" not in als(prune).output
    assert json.loads(als(prune, "--json").stdout)["day_s"] == 86400
    disk.rig.pace(day_s=2)
    disk.noticed(key, 3 / 86400)
    ended = als(prune)
    assert ended.output.startswith("A day of retention lasts 2 s here (day_s of the facility file 'sandbox').\n")
    assert "days ago, and stays for 30 days" in ended.output
    assert json.loads(als(prune, "--json").stdout)["day_s"] == 2
    disk.noticed(key, 1)
    als(prune, "--yes")
    removal = disk.removal(key)
    assert removal is not None and ", 30 days of 2 s are over; proven in cfs" in removal.why
