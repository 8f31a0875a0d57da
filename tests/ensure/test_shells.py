"""The two Dagster shells: what a run shows in Dagster, which partitions turn red, and what a person's request does."""

from __future__ import annotations

from typing import Any

import dagster as dg
import pytest

from als_assets.component import definitions_of
from resources.ledger import leases
from resources.ledger.resource import LedgerResource
from sensors import names

PATH = ("bl7011", "raw_at_cfs")


class Dagster:
    """The definitions of the rig's beamline on an instance in memory."""

    def __init__(self, rig: Any, instance: dg.DagsterInstance) -> None:
        self.rig, self.instance = rig, instance
        beamline = definitions_of(rig.spec, rig.facilities)
        resources = {"ledger": LedgerResource(facilities=rig.facilities.name), **rig.services}
        self.defs = dg.Definitions.merge(beamline, dg.Definitions(resources=resources, executor=dg.in_process_executor))

    def partitions(self, keys: list[str]) -> None:
        self.instance.add_dynamic_partitions(names.partitions("bl7011"), keys)

    def due(self, asset: str, keys: list[str]) -> Any:
        job = self.defs.resolve_job_def(names.due_job("bl7011", asset))
        config = {"ops": {names.due_op("bl7011", asset): {"config": {"scans": keys}}}}
        return job.execute_in_process(run_config=config, instance=self.instance, raise_on_error=False)

    def materialize(self, assets: list[str], keys: list[str], **tags: str) -> Any:
        """As a person does in the launchpad: one partition, or a range of neighbours."""
        job = self.defs.resolve_implicit_global_asset_job_def()
        selected = [dg.AssetKey(["bl7011", asset]) for asset in assets]
        if len(keys) == 1:
            which: dict[str, Any] = {"partition_key": keys[0], "tags": tags}
        else:
            ends = {"dagster/asset_partition_range_start": keys[0], "dagster/asset_partition_range_end": keys[-1]}
            which = {"tags": {**ends, **tags}}
        return job.execute_in_process(instance=self.instance, asset_selection=selected, raise_on_error=False, **which)

    def events(self, asset: str) -> list[Any]:
        """(partition, metadata) of every materialization, oldest first."""
        records = self.instance.fetch_materializations(dg.AssetKey(["bl7011", asset]), limit=1000).records
        found = [record.asset_materialization for record in reversed(records)]
        return [(event.partition, {k: v.value for k, v in event.metadata.items()}) for event in found]

    def red(self, asset: str) -> set[str]:
        """The partitions that Dagster shows as failed."""
        key = dg.AssetKey(["bl7011", asset])
        from dagster._core.storage.partition_status_cache import get_and_update_asset_status_cache_value

        definition = self.defs.resolve_asset_graph().get(key).partitions_def
        status = get_and_update_asset_status_cache_value(self.instance, key, definition)
        assert definition is not None
        if status is None:  # nothing has happened to it
            return set()
        with dg.partition_loading_context(dynamic_partitions_store=self.instance):
            return set(status.deserialize_failed_partition_subsets(definition).get_partition_keys())


