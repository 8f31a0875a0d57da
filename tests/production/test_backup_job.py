"""The nightly backup, as Dagster runs it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from resources.ledger import backup
from resources.ledger.resource import LedgerResource
from sensors import backups


def test_the_job_of_the_night_makes_a_backup_and_fails_when_it_cannot(
    sqlite_template: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shutil.copyfile(sqlite_template, tmp_path / "ledger.db")
    monkeypatch.setenv("ALS_STATE", str(tmp_path))
    monkeypatch.delenv("ALS_LEDGER_URL", raising=False)
    monkeypatch.setenv("ALS_BACKUPS", str(tmp_path / "b"))
    resources: dict[str, Any] = {"ledger": LedgerResource(facilities="sandbox")}
    assert backups.backup_job().execute_in_process(resources=resources).success
    assert len(backup.listed(tmp_path / "b", "sandbox")) == 1
    monkeypatch.setenv("ALS_BACKUPS", str(tmp_path / "ledger.db" / "b"))
    failed = backups.backup_job().execute_in_process(resources=resources, raise_on_error=False)
    assert not failed.success  # a red run, and in two days the alert that there is no backup
    schedule = backups.backup_schedule()
    assert (
        schedule.default_status is dg.DefaultScheduleStatus.RUNNING and schedule.job_name == backups.backup_job().name
    )
