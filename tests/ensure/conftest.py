"""A rig for tests at the level of *ensure*: real clients, the sandbox's facilities, a ledger, no Dagster.

    key, = rig.notice(rig.scan("a.h5"))
    rig.run("raw_at_cfs")                   one patient run in this process, over every scan that the ledger has
    rig.process("raw_at_cfs")               the same as a process of its own, which a test may kill -9

Scans are a few bytes unless a test says otherwise, and `als-xpcs` is a stand-in that writes a summary: als-job, Slurm's
states, the files and als-describe are the real ones. `rig.real_analysis()` takes the real als-xpcs as well.
"""

from __future__ import annotations

import asyncio
import copy
import functools
import logging
import runpy
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from als import platform
from als.sandbox import environment, furnish
from als_assets import families
from als_assets.ensure import Ensure
from als_assets.reports import Made
from als_assets.transfers import VERIFIED
from beamlines.spec import Retry, Spec
from resources import facilities as facility_files
from resources.facilities import Facilities, Pace
from resources.globus import GlobusTransfer
from resources.ledger import Ledger, flow, leases, scans, steps, tasks
from resources.ledger.views import scan_document
from sandbox.transfer_collections import NERSC_CFS
from sensors import facility_tasks, new_scans
from tests.conftest import PATIENCE_S, loopback_production
from tests.ensure.forked import Forked

HERE = Path(__file__).parent
PACE = Pace(
    tick_s=1, settle_s=0, companion_wait_s=0, grace_s=0.3, poll_s=0.1, lease_s=2, report_s=1, lookup_s=0.6,
    unknown_s=2, pause_first_s=0.2, pause_most_s=0.5, stall_s=0.6, retry_speed=300, linger_s=0, stay_s=30,
)  # fmt: skip
STAND_IN = r"""#!/bin/sh
# als-xpcs corr FILE ... --summary FILE --plots FOLDER: reads nothing, says what it was given
file=$2
while [ $# -gt 0 ]; do case "$1" in --summary) summary=$2 ;; --plots) plots=$2 ;; esac; shift; done
[ -f "$file" ] || { echo "$file: No such file" >&2; exit 3; }
if [ -f "$(dirname "$0")/body" ]; then . "$(dirname "$0")/body"; fi
mkdir -p "$(dirname "$summary")" "$plots"
printf '%s' '{"parameters": {"dq": 4}, "values": {"q_per_angstrom": [0.001, 0.002], "tau_s": [0.5, 0.25],
 "contrast": [0.2, 0.21]}, "qc": {"drift": {"value": 0.1, "threshold": 0.5, "verdict": "good"}},
 "versions": {"stand-in": "1"}}' > "$summary"
"""
PROGRAM = """#!{python}
import sys
from als_analysis import job
real = job._resolve
job._resolve = lambda program: "{folder}/als-xpcs" if program == "als-xpcs" else real(program)
sys.exit(job.main())
"""


@dataclass
class Ran:
    """What a run came to: what it reported, in order, and what it found to have failed."""

    made: list[Made]
    failed: dict[str, str]
    engine: Ensure

    @property
    def keys(self) -> list[str]:
        return [made.scan.key for made in self.made]


@dataclass
class Process:
    """A run in another process."""

    process: Any
    out: Path

    def kill(self) -> None:
        """kill -9"""
        self.process.kill()
        self.process.join(10)

    def told(self) -> list[str]:
        """Wait for its end; the keys that it reported, in order. Raises AssertionError when it did not end well."""
        self.process.join(PATIENCE_S)
        assert self.process.exitcode == 0, f"the run ended with {self.process.exitcode}"
        return self.out.read_text().split()


