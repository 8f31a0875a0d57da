"""`als scan B KEY --script N`: the batch script of a task, exactly as it was submitted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from als.main import main
from tests.ensure.conftest import rig, simulated  # noqa: F401  (fixtures)


@pytest.fixture
def asked(rig: Any, monkeypatch: pytest.MonkeyPatch) -> Any:  # noqa: F811
    monkeypatch.setenv("ALS_LEDGER_URL", f"sqlite:///{rig.ledger_file}")

    def run(*arguments: str) -> Any:
        return CliRunner().invoke(main, ["scan", "bl7011", *arguments])

    return run


def test_the_script_of_each_job_is_kept_as_it_was_submitted_and_shown(rig: Any, asked: Any) -> None:  # noqa: F811
    (key,) = rig.noticed()
    rig.run("raw_at_cfs")
    rig.run("xpcs_result")
    task = rig.tasks(key, "xpcs_result")[0]
    job = rig.sandbox.box.get("slurm_job", str(task.external_id))
    assert task.script == Path(job["script"]).read_text()  # what the facility was given, byte for byte
    number = str([t.id for t in rig.tasks(key)].index(task.id) + 1)
    assert asked(key, "--script", number).stdout == task.script
    document = json.loads(asked(key, "--script", number, "--json").stdout)
    assert document["tasks"][int(number) - 1]["script"] == task.script
    assert not any("script" in shown for shown in json.loads(asked(key, "--json").stdout)["tasks"])
    transfer = asked(key, "--script", "1")
    assert transfer.exit_code == 1 and "(raw_at_cfs) has no batch script: it is one of globus" in transfer.output
    assert f"{key} has " in asked(key, "--script", "9").output
