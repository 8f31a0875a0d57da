"""`als check`: whatever is wrong is named with what to do, and keeps nothing else from being tried."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from als import platform
from als import sandbox as sandbox_verb
from als.check import check
from als_assets import flight_check
from beamlines.spec import Archive
from resources import facilities
from resources.facilities import load
from resources.ledger import Ledger, alerts, backup, leases
from tests.conftest import STORAGE_IS_DOWN

Checked = Callable[[], tuple[int, dict[tuple[str, str], dict[str, Any]]]]


@pytest.fixture
def checked(sandbox: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Checked:
    """`als check --json` against the sandbox: its exit status, and {(area, what): finding}."""
    variables = sandbox_verb.environment(sandbox.dir)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("ALS_STATE", str(tmp_path / "state"))
    for name in ("ALS_LEDGER_URL", "DAGSTER_HOME"):
        monkeypatch.delenv(name, raising=False)
    sandbox_verb.furnish(sandbox.dir, variables)
    roomy = shutil.disk_usage("/")._replace(total=10**12, free=5 * 10**11)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: roomy)

    def run() -> tuple[int, dict[tuple[str, str], dict[str, Any]]]:
        ended = CliRunner().invoke(check, ["--json"])
        document = json.loads(ended.stdout)
        assert (document["schema"], document["facilities"]) == ("als-check/1", "sandbox")
        assert document["ok"] is (ended.exit_code == 0)
        return ended.exit_code, {(f["area"], f["what"]): f for f in document["findings"]}

    return run


def failed(found: dict[tuple[str, str], dict[str, Any]]) -> dict[tuple[str, str], str]:
    return {key: f["says"] for key, f in found.items() if f["ok"] is False}


CFS = ("bl7011/cfs", "write")


def test_when_all_is_well_every_leg_was_tried_and_nothing_is_left_behind(sandbox: Any, checked: Checked) -> None:
    code, found = checked()
    assert (code, failed(found)) == (0, {})
    for wanted in [
        ("globus", "Globus login"), ("bl7011/dtn", "list"),
        ("bl7011/dtn", "sentinel"), ("bl7011/dtn", "rename"), ("bl7011/cfs", "list"), CFS,
        ("bl7011/cfs", "the same folder at nersc"), ("bl7011/cfs", "clock"), ("nersc", "sign-in"),
        ("nersc", "may submit jobs"), ("nersc", "project als"), ("nersc", "attempts of bl7011"),
        ("nersc", "program als-job"), ("nersc", "program als-xpcs"), ("scicat", "SciCat group 7.0.1.1"),
        ("scicat", "SciCat entry with a pid of our own"),
    ]:  # fmt: skip
        assert found[wanted]["ok"] is True, wanted
    # no ledger and no Dagster are there: that is said, and is no failure before the first start
    assert found["ledger", "open"]["ok"] is None and found["dagster", "storage"]["ok"] is None
    assert not list(sandbox.dir.glob("nersc/**/.als-check*"))


def test_the_table_for_people_says_the_same(checked: Checked) -> None:
    ended = CliRunner().invoke(check)
    assert ended.exit_code == 0
    assert "bl7011/cfs" in ended.stdout and ended.stdout.splitlines()[-1].startswith("sandbox: ")
    assert ", 0 failed, " in ended.stdout.splitlines()[-1]


def test_a_wrong_secret_is_named_by_its_variable_and_the_others_are_tried(
    checked: Checked, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALS_GLOBUS_CLIENT_SECRET", "not-the-secret")
    code, found = checked()
    assert code == 1 and list(failed(found)) == [("globus", "Globus login")]
    says = found["globus", "Globus login"]["says"]
    assert "ALS_GLOBUS_CLIENT_SECRET" in says and "not-the-secret" not in says
    assert found["bl7011/cfs", "list"]["ok"] is None and found["bl7011/cfs", "list"]["says"] == (
        "since the login at globus failed"
    )
    assert found["nersc", "sign-in"]["ok"] and found["scicat", "SciCat login"]["ok"]


def test_a_key_file_that_others_can_read_is_refused_with_the_command_that_mends_it(
    sandbox: Any, checked: Checked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = tmp_path / "key.json"
    key.write_text(Path(sandbox.credentials()["sfapi"]["key_file"]).read_text())
    key.chmod(0o644)
    monkeypatch.setenv("ALS_SFAPI_KEY", str(key))
    code, found = checked()
    assert code == 1
    assert f"chmod 600 {key}" in found["nersc", "sign-in"]["says"]
    assert ("nersc", "program als-job") not in found  # nobody could have asked
    assert found["globus", "Globus login"]["ok"] and found["scicat", "SciCat login"]["ok"]


def test_a_catalogue_that_is_down_is_one_failure(sandbox: Any, checked: Checked) -> None:
    sandbox.fault("scicat", "status", code=503, count=-1)
    code, found = checked()
    assert code == 1 and {area for area, _ in failed(found)} == {"scicat"}
    assert found[CFS]["ok"] and found["nersc", "may submit jobs"]["ok"]


def test_a_collection_that_is_gone_is_named_with_its_place(sandbox: Any, checked: Checked) -> None:
    cfs = load().place("bl7011", "cfs").globus
    assert cfs is not None
    collections = {"a15d0000-0000-4000-8000-00000000d7a0": {"name": "als-dtn", "root": "als/dtn"}}
    (sandbox.dir / "collections.json").write_text(json.dumps(collections))
    try:
        code, found = checked()
    finally:
        (sandbox.dir / "collections.json").unlink()
    assert code == 1 and list(failed(found)) == [("bl7011/cfs", "collection")]
    assert cfs.collection in found["bl7011/cfs", "collection"]["says"]
    assert found["bl7011/dtn", "list"]["ok"] and found[CFS]["ok"] is None


def test_a_base_folder_that_is_missing_says_so(sandbox: Any, checked: Checked) -> None:
    shutil.rmtree(sandbox.dir / "als/dtn/bl7011")
    code, found = checked()
    assert code == 1 and list(failed(found)) == [("bl7011/dtn", "list")]
    assert "Make the directory, or correct the base path" in found["bl7011/dtn", "list"]["says"]


def test_a_place_in_which_copies_may_be_deleted_must_say_what_it_is(sandbox: Any, checked: Checked) -> None:
    (sandbox.dir / "als/dtn/bl7011/.als-place.bl7011.dtn").rename(sandbox.dir / "als/dtn/bl7011/.als-place.bl7012.dtn")
    code, found = checked()
    assert code == 1 and list(failed(found)) == [("bl7011/dtn", "sentinel")]
    says = found["bl7011/dtn", "sentinel"]["says"]
    assert "its root has the sentinel .als-place.bl7012.dtn" in says and "What to do:" in says


def test_a_place_in_which_copies_may_be_deleted_must_have_a_folder_of_its_own(
    sandbox: Any, checked: Checked, mistaken: Any
) -> None:
    mistaken(lambda document: document["places"]["bl7011"]["dtn"]["globus"].update(base="/"))
    code, found = checked()
    assert code == 1 and list(failed(found)) == [("bl7011/dtn", "sentinel")]
    assert "its base is '/'" in found["bl7011/dtn", "sentinel"]["says"]


def test_a_place_that_may_be_read_but_not_written_fails(sandbox: Any, checked: Checked) -> None:
    sandbox.fault("transfer", "permission_denied", path="*.als-check*", count=-1)
    code, found = checked()
    assert code == 1 and list(failed(found)) == [CFS]
    assert found["bl7011/dtn", "rename"]["ok"] is None


@pytest.fixture
def mistaken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[dict[str, Any]], None]], None]:
    """Use the sandbox's facility file with a change."""

    def use(change: Callable[[dict[str, Any]], None]) -> None:
        document = yaml.safe_load((Path(facilities.__file__).parent / "sandbox.yaml").read_text())
        change(document)
        (tmp_path / "mistaken.yaml").write_text(yaml.safe_dump(document))
        monkeypatch.setenv("ALS_FACILITIES", str(tmp_path / "mistaken.yaml"))

    return use