@dataclass
class Rig:
    sandbox: Any
    folder: Path
    spec: Spec
    facilities: Facilities
    environment: dict[str, str]
    new_ledger: Path  # of the sandbox, without scans
    started: list[Process] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.ledger_file = self.folder / "ledger.db"
        self.ledger = self.open_ledger()
        self.dtn = self.sandbox.dir / "als" / "dtn" / "bl7011"
        self.cfs = Path(self.facilities.place("bl7011", "cfs").paths["nersc"])
        self.results = Path(self.facilities.work("nersc", "bl7011").results)
        self.attempts = Path(self.facilities.work("nersc", "bl7011").attempts)

    def open_ledger(self) -> Ledger:
        if self.facilities.name == "sandbox" and not self.ledger_file.exists():
            shutil.copyfile(self.new_ledger, self.ledger_file)
        return Ledger(f"sqlite:///{self.ledger_file}", self.facilities.name)

    def forget(self) -> None:
        """Lose the ledger; the facilities stay as they are."""
        self.ledger.close()
        for file in self.folder.glob("ledger.db*"):
            file.unlink()
        self.ledger = self.open_ledger()

    # scans

    def scan(self, name: str = "a.h5", content: bytes = b"detector frames", roi: bytes | None = b"roi") -> str:
        """Write a scan to the detector's disk, with its ROI beside it; returns its name."""
        path = self.dtn / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if roi is not None:
            path.with_name(f"{path.name.rsplit('.', 1)[0]}_roi.h5").write_bytes(roi)
        path.write_bytes(content)
        return name

    def notice(self, *names: str) -> list[str]:
        """The sensor's look; returns the keys of the scans of these names, or of all that were noticed."""
        place = families.storage(self.spec, self.spec.scans.watch, self.facilities, self.services["globus"])
        seen = new_scans.look(self.ledger, self.spec, place, self.facilities.pace, "globus")
        assert seen.trouble is None, seen.trouble
        assert seen.waiting == 0
        with self.ledger.read() as tx:
            found = scans.many(tx, seen.scans).values()
        known = {scan.path: scan.key for scan in found}
        return [known[name] for name in names] if names else [scan.key for scan in found]

    def noticed(self, count: int = 1, folder: str = "day") -> list[str]:
        """So many scans of a few bytes, written and noticed."""
        return self.notice(*(self.scan(f"{folder}/s{i:03d}.h5", b"frames of scan %d" % i) for i in range(count)))

    def copied(self, count: int = 1) -> list[str]:
        """The same, with their copies at NERSC: put there by the test, and proven in the ledger as a transfer would."""
        keys = self.noticed(count)
        for key in keys:
            self._copy(self.found(key))
            self.settle_by_hand(key, "raw_at_cfs")
        return keys

    def _copy(self, scan: scans.Scan) -> None:
        now = self.ledger.now()
        with self.ledger.write() as tx:
            copy_id = scans.keep_copy(tx, scan.id, "cfs", "present", root="")
            for file in scans.files_of(tx, [scan.id])[scan.id]:
                (self.cfs / file.path).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(self.dtn / file.path, self.cfs / file.path)
                scans.add_evidence(tx, copy_id, file.id, VERIFIED, None, file.bytes, file.mtime, now, None)
            scans.verified(tx, copy_id, now)

    # runs

    @property
    def services(self) -> dict[str, Any]:
        return dict(self.facilities.services)

    def engine(self, asset: str, holder: str = "run-1") -> Ensure:
        made_by = families.family(self.spec, self.spec.asset(asset), self.facilities, self.ledger, self.services)
        systems = families.systems(self.services)
        return Ensure(self.ledger, made_by, self.facilities.pace, systems, holder)

    def run(self, asset: str, keys: Sequence[str] | None = None, patient: bool = True, engine: Ensure | None = None,
            seconds: float = 2 * PATIENCE_S) -> Ran:  # fmt: skip
        engine = engine or self.engine(asset)
        wanted = self.keys() if keys is None else list(keys)
        made: list[Made] = []

        async def all_of_it() -> None:
            async for one in engine.run(wanted, patient):
                made.append(one)

        asyncio.run(asyncio.wait_for(all_of_it(), seconds))
        return Ran(made, dict(engine.failed), engine)

    def process(self, asset: str, keys: Sequence[str] | None = None, patient: bool = True,
                dies: dict[str, Any] | None = None) -> Process:  # fmt: skip
        """A run as a process of its own, with the pace and the services of this rig. `dies`: see dying.py."""
        wanted = self.keys() if keys is None else list(keys)
        out = self.folder / f"told-{len(self.started)}"
        request = {
            "environment": self.environment, "ledger": f"sqlite:///{self.ledger_file}", "asset": asset,
            "facilities": self.facilities.file.model_dump(mode="json"), "keys": wanted, "patient": patient,
            "out": str(out), "dies": dies,
        }  # fmt: skip
        program = str(HERE / "one_run.py")
        process = Forked(target=runpy.run_path, args=(program, {"ASKED": request}, "__main__"), daemon=True)
        process.start()
        run = Process(process, out)
        self.started.append(run)
        return run

    def follow(self, times: int = 1) -> None:
        """The sensor that polls the facilities."""
        for _ in range(times):
            for service in ("globus", "nersc"):
                facility_tasks.watch(self.ledger, self.services[service], self.facilities.pace)

    # looking

    def keys(self) -> list[str]:
        with self.ledger.read() as tx:
            return [scan.key for scan in reversed(scans.latest(tx, self.spec.id, 10_000))]

    def step(self, key: str, asset: str) -> steps.Step:
        with self.ledger.read() as tx:
            return steps.of_keys(tx, self.spec.id, asset, [key])[0]

    def found(self, key: str) -> scans.Scan:
        with self.ledger.read() as tx:
            found = scans.find(tx, self.spec.id, key)
        assert found is not None
        return found

    def tasks(self, key: str, asset: str | None = None) -> list[tasks.Task]:
        with self.ledger.read() as tx:
            mine = tasks.of_scan(tx, self.found(key).id)
        return [t for t in mine if asset in (None, t.asset)]

    def document(self, key: str) -> dict[str, Any]:
        with self.ledger.read() as tx:
            return scan_document(tx, self.spec, self.found(key), {"cfs"}, self.ledger.now())

    def ask(self, asset: str, key: str, run: str = "run-asked") -> int:
        with self.ledger.write() as tx:
            return steps.ask(tx, [self.found(key).id], asset, run, self.ledger.now())

    def executed_once(self) -> int:
        """Everything that the facilities did was done once; returns how much that was. A job that finds its work
        claimed counts until it has ended as a duplicate."""
        self.until(lambda: not self.sandbox.box.all("slurm_live"))
        counts = [n for service in ("transfer", "sfapi") for n in self.sandbox.executions(service).values()]
        assert all(n == 1 for n in counts), counts
        return len(counts)

    def pause_of(self, service: str) -> leases.Pause | None:
        with self.ledger.read() as tx:
            return next((p for p in leases.all_pauses(tx) if p.service == service), None)

    def settle_by_hand(self, key: str, asset: str) -> None:
        """Say in the ledger that an asset is there, without making it."""
        now = self.ledger.now()
        with self.ledger.write() as tx:
            scan = scans.find(tx, self.spec.id, key)
            assert scan is not None
            assert steps.claim(tx, scan.id, asset, now, now)
            assert steps.finish(tx, scan.id, asset, now)
            flow.came_true(tx, self.spec, scan.id, asset, now)

    def until(self, true: Callable[[], Any], seconds: float = PATIENCE_S) -> Any:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if found := true():
                return found
            time.sleep(0.02)
        raise AssertionError("it did not come about")

    def pace(self, **changes: float) -> None:
        pace = self.facilities.pace.model_copy(update=changes)
        self.facilities = Facilities(self.facilities.file.model_copy(update={"pace": pace}))

    def attempts_allowed(self, attempts: int) -> None:
        self.spec = self.spec.model_copy(update={"retry": Retry(attempts=attempts)})

    # programs of the jobs

    def stand_in(self, body: str = "") -> None:
        """als-job with a stand-in for als-xpcs; `body` is shell that it does first, with $file."""
        folder = self.folder / "programs"
        folder.mkdir(exist_ok=True)
        for name, text in (("als-xpcs", STAND_IN), ("als-job", PROGRAM.format(python=sys.executable, folder=folder))):
            (folder / name).write_text(text)
            (folder / name).chmod(0o755)
        (folder / "body").write_text(body)
        self._program(str(folder / "als-job"))

    def real_analysis(self) -> None:
        self._program("als-job")

    def _program(self, program: str) -> None:
        file = self.facilities.file
        services = {**file.services, "nersc": {**file.services["nersc"], "program": program}}
        self.facilities = Facilities(file.model_copy(update={"services": services}))


