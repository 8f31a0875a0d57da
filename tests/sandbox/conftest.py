"""A job that is over its time limit, begun before the tests that go through real Slurm, for the one that wants it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from resources.job_script import render
from sandbox import jobs, slurm, slurm_jobs
from sandbox.sfapi_sbatch import job_document, parse
from tests.conftest import Sandbox


@pytest.fixture(scope="session")
def limited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Sandbox, str]]:
    """(sandbox, job id). slurmctld looks at limits twice a minute only: other tests fill the time."""
    if (problem := slurm.missing()) is not None:
        pytest.skip(problem)
    server = Sandbox(tmp_path_factory.mktemp("limited"), "--slurm")
    try:
        server.start()
        attempt = f"{server.dir}/nersc/scratch/als-limited"
        commands = [{"id": "c0", "argv": ["sleep", "300"]}]
        request = {"schema": "als-job/1", "key": "als-limited", "attempt_dir": attempt, "commands": commands}
        directives = {"account": "als", "qos": "shared", "constraint": "cpu", "time": "5", "nodes": 1}
        script = render("als-limited", directives, "als-job", request)
        fault = {"id": 0, "kind": "time_limit", "delay": 1}
        options = parse(script)
        job_id = slurm_jobs.admit(server.box, job_document(server.box, options, fault=fault), options, script)
        jobs.ensure(server.box)
        yield server, job_id
    finally:
        server.down()