def test_views_of_a_place_that_are_not_the_same_folder_are_found(sandbox: Any, checked: Checked, mistaken: Any) -> None:
    other = sandbox.dir / "nersc/cfs/als/elsewhere"
    other.mkdir()
    mistaken(lambda document: document["places"]["bl7011"]["cfs"]["paths"].update(nersc=str(other)))
    code, found = checked()
    assert code == 1
    assert "correct base or paths of this place" in found["bl7011/cfs", "the same folder at nersc"]["says"]


def test_a_program_that_is_not_installed_at_the_facility_is_missed(checked: Checked, mistaken: Any) -> None:
    mistaken(lambda document: document["services"]["nersc"].update(program="als-jobb"))
    code, found = checked()
    assert code == 1 and list(failed(found)) == [("nersc", "program als-job")]
    assert "als-jobb is not on the PATH of a login node" in found["nersc", "program als-job"]["says"]


def test_a_place_that_the_facility_file_lacks_is_named(checked: Checked, mistaken: Any) -> None:
    mistaken(lambda document: document["places"]["bl7011"].pop("cfs"))
    code, found = checked()
    assert code == 1 and "has no place 'cfs' for beamline 'bl7011'" in found["globus", "look"]["says"]
    assert found["scicat", "SciCat login"]["ok"]


