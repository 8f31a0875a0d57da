"""`als check` from the facility file of production, on loopback: every leg of it is tried, and all is well."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from als.main import main
from als.sandbox import environment, furnish
from tests.conftest import loopback_production


def test_every_leg_of_production_is_tried(sandbox: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    variables = {**environment(sandbox.dir), **loopback_production(sandbox, tmp_path)[1]}
    variables |= {"ALS_STATE": str(tmp_path / "state"), "ALS_SMTP_HOST": "h", "ALS_ALERTS_FROM": "a@x.org"}
    for name, value in {**variables, "ALS_ALERTS_TO": "b@x.org"}.items():
        monkeypatch.setenv(name, value)
    for name in ("DAGSTER_HOME", "ALS_LEDGER_URL"):
        monkeypatch.delenv(name, raising=False)
    furnish(sandbox.dir, variables)
    ended = CliRunner().invoke(main, ["check", "--json"])
    document = json.loads(ended.stdout)
    found = {(one["area"], one["what"]): one for one in document["findings"]}
    bad = {key: one["says"] for key, one in found.items() if one["ok"] is False}
    assert ended.exit_code == 0 and document["facilities"] == "production", bad
    for wanted in [
        ("globus", "Globus login"), ("bl7011/dtn", "list"), ("bl7011/cfs", "write"), ("bl7011/hpss", "tape"),
        ("bl7011/cfs", "the same folder at nersc"), ("nersc", "key's end"), ("nersc", "project als"),
        ("nersc", "attempts of bl7011"), ("nersc", "program als-archive"), ("scicat", "SciCat group 7.0.1.1"),
    ]:  # fmt: skip
        assert found[wanted]["ok"] is True, wanted
