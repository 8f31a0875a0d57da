"""Telling Dagster of new scans: announced until it is seen to have the partition, whatever trouble the disk has."""

from __future__ import annotations

from typing import Any

import dagster as dg
import pytest

from resources.errors import Refused, Unavailable
from sensors import names, new_scans
from tests.ledger.conftest import spec_of


def announce(beamline: Any, there: set[str]) -> list[str]:
    return [scan.key for scan in new_scans.announce(beamline.ledger, beamline.spec, there.__contains__)]


def test_a_scan_is_announced_until_dagster_is_seen_to_have_its_partition(beamline: Any) -> None:
    beamline.notice("a.h5", "b.h5")
    assert announce(beamline, set()) == announce(beamline, set()) == ["a.h5", "b.h5"]
    assert announce(beamline, {"a.h5"}) == ["b.h5"]
    assert beamline.scan("a.h5").announced_at == beamline.now and beamline.steps("a.h5")["raw_at_dtn"].reported_at
    assert beamline.scan("b.h5").announced_at is None
    assert announce(beamline, {"b.h5"}) == []


def test_what_is_announced_does_not_keep_the_next_ones_waiting(beamline: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(new_scans, "ANNOUNCE", 2)
    beamline.notice(*[f"{n}.h5" for n in range(5)])
    there: set[str] = set()
    parts = []
    while part := announce(beamline, there):
        parts.append(part)
        there |= set(part)
    assert parts == [["0.h5", "1.h5"], ["2.h5", "3.h5"], ["4.h5"]]


class Ledgers(dg.ConfigurableResource):  # type: ignore[misc]
    def open(self) -> Any:
        return CURRENT.ledger


class Globus(dg.ConfigurableResource):  # type: ignore[misc]
    service: str = "globus"

    def ls(self, collection: str, path: str) -> Any:
        return CURRENT.disk.ls(collection, path)


CURRENT: Any = None


def tick(beamline: Any, instance: Any) -> Any:
    global CURRENT
    CURRENT = beamline
    sensor = new_scans.new_scans(beamline.spec, beamline.facilities)
    resources = {"ledger": Ledgers(), "globus": Globus()}
    scans_of_it = dg.DynamicPartitionsDefinition(name=names.partitions("bl1"))
    raw = dg.AssetSpec(names.asset_key("bl1", "raw_at_dtn"), partitions_def=scans_of_it)
    repository = dg.Definitions(assets=[raw], sensors=[sensor], resources=resources).get_repository_def()
    with dg.build_sensor_context(instance=instance, repository_def=repository, resources=resources) as context:
        return sensor.evaluate_tick(context)


def test_a_tick_reports_the_raw_data_and_adds_the_partition(beamline: Any) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        assert "nothing new" in tick(beamline, instance).skip_message
        beamline.notice("a.h5")
        result = tick(beamline, instance)
        (event,) = result.asset_events
        assert event.asset_key == dg.AssetKey(["bl1", "raw_at_dtn"]) and event.partition == "a.h5"
        assert event.metadata["bytes"].value == 10 and event.metadata["place"].value == "bl1/dtn"
        assert [r.partition_keys for r in result.dynamic_partitions_requests] == [["a.h5"]]
        # the daemon records the event, and is killed before it adds the key: the next tick announces it again
        assert [e.partition for e in tick(beamline, instance).asset_events] == ["a.h5"]
        instance.add_dynamic_partitions(names.partitions("bl1"), ["a.h5"])
        assert tick(beamline, instance).asset_events == [] and beamline.scan().announced_at is not None


def test_a_tick_that_a_person_must_know_of_is_red_but_holds_back_nothing(beamline: Any) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        beamline.notice("a.h5")
        beamline.disk.trouble[""] = Refused("globus", "the collection is gone")
        assert [e.partition for e in tick(beamline, instance).asset_events] == ["a.h5"]
        instance.add_dynamic_partitions(names.partitions("bl1"), ["a.h5"])
        with pytest.raises(RuntimeError, match=r"bl1/dtn cannot be listed: .*the collection is gone.*als check"):
            tick(beamline, instance)
        beamline.disk.trouble[""] = Unavailable("globus", "502")
        assert "502" in tick(beamline, instance).skip_message


def test_a_schedule_that_cannot_be_read_is_red_and_holds_back_nothing(beamline: Any, tmp_path: Any) -> None:
    beamline.spec = spec_of(proposals={"schedule": str(tmp_path / "shifts.csv")})
    with dg.DagsterInstance.ephemeral() as instance:
        beamline.notice("a.h5")
        assert [e.partition for e in tick(beamline, instance).asset_events] == ["a.h5"]
        instance.add_dynamic_partitions(names.partitions("bl1"), ["a.h5"])
        with pytest.raises(RuntimeError, match=r"schedule of proposals .*shifts.csv cannot be read.*What to do"):
            tick(beamline, instance)
        (tmp_path / "shifts.csv").write_text("beamline,start,end,proposal\n")
        assert "nothing new" in tick(beamline, instance).skip_message