def test_tape_is_tried_for_a_beamline_that_archives(sandbox: Any, checked: Checked) -> None:
    spec = platform.spec_of("bl7011")
    archiving = spec.model_copy(update={"archive": Archive(source="cfs")})
    found = {(f.area, f.what): f for f in flight_check.findings(load(), [archiving])}
    assert found["bl7011/hpss", "tape"].ok, found["bl7011/hpss", "tape"].says
    assert ("nersc", "program als-archive") in found


def test_a_scratch_folder_left_by_an_earlier_check_is_used_again(sandbox: Any, checked: Checked) -> None:
    raw = sandbox.dir / "nersc/cfs/als/data_mover/7.0.1.1/raw"
    (raw / ".als-check").mkdir()
    code, found = checked()
    assert code == 0 and "renamed there and back" in found[CFS]["says"]
    assert not list(raw.iterdir())


def test_a_ledger_of_other_facilities_is_not_used(checked: Checked, tmp_path: Path) -> None:
    Ledger(f"sqlite:///{tmp_path}/state/ledger.db", "production").close()
    code, found = checked()
    assert code == 1 and "belongs to the facilities 'production'" in found["ledger", "open"]["says"]


def test_a_ledger_of_these_facilities_is_opened_and_one_that_is_no_database_is_not(
    checked: Checked, tmp_path: Path
) -> None:
    Ledger(f"sqlite:///{tmp_path}/state/ledger.db", "sandbox").close()
    code, found = checked()
    assert code == 0 and found["ledger", "open"]["ok"]
    for leftover in (tmp_path / "state").glob("ledger.db*"):
        leftover.unlink()
    (tmp_path / "state/ledger.db").write_text("this is no database, it is a text of some length " * 40)
    code, found = checked()
    assert code == 1 and "not a database" in found["ledger", "open"]["says"]