# Which tests run a second time with the facility file of production, its addresses replaced by loopback ones: "always",
# or with the services, which takes more time than `make test` has. By file, or by file and test.
PRODUCTION_TOO = {
    "test_happy_path.py": "always",
    "test_archive.py::test_a_copied_scan_is_archived_verified_and_safe": "always",
    "test_lost_answers.py::test_a_job_whose_submission_was_not_answered": "always",
    "test_lost_answers.py": "services",
    "test_archive.py": "services",
    "test_catalogue.py": "services",
    "test_killed.py": "services",
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "rig" in metafunc.fixturenames:
        file = Path(str(metafunc.module.__file__)).name
        when = PRODUCTION_TOO.get(f"{file}::{metafunc.function.__name__}") or PRODUCTION_TOO.get(file)
        if when is not None:
            marks = [pytest.mark.services] if when == "services" else []
            cases = ["sandbox", pytest.param("production", marks=marks)]
            metafunc.parametrize("rig", cases, indirect=True, scope="function")


parsed = functools.cache(yaml.safe_load)


def loaded_once(text: str) -> Any:
    """yaml.safe_load, which takes a third of the time that a rig takes to make: they all read the same files."""
    return copy.deepcopy(parsed(text))


@pytest.fixture
def rig(request: pytest.FixtureRequest, sandbox: Any, sqlite_template: Path, tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:  # fmt: skip
    monkeypatch.setattr(yaml, "safe_load", loaded_once)
    variables = {**environment(sandbox.dir), "ALS_LEDGER_FAST": "1"}
    if getattr(request, "param", "sandbox") == "production":
        variables |= loopback_production(sandbox, tmp_path)[1]
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    loaded = facility_files.load(environment=variables)
    furnish(sandbox.dir, variables)
    facilities = Facilities(loaded.file.model_copy(update={"pace": PACE}))
    logging.getLogger("als").setLevel(logging.CRITICAL)
    spec = platform.spec_of("bl7011").model_copy(update={"archive": None})  # has tests of its own
    made = Rig(sandbox, tmp_path, spec, facilities, variables, sqlite_template)
    made.stand_in()
    try:
        yield made
    finally:
        for process in made.started:
            process.kill()
        made.ledger.close()


@pytest.fixture(scope="session")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, bytes]:
    """A simulated scan with a known answer and its ROI, made once."""
    folder = tmp_path_factory.mktemp("simulated")
    program = Path(sys.executable).parent / "als-xpcs"
    subprocess.run(
        [program, "simulate", "a.h5", "--size", "tiny", "--seed", "3"], cwd=folder, check=True, capture_output=True
    )
    return (folder / "a.h5").read_bytes(), (folder / "a_roi.h5").read_bytes()


__all__ = ["NERSC_CFS", "GlobusTransfer", "Ran", "Rig"]
