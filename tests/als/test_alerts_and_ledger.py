"""`als alerts` and `als ledger`: what they print, and how they end."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml
from click.testing import CliRunner
from dagster._daemon.types import DaemonHeartbeat

from als.main import main
from resources import facilities
from resources.ledger import Ledger, alerts
from tests.conftest import STORAGE_IS_DOWN
from tests.production.mailbox import Hook, up


@pytest.fixture
def installation(sqlite_template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ledger]:
    """A state folder with a ledger, and a webhook as the channel."""
    for name in ("ALS_LEDGER_URL", "DAGSTER_HOME", "ALS_BACKUPS", "ALS_FACILITIES"):
        monkeypatch.delenv(name, raising=False)
    document = yaml.safe_load((Path(facilities.__file__).parent / "sandbox.yaml").read_text())
    document["alerts"] = {"channel": "webhook", "disk_free_percent": 0}
    (tmp_path / "here.yaml").write_text(yaml.safe_dump(document))
    shutil.copyfile(sqlite_template, tmp_path / "ledger.db")
    monkeypatch.setenv("ALS_STATE", str(tmp_path))
    monkeypatch.setenv("ALS_FACILITIES", str(tmp_path / "here.yaml"))
    ledger = Ledger(f"sqlite:///{tmp_path}/ledger.db", "sandbox")
    yield ledger
    ledger.close()


def als(*arguments: str) -> Any:
    return CliRunner().invoke(main, list(arguments))


def test_what_is_open_is_shown_and_makes_the_exit_status(installation: Ledger) -> None:
    assert als("alerts").exit_code == 0
    now = installation.now()
    with installation.write() as tx:
        trouble = alerts.Trouble("resting/nersc", "power work", None)
        alerts.reconcile(tx, [trouble], ["resting"], now, timedelta(0))
    shown = als("alerts")
    assert shown.exit_code == 1 and "resting/nersc  since" in shown.output and "not told" in shown.output
    assert "the webhook that ALS_ALERTS_WEBHOOK names" in shown.output
    document = json.loads(als("alerts", "--json").stdout)
    assert document["schema"] == "als-alerts/1" and document["alerts"][0]["message"] == "power work"


def test_the_channel_is_tried_on_request(installation: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ALS_ALERTS_WEBHOOK", raising=False)
    refused = als("alerts", "--test")
    assert refused.exit_code == 1 and "set ALS_ALERTS_WEBHOOK" in refused.output
    with up(Hook()) as hook:
        monkeypatch.setenv("ALS_ALERTS_WEBHOOK", hook.url)
        assert als("alerts", "--test").exit_code == 0
    assert hook.documents[0]["text"].startswith("*[als sandbox] a test*")


def test_a_timer_s_look_tells_of_a_daemon_that_is_dead(
    installation: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        instance.add_daemon_heartbeat(DaemonHeartbeat(time.time() - 3600, "SENSOR", "1"))
    with up(Hook()) as hook:
        monkeypatch.setenv("ALS_ALERTS_WEBHOOK", hook.url)
        looked = als("alerts", "--look")
    assert looked.exit_code == 1 and "told: 1 new, 0 over" in looked.output
    assert "no sign of life for 60 minutes" in hook.documents[0]["text"]


def test_a_timer_s_look_tells_of_a_storage_that_is_down(
    installation: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "dagster.yaml").write_text(STORAGE_IS_DOWN)
    with up(Hook()) as hook:
        monkeypatch.setenv("ALS_ALERTS_WEBHOOK", hook.url)
        looked = als("alerts", "--look")
    assert looked.exit_code == 1 and "told: 1 new, 0 over" in looked.output
    told = hook.documents[0]["text"]
    assert "Dagster's storage cannot be opened" in told and "start its database" in told and "secret" not in told


def test_where_nobody_knows_whether_the_daemon_runs_no_ledger_is_replaced(installation: Ledger, tmp_path: Path) -> None:
    made = json.loads(als("ledger", "backup", "--json").stdout)["made"]["path"]
    installation.close()
    (tmp_path / "dagster.yaml").write_text(STORAGE_IS_DOWN)
    refused = als("ledger", "restore", made, "--yes")
    assert refused.exit_code == 1 and not list(tmp_path.glob("*before-restore*"))
    assert "Dagster's storage cannot be opened" in refused.output and "start its database" in refused.output
    assert "secret" not in refused.output and "Traceback" not in refused.output


def test_a_backup_is_made_and_taken_back(installation: Ledger, tmp_path: Path) -> None:
    made = als("ledger", "backup", "--json")
    assert made.exit_code == 0, made.output
    document = json.loads(made.stdout)
    path = document["made"]["path"]
    assert document["schema"] == "als-backup/1" and [one["path"] for one in document["kept"]] == [path]
    assert Path(path).parent == tmp_path / "backups"
    installation.close()
    asked = als("ledger", "restore", path)
    assert asked.exit_code == 0 and "nothing uses the ledger" in asked.output
    assert not list(tmp_path.glob("*before-restore*"))
    done = als("ledger", "restore", path, "--yes")
    assert done.exit_code == 0 and "the one before is in" in done.output and "disarmed" in done.output
    assert len(list(tmp_path.glob("*before-restore*"))) == 1


def test_it_is_not_restored_while_the_daemon_lives(installation: Ledger, tmp_path: Path) -> None:
    path = json.loads(als("ledger", "backup", "--json").stdout)["made"]["path"]
    installation.close()
    (tmp_path / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        instance.add_daemon_heartbeat(DaemonHeartbeat(time.time() - 20, "SENSOR", "1"))
    refused = als("ledger", "restore", path, "--yes")
    assert refused.exit_code == 1 and "daemon gave a sign of life" in refused.output and "What to do" in refused.output


def test_what_is_no_backup_is_refused_in_a_sentence(installation: Ledger, tmp_path: Path) -> None:
    (tmp_path / "notes.db").write_text("not one")
    refused = als("ledger", "restore", str(tmp_path / "notes.db"), "--yes")
    assert refused.exit_code == 1 and "Traceback" not in refused.output and "take" in refused.output
    assert als("ledger", "backup", "--keep", "0").exit_code == 1