def test_a_dagster_whose_daemon_does_not_run_fails(checked: Checked, tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state/dagster.yaml").write_text("telemetry: {enabled: false}\n")
    code, found = checked()
    assert code == 1 and found["dagster", "storage"]["ok"]
    assert "start the daemon" in found["dagster", "daemon"]["says"]


def test_a_dagster_whose_database_is_down_fails(checked: Checked, tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state/dagster.yaml").write_text(STORAGE_IS_DOWN)
    code, found = checked()
    assert code == 1 and list(failed(found)) == [("dagster", "storage")]
    says = found["dagster", "storage"]["says"]
    assert "Dagster's storage cannot be opened: " in says and "Start its database" in says and "secret" not in says


def test_a_bug_of_one_check_hides_no_other(checked: Checked, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flight_check, "_programs", lambda spec, service: 1 / 0)
    code, found = checked()
    assert code == 1 and list(failed(found)) == [("nersc", "look")]
    assert "ZeroDivisionError" in found["nersc", "look"]["says"] and found["nersc", "may submit jobs"]["ok"]


@pytest.mark.parametrize(("seconds", "ok"), [(0, True), (59, True), (-59, True), (300, False), (-7200, False)])
def test_clocks_may_differ_by_a_minute(seconds: int, ok: bool) -> None:
    now = datetime.now(UTC)
    one = flight_check.clock("bl7011/cfs", now + timedelta(seconds=seconds), now)
    assert one.ok is ok
    assert ok or ("ahead of" if seconds > 0 else "behind") in one.says


# this machine, and what is announced


@pytest.fixture
def ledger(checked: Checked, tmp_path: Path) -> Iterator[Ledger]:
    opened = Ledger(f"sqlite:///{tmp_path}/state/ledger.db", "sandbox")
    yield opened
    opened.close()


def test_a_maintenance_is_told_before_and_while_it_lasts(sandbox: Any, checked: Checked) -> None:
    start, end = (datetime.now(UTC) + timedelta(hours=h) for h in (2, 9))
    times = {"start_at": start.isoformat(), "end_at": end.isoformat()}
    sandbox.fault("sfapi", "outage", planned=True, text="cooling plant", count=-1, **times)
    code, found = checked()
    says = found["nersc", "machine perlmutter"]["says"]
    assert code == 0 and "planned: cooling plant, from" in says and f"{end:%Y-%m-%d %H:%M} UTC" in says
    sandbox.box.clear_faults()
    sandbox.fault("sfapi", "outage", planned=True, text="cooling plant", count=-1,
                  **times | {"start_at": (start - timedelta(hours=3)).isoformat()})  # fmt: skip
    code, found = checked()
    assert code == 1 and list(failed(found)) == [("nersc", "machine perlmutter")]
    assert "perlmutter is not available: cooling plant; expected back" in failed(found)["nersc", "machine perlmutter"]


def test_what_rests_is_shown_and_goes_on_once_everything_of_it_was_tried_and_works(
    sandbox: Any, checked: Checked, ledger: Ledger
) -> None:
    with ledger.write() as tx:
        for service in ("nersc", "scicat"):
            leases.pause(tx, service, f"the key of {service} is no good", "X", ledger.now(), 600, 1800, person=True)
    sandbox.fault("scicat", "status", code=503, count=-1)
    _, found = checked()
    assert "the key of nersc is no good" in found["ledger", "nersc rests"]["says"]
    with ledger.read() as tx:
        assert [rest.service for rest in leases.all_pauses(tx)] == ["scicat"]


def test_backups_disk_channel_and_daemon_are_looked_at(
    checked: Checked, ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, found = checked()
    assert found["ledger", "backup"]["ok"] is None and found["alerts", "channel"]["ok"] is None
    assert found["disk", "state folder"]["ok"]
    backup.make(ledger.url, "sandbox", tmp_path / "state/backups", now=ledger.now() - timedelta(days=3))
    with ledger.write() as tx:
        alerts.reconcile(tx, [alerts.Trouble("channel", "452 out of storage")], ["channel"], ledger.now(), timedelta(0))
    full = shutil.disk_usage("/")._replace(total=10**12, free=10**9)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: full)
    document = yaml.safe_load((Path(facilities.__file__).parent / "sandbox.yaml").read_text())
    document["alerts"] = {"channel": "email", "email": {"host": "h", "sender": "a@b", "to": "a@b"}}
    (tmp_path / "with-alerts.yaml").write_text(yaml.safe_dump(document))
    monkeypatch.setenv("ALS_FACILITIES", str(tmp_path / "with-alerts.yaml"))
    (tmp_path / "state/dagster.yaml").write_text("telemetry: {enabled: false}\n")
    code, found = checked()
    assert code == 1
    assert "3.0 days old. What to do: als ledger backup" in failed(found)["ledger", "backup"]
    assert failed(found)["alerts", "channel"] == "452 out of storage"
    assert "1.0 GB of 1000 GB left. What to do" in failed(found)["disk", "state folder"]
    assert "no sign of life" in failed(found)["dagster", "daemon"]
