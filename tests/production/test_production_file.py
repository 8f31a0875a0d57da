"""The facility file of production: complete, without secrets, and plain about what is missing."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from als import platform
from resources import facilities
from resources.facilities import FacilityFileError, load
from tests.conftest import PRODUCTION, loopback_production

ROOT = Path(__file__).resolve().parent.parent.parent
TEXT = (Path(facilities.__file__).parent / "production.yaml").read_text()
EXAMPLE = (ROOT / "deploy/production.env.example").read_text()
NEEDED = {name for name, default in facilities.VARIABLE.findall(TEXT) if f"{{{name}:-" not in TEXT}
# read by the programs themselves, for production as for any other facilities
OF_THE_PROGRAMS = {
    "ALS_FACILITIES", "ALS_STATE", "DAGSTER_HOME", "ALS_BACKUPS", "ALS_LEDGER_URL", "ALS_PAGES",
    "ALS_GLOBUS_CLIENT_ID", "ALS_GLOBUS_CLIENT_SECRET", "ALS_SFAPI_KEY", "ALS_SFAPI_KEY_EXPIRES",
    "ALS_SCICAT_USERNAME", "ALS_SCICAT_PASSWORD", "ALS_DAGSTER_CONFIG", "ALS_DAGSTER_URL",
}  # fmt: skip


def test_the_example_lists_every_variable_that_the_file_names_and_no_other() -> None:
    listed = {name.removesuffix("_FILE") for name in re.findall(r"^#?([A-Z][A-Z_0-9]+)=", EXAMPLE, re.MULTILINE)}
    named = {name for name, _ in facilities.VARIABLE.findall(TEXT)} | set(re.findall(r"_env: ([A-Z_]+)", TEXT))
    assert listed == named | OF_THE_PROGRAMS


def test_the_example_says_something_about_each_group_and_holds_no_secret() -> None:
    values = dict(re.findall(r"^([A-Z][A-Z_0-9]+)=(.*)$", EXAMPLE, re.MULTILINE))
    assert all(not value for name, value in values.items() if name.endswith(("SECRET", "PASSWORD", "WEBHOOK")))
    assert EXAMPLE.count("# --") == 5


def test_production_loads_with_its_variables_and_has_every_place_that_the_beamlines_name() -> None:
    at = load("production", PRODUCTION)
    assert at.name == "production" and set(at.services) == {"globus", "nersc", "scicat"}
    for spec in platform.specs().values():
        for place in {
            spec.scans.watch,
            *(c.place for c in spec.copies),
            *((spec.archive.place,) if spec.archive else ()),
        }:
            assert at.place(spec.id, place)
        assert at.work("nersc", spec.id).account
    assert {name for name, place in at.file.places["bl7011"].items() if place.durable} == {"cfs", "hpss"}
    assert at.services["scicat"].choose_pids is True


def test_production_is_on_no_loopback_and_guesses_no_address_that_is_not_public() -> None:
    addresses = set(re.findall(r"https?://[^\s}\"]+", "\n".join(li.split("#")[0] for li in TEXT.splitlines())))
    assert addresses == {"https://api.nersc.gov/api/v1.2", "https://oidc.nersc.gov/c2id/token"}
    assert not re.search(r"[0-9a-f]{8}-[0-9a-f]{4}-", TEXT)


@pytest.mark.parametrize("name", sorted(NEEDED))
def test_each_missing_variable_is_named_with_where_it_is_explained(name: str) -> None:
    with pytest.raises(FacilityFileError, match=f"{name}, which is not set.*production.env.example"):
        load("production", {key: value for key, value in PRODUCTION.items() if key != name})


def asked(command: list[str], variables: dict[str, str], folder: Path) -> subprocess.CompletedProcess[str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("ALS_", "DAGSTER_"))}
    folder.joinpath("dagster.yaml").write_text("telemetry: {enabled: false}\n")
    ours = {**clean, **variables, "ALS_FACILITIES": "production", "DAGSTER_HOME": str(folder), "ALS_STATE": str(folder)}
    command = [sys.executable, *command]
    return subprocess.run(command, cwd=ROOT, env=ours, capture_output=True, text=True, check=False, timeout=120)


def test_dagster_s_definitions_are_valid_for_production(tmp_path: Path) -> None:
    ended = asked(["-m", "dagster", "definitions", "validate", "-w", "workspace.yaml"], PRODUCTION, tmp_path)
    assert ended.returncode == 0, ended.stderr[-3000:]


def test_the_code_server_says_which_variable_is_missing(tmp_path: Path) -> None:
    variables = {k: v for k, v in PRODUCTION.items() if k != "ALS_NERSC_ACCOUNT"}
    ended = asked(["-c", "from als_assets.definitions import defs; defs()"], variables, tmp_path)
    assert ended.returncode != 0
    assert "needs the environment variable ALS_NERSC_ACCOUNT, which is not set" in ended.stderr


def test_the_tests_change_nothing_of_the_file_but_addresses_and_folders(sandbox, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    path, variables = loopback_production(sandbox, tmp_path)
    here, real = load(str(path), variables).file, load("production", variables).file
    one, other = real.model_dump(mode="json"), here.model_dump(mode="json")
    differ = {path for path in flat(one) if flat(one)[path] != flat(other).get(path)} | set(flat(other)) - set(
        flat(one)
    )
    assert differ == {
        "services.nersc.api_url", "services.nersc.token_url", "services.nersc.roots.0", "places.bl7011.cfs.paths.nersc",
        "work.nersc.bl7011.attempts", "work.nersc.bl7011.results",
    }  # fmt: skip


def flat(value: object, path: str = "") -> dict[str, object]:
    if isinstance(value, dict):
        return {k: v for key, part in value.items() for k, v in flat(part, f"{path}.{key}".strip(".")).items()}
    if isinstance(value, list):
        return {k: v for n, part in enumerate(value) for k, v in flat(part, f"{path}.{n}").items()}
    return {path: value}
