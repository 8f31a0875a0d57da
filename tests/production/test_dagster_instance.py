"""deploy/dagster.yaml: Dagster's runs, events and schedules on PostgreSQL, everything else as in the checkout's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import sqlalchemy as sa
import yaml
from dagster._core.instance.config import dagster_instance_config
from dagster._core.instance.ref import InstanceRef
from dagster_postgres.utils import DagsterPostgresException

ROOT = Path(__file__).resolve().parent.parent.parent
NOBODY = "postgresql+psycopg2://als:hushhush@127.0.0.1:1/als_dagster"  # nothing listens on port 1


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of Dagster with the file of deploy/."""
    (tmp_path / "dagster.yaml").write_text((ROOT / "deploy/dagster.yaml").read_text())
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    monkeypatch.setenv("ALS_DAGSTER_URL", NOBODY)
    return tmp_path


def test_dagster_knows_every_class_and_every_key(home: Path) -> None:
    checked, _ = dagster_instance_config(str(home))  # raises where a key is unknown
    assert set(checked["storage"]) == {"postgres"}
    ref = InstanceRef.from_dir(str(home))
    parts = {"runs": ref.run_storage_data, "events": ref.event_storage_data, "schedules": ref.schedule_storage_data}
    assert {name: (data.module_name, data.class_name) for name, data in parts.items()} == {
        "runs": ("dagster_postgres", "PostgresRunStorage"),
        "events": ("dagster_postgres", "PostgresEventLogStorage"),
        "schedules": ("dagster_postgres", "PostgresScheduleStorage"),
    }
    assert type(ref.run_launcher).__name__ == "WatchedRunLauncher"
    assert type(ref.run_coordinator).__name__ == "QueuedRunCoordinator"


def test_only_the_storage_is_another_than_in_the_checkout() -> None:
    here: dict[str, Any] = yaml.safe_load((ROOT / "dagster.yaml").read_text())
    there: dict[str, Any] = yaml.safe_load((ROOT / "deploy/dagster.yaml").read_text())
    assert there.pop("storage") and there == here


def test_without_the_database_dagster_does_not_start_at_all(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Above all not on files of its own."""
    monkeypatch.setattr("time.sleep", lambda _seconds: None)  # Dagster tries a few times
    with pytest.raises(DagsterPostgresException, match="connection"):
        dg.DagsterInstance.from_config(str(home))
    monkeypatch.delenv("ALS_DAGSTER_URL")
    with pytest.raises(dg.DagsterInvalidConfigError, match="ALS_DAGSTER_URL"):
        dg.DagsterInstance.from_config(str(home))
    assert not list(home.rglob("*.db"))


def test_what_dagster_hands_to_its_runs_names_the_variable_and_not_the_password(home: Path) -> None:
    assert "hushhush" not in dg.serialize_value(InstanceRef.from_dir(str(home)))
    assert "ALS_DAGSTER_URL" in dg.serialize_value(InstanceRef.from_dir(str(home)))


@pytest.mark.services
def test_runs_events_and_partitions_are_kept_on_postgresql(
    home: Path, postgresql: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    admin = sa.create_engine(postgresql, isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:  # Dagster's tables are not to be in the ledger's database
        connection.execute(sa.text("create database als_dagster"))
    try:
        monkeypatch.setenv("ALS_DAGSTER_URL", postgresql.replace("/postgres?", "/als_dagster?"))
        with dg.DagsterInstance.from_config(str(home)) as instance:
            instance.add_dynamic_partitions("bl1_scans", ["a=2Eh5"])
            key = dg.AssetKey(["bl1", "raw_at_dtn"])
            instance.report_runless_asset_event(dg.AssetMaterialization(key, partition="a=2Eh5"))
        with dg.DagsterInstance.from_config(str(home)) as instance:
            assert instance.get_dynamic_partitions("bl1_scans") == ["a=2Eh5"]
            assert instance.get_materialized_partitions(key) == {"a=2Eh5"}
            assert (instance.get_runs_count(), instance.all_instigator_state()) == (0, [])
        assert not list(home.rglob("*.db"))
    finally:
        with admin.connect() as connection:
            connection.execute(sa.text("drop database als_dagster with (force)"))
        admin.dispose()
