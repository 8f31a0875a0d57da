"""The whole platform for tests: sandbox, code server, daemon, run processes; nothing is called in their stead."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.storage.partition_status_cache import AssetPartitionStatus

from als import platform as als_platform
from als import sandbox as sandbox_verb
from als import simulate
from als.services import Services
from als_assets.shells import partitions
from resources.ledger import Ledger, scans
from resources.ledger.views import scan_document
from sensors import names

BEAMLINE = "bl7011"


class Installation:
    """One running platform in a folder of its own."""

    def __init__(self, state: Path) -> None:
        self.state = state
        self.sandbox_dir = state / "sandbox"
        self.spec = als_platform.spec_of(BEAMLINE)
        self.environment = {**sandbox_verb.up(self.sandbox_dir), "ALS_STATE": str(state)}
        self.services = Services(state, self.environment, web=False)
        self.services.start()
        self.ledger = Ledger(f"sqlite:///{state / 'ledger.db'}", "sandbox")
        self.instance = dg.DagsterInstance.from_config(str(state))
        self._template: Path | None = None

    def close(self) -> None:
        self.services.stop()
        self.instance.dispose()
        self.ledger.close()
        assert sandbox_verb.down(self.sandbox_dir), "the sandbox left something running"

    @property
    def disk(self) -> Path:
        """Where the simulated detector writes."""
        path = self.sandbox_dir / "als" / "dtn" / "bl7011"
        path.mkdir(parents=True, exist_ok=True)
        return path

    def write(self, count: int, group: str, change: Callable[[Path], None] | None = None) -> list[str]:
        """Write scans with the bytes of one simulated scan; `change` alters each file before it is seen."""
        template = self.template()
        keys = []
        for i in range(1, count + 1):
            name = f"{datetime.now(UTC):%Y/%m/%d}/{group}_{i:04d}.h5"
            target = self.disk / name
            target.parent.mkdir(parents=True, exist_ok=True)
            hidden = target.with_name("." + target.name)
            shutil.copyfile(template, hidden)
            if change:
                change(hidden)
            shutil.copyfile(template.with_name("template_roi.h5"), target.with_name(f"{target.stem}_roi.h5"))
            hidden.rename(target)
            keys.append(name)
        return keys

    def template(self) -> Path:
        if self._template is None:
            simulate.one(self.state / "template", "template.h5", "tiny", 11, None)
            self._template = self.state / "template" / "template.h5"
        return self._template

    def scan(self, key: str) -> dict[str, Any]:
        with self.ledger.read() as tx:
            found = scans.find(tx, BEAMLINE, key)
            if found is None:
                return {"key": key, "state": "unseen", "assets": {}}
            return scan_document(tx, self.spec, found, {"cfs", "hpss"}, self.ledger.now())

    def until(self, holds: Callable[[], Any], what: str, seconds: float = 120) -> Any:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            value = holds()
            if value:
                return value
            time.sleep(0.25)
        raise AssertionError(f"not within {seconds} s: {what}\n{self.state_of_things()}")

    def settle(self, keys: Sequence[str], seconds: float = 150) -> list[dict[str, Any]]:
        """Until each of the scans is done or failed."""
        return self.until(
            lambda: all_in([self.scan(k) for k in keys], ("done", "failed", "question")), f"{keys} settle", seconds
        )

    def state_of_things(self) -> str:
        with self.ledger.read() as tx:
            newest = scans.latest(tx, BEAMLINE, 10)
        lines = [
            f"{s.key}: {[(n, a['state'], a['why']) for n, a in self.scan(s.key)['assets'].items()]}" for s in newest
        ]
        logs = [(p.name, p.read_text(errors="replace")[-1500:]) for p in sorted((self.state / "logs").glob("*.log"))]
        return "\n".join([*lines, *(f"--- {name}\n{text}" for name, text in logs)])

    def statuses(self, asset: str, keys: Sequence[str]) -> dict[str, str]:
        """What Dagster's Partitions page shows."""
        found = self.instance.get_status_by_partition(
            names.asset_key(BEAMLINE, asset), list(keys), partitions(self.spec)
        )
        return {
            key: status.name if isinstance(status, AssetPartitionStatus) else "MISSING"
            for key, status in (found or {}).items()
        }

    def runs(self, job: str, since: float = 0.0) -> list[dg.DagsterRun]:
        records = self.instance.get_run_records(dg.RunsFilter(job_name=job))
        return [r.dagster_run for r in records if r.create_timestamp.timestamp() >= since]

    def executions(self, service: str) -> dict[str, int]:
        """Effective executions at a facility: task id or job name -> how often."""
        status = sandbox_verb.call(self.sandbox_dir, "GET", "/sandbox/status")
        return dict(status["executions"].get(service, {}))

    def fault(self, service: str, kind: str, **more: Any) -> None:
        sandbox_verb.call(self.sandbox_dir, "POST", "/sandbox/faults", {"service": service, "kind": kind, **more})

    def under_way(self, key: str, asset: str) -> bool:
        """Has a facility taken the task?"""
        return any(t["asset"] == asset and t["id"] for t in self.scan(key).get("tasks", []))

    def begun(self, key: str, asset: str) -> bool:
        return any(t["asset"] == asset for t in self.scan(key).get("tasks", []))

    def nothing_was_done_twice(self, keys: Sequence[str]) -> None:
        """One task for each step that asks a facility, each executed once, and no scan that is there twice."""
        asked = ("raw_at_cfs", "xpcs_result", "archived_at_hpss")
        for key in keys:
            tasks = [t for t in self.scan(key)["tasks"] if t["asset"] in asked]
            assert sorted(t["asset"] for t in tasks) == sorted(asked), tasks
            for task in tasks:
                service = "transfer" if task["system"] == "globus" else "sfapi"
                done = self.executions(service)
                assert done.get(task["id"], done.get(task["key"])) == 1, (task, done)
        with self.ledger.read() as tx:
            known = [scan.key for scan in scans.latest(tx, BEAMLINE, 500)]
        assert len(known) == len(set(known))

    def kill(self, name: str) -> None:
        """kill -9 of one of Dagster's services; returns when it has been started again."""
        dead = self.services.processes[name]
        dead.kill()
        self.until(lambda: self.services.processes[name] is not dead, f"the {name} is started again", 60)

    def kill_everything(self) -> None:
        """kill -9 of all of Dagster with its runs, and of the facilities' server, at once; that one is started again
        here, in production it is somebody else's."""
        server = int(json.loads((self.sandbox_dir / "address.json").read_text())["pid"])
        dead = dict(self.services.processes)
        os.kill(server, signal.SIGKILL)
        for process in dead.values():
            os.killpg(process.pid, signal.SIGKILL)
        sandbox_verb.up(self.sandbox_dir)
        self.until(
            lambda: all(self.services.processes[n] is not p for n, p in dead.items()), "all are started again", 60
        )

    def run_process(self, job: str) -> int | None:
        """The pid of a run of this job that is at work."""
        for record in self.instance.get_run_records(
            dg.RunsFilter(job_name=job, statuses=[dg.DagsterRunStatus.STARTED])
        ):
            found = self.instance.run_launcher.process_of(record.dagster_run)
            if found is not None:
                return int(found[0])
        return None


def all_in(found: list[dict[str, Any]], states: Sequence[str]) -> list[dict[str, Any]]:
    return found if all(d["state"] in states for d in found) else []


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    handler = signal.getsignal(signal.SIGINT)
    before = dict(os.environ)
    running = Installation(tmp_path_factory.mktemp("als"))
    try:
        yield running
    finally:
        running.close()
        os.environ.clear()
        os.environ.update(before)
        signal.signal(signal.SIGINT, handler)