@pytest.fixture
def dagster(rig: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("ALS_LEDGER_URL", f"sqlite:///{rig.ledger_file}")
    with dg.DagsterInstance.ephemeral() as instance:
        yield Dagster(rig, instance)


def message(result: Any) -> str:
    failed = [e for e in result.all_events if e.is_step_failure]
    assert failed, "no step has failed"
    data = failed[0].event_specific_data
    return str(data.user_failure_data.description if data.user_failure_data else data.error)


def test_an_automatic_run_logs_one_materialization_for_each_scan(rig: Any, dagster: Dagster) -> None:
    keys = rig.noticed(5)
    rig.pace(grace_s=20)
    dagster = Dagster(rig, dagster.instance)
    assert dagster.due("raw_at_cfs", keys).success
    events = dict(dagster.events("raw_at_cfs"))
    assert sorted(events) == keys
    assert events[keys[0]]["scan"] == "day/s000.h5" and events[keys[0]]["files"] == 2
    assert all(rig.step(key, "raw_at_cfs").reported_at for key in keys)


def test_an_automatic_run_leaves_its_tasks_to_go_on_and_lets_the_next_one_start(rig: Any, dagster: Dagster) -> None:
    (key,) = rig.noticed()
    rig.sandbox.fault("transfer", "paused", count=1)
    rig.until(lambda: dagster.due("raw_at_cfs", [key]).success and rig.tasks(key)[0].external_id)
    assert rig.step(key, "raw_at_cfs").state == "in_flight"
    assert dagster.events("raw_at_cfs") == []
    with rig.ledger.write() as tx:
        assert leases.request(tx, "bl7011/raw_at_cfs", rig.ledger.now(), rig.facilities.pace.span("lease_s"))


def test_an_automatic_run_with_a_failed_scan_is_green(rig: Any, dagster: Dagster) -> None:
    (key,) = rig.copied()
    rig.stand_in("exit 3")
    rig.pace(grace_s=20)
    dagster = Dagster(rig, dagster.instance)
    dagster.partitions([key])
    assert dagster.due("xpcs_result", [key]).success
    assert dagster.red("xpcs_result") == set()


def test_a_bug_turns_an_automatic_run_red(rig: Any, dagster: Dagster, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = rig.noticed(2)
    from als_assets.transfers import CopyFamily

    real = CopyFamily.metadata
    monkeypatch.setattr(CopyFamily, "metadata", lambda self, tx, s: real(self, tx, s) if s.key != keys[0] else 1 / 0)
    rig.pace(grace_s=20)
    dagster = Dagster(rig, dagster.instance)
    result = dagster.due("raw_at_cfs", keys)
    assert not result.success and "ZeroDivisionError: division by zero" in message(result)
    assert sorted(key for key, _ in dagster.events("raw_at_cfs")) == keys


def test_of_a_range_only_the_scan_that_fails_turns_red(rig: Any, dagster: Dagster) -> None:
    keys = rig.copied(4)
    dagster.partitions(keys)
    rig.stand_in('case "$file" in *s002*) echo "cut off" >&2; exit 3;; esac')
    dagster = Dagster(rig, dagster.instance)
    result = dagster.materialize(["xpcs_result"], keys)
    assert not result.success
    assert "day/s002.h5: xpcs_result at nersc" in message(result) and "cut off" in message(result)
    assert "What to do: compare the file" in message(result)
    assert sorted(key for key, _ in dagster.events("xpcs_result")) == [keys[0], keys[1], keys[3]]
    assert dagster.red("xpcs_result") == {keys[2]}


def test_a_run_that_shows_a_failure_turns_exactly_that_partition_red_and_tries_nothing(
    rig: Any, dagster: Dagster
) -> None:
    keys = rig.copied(2)
    dagster.partitions(keys)
    rig.stand_in("echo cut off >&2; exit 3")
    rig.run("xpcs_result")
    job = dagster.defs.resolve_job_def(names.scan_job("bl7011", "xpcs_result"))
    tags = {names.TRIGGER: names.SHOW_FAILURE}
    result = job.execute_in_process(partition_key=keys[0], instance=dagster.instance, tags=tags, raise_on_error=False)
    assert "cut off" in message(result)
    assert dagster.red("xpcs_result") == {keys[0]}
    assert rig.step(keys[0], "xpcs_result").reported_at and not rig.step(keys[1], "xpcs_result").reported_at
    assert len(rig.tasks(keys[0], "xpcs_result")) == 1
    check = dg.AssetCheckKey(dg.AssetKey(["bl7011", "xpcs_result"]), "baseline")
    assert dagster.instance.event_log_storage.get_asset_check_partition_info([check]) == []  # nor does any check


def test_the_verdicts_on_a_result_count_as_those_of_its_latest_materialization(rig: Any, dagster: Dagster) -> None:
    keys = rig.copied(2)
    rig.pace(grace_s=20)
    dagster = Dagster(rig, dagster.instance)
    dagster.partitions(keys)
    summary = '{"qc": {"baseline": {"value": 0.1, "threshold": {"warn": 0.2, "fail": 0.3}, "verdict": "pass"}}}'
    rig.stand_in(f"""mkdir -p "$(dirname "$summary")" "$plots"; echo '{summary}' > "$summary"; exit 0""")
    dagster.due("xpcs_result", keys)
    check = dg.AssetCheckKey(dg.AssetKey(["bl7011", "xpcs_result"]), "baseline")
    infos = dagster.instance.event_log_storage.get_asset_check_partition_info([check])
    assert {info.partition_key for info in infos} == set(keys) and all(info.is_current for info in infos)


def test_one_run_over_three_assets_makes_all_three_and_keeps_their_numbers(rig: Any, dagster: Dagster) -> None:
    (key,) = rig.noticed()
    dagster.partitions([key])
    result = dagster.materialize(["raw_at_cfs", "xpcs_result", "catalog_entry"], [key])
    assert result.success
    assert rig.document(key)["state"] == "done"
    assert dagster.events("raw_at_cfs")[-1][1]["files"] == 2, "the last event is the one whose metadata people see"
    assert dagster.events("xpcs_result")[-1][1]["q bins"] == 2
    assert "raw data set" in dagster.events("catalog_entry")[-1][1]
    assert len(rig.document(key)["catalog"]) == 2


def test_one_run_over_three_assets_and_a_range_of_scans(rig: Any, dagster: Dagster) -> None:
    keys = rig.noticed(3)
    dagster.partitions(keys)
    assert dagster.materialize(["raw_at_cfs", "xpcs_result", "catalog_entry"], keys).success
    assert all(rig.document(key)["state"] == "done" for key in keys)
    for asset in ("raw_at_cfs", "xpcs_result", "catalog_entry"):
        last = dict(dagster.events(asset))
        assert sorted(last) == keys
        assert all(metadata["scan"] == key for key, metadata in last.items())


def test_what_is_below_a_failed_asset_is_not_run(rig: Any, dagster: Dagster) -> None:
    (key,) = rig.noticed()
    dagster.partitions([key])
    rig.stand_in("exit 3")
    dagster = Dagster(rig, dagster.instance)
    result = dagster.materialize(["raw_at_cfs", "xpcs_result", "catalog_entry"], [key])
    assert not result.success
    assert dagster.red("xpcs_result") == {key} and dagster.red("raw_at_cfs") == set()


def test_asked_by_a_person_what_is_done_is_done_anew(rig: Any, dagster: Dagster) -> None:
    (key,) = rig.copied()
    dagster.partitions([key])
    for _ in range(2):
        assert dagster.materialize(["xpcs_result"], [key]).success
    assert [p["revision"] for p in rig.document(key)["products"]] == [1, 2]
    assert [metadata["revision"] for _, metadata in dagster.events("xpcs_result")] == [1, 2]


def test_a_run_started_again_from_failure_tries_what_failed_and_leaves_what_was_done(
    rig: Any, dagster: Dagster
) -> None:
    keys = rig.copied(2)
    dagster.partitions(keys)
    mark = rig.folder / "failed-once"
    rig.stand_in(f'case "$file" in *s001*) mkdir {mark} 2>/dev/null && exit 3;; esac')
    dagster = Dagster(rig, dagster.instance)
    first = dagster.materialize(["xpcs_result"], keys)
    assert not first.success and dagster.red("xpcs_result") == {keys[1]}
    again = {"dagster/root_run_id": first.run_id, "dagster/parent_run_id": first.run_id}
    second = dagster.materialize(["xpcs_result"], keys, **again, **{"dagster/is_resume_retry": "true"})
    assert second.success
    assert [rig.step(key, "xpcs_result").revision for key in keys] == [1, 1]
    assert dagster.red("xpcs_result") == set()


def test_a_run_that_dagster_starts_again_after_a_crash_asks_for_nothing_new(rig: Any, dagster: Dagster) -> None:
    (key,) = rig.copied()
    dagster.partitions([key])
    first = dagster.materialize(["xpcs_result"], [key])
    again = {"dagster/root_run_id": first.run_id, "dagster/parent_run_id": first.run_id, "dagster/retry_number": "1"}
    assert dagster.materialize(["xpcs_result"], [key], **again).success
    assert rig.step(key, "xpcs_result").revision == 1
    assert len(dagster.events("xpcs_result")) == 2, "it reports what is there"


def test_a_request_that_met_a_task_under_way_is_not_made_again_after_a_crash(rig: Any, dagster: Dagster) -> None:
    (key,) = rig.copied()
    dagster.partitions([key])
    rig.sandbox.fault("sfapi", "pending_forever", count=1)
    rig.until(lambda: rig.run("xpcs_result", patient=False) and rig.tasks(key, "xpcs_result")[0].external_id)
    rig.sandbox.box.clear_faults()
    first = dagster.materialize(["xpcs_result"], [key])
    again = {"dagster/root_run_id": first.run_id, "dagster/retry_number": "1"}
    assert dagster.materialize(["xpcs_result"], [key], **again).success
    assert rig.step(key, "xpcs_result").revision == 1


def test_a_scan_below_a_failed_copy_says_so_at_once(rig: Any, dagster: Dagster) -> None:
    (key,) = rig.noticed()
    dagster.partitions([key])
    (rig.cfs / "day").mkdir(parents=True)
    (rig.cfs / key).write_bytes(b"somebody else's")
    rig.run("raw_at_cfs")
    result = dagster.materialize(["xpcs_result"], [key])
    assert "xpcs_result waits for raw_at_cfs, which failed" in message(result)
    assert "already has a file" in message(result) and dagster.red("xpcs_result") == {key}


def test_a_scan_whose_companion_is_missing_says_so_at_once(rig: Any, dagster: Dagster) -> None:
    (key,) = rig.notice(rig.scan("a.h5", roi=None))
    dagster.partitions([key])
    rig.run("raw_at_cfs")
    assert "waits for roi, which the beamline has not written" in message(dagster.materialize(["xpcs_result"], [key]))


def test_a_partition_that_the_ledger_does_not_know_fails_and_says_so(rig: Any, dagster: Dagster) -> None:
    dagster.partitions(["nowhere.h5"])
    result = dagster.materialize(["raw_at_cfs"], ["nowhere.h5"])
    assert "nowhere.h5: the ledger knows no such scan of bl7011" in message(result)


def test_an_asset_that_the_spec_has_gained_since_can_be_asked_for_old_scans(rig: Any, dagster: Dagster) -> None:
    whole = rig.spec
    rig.spec = whole.model_copy(update={"analyses": []})
    (key,) = rig.copied()
    rig.spec = whole
    dagster = Dagster(rig, dagster.instance)
    dagster.partitions([key])
    assert dagster.materialize(["xpcs_result"], [key]).success
    assert [partition for partition, _ in dagster.events("xpcs_result")] == [key]
