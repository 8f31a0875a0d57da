"""What deploy/ installs: units that systemd accepts, one port for all, hardened alike, and an environment file that
systemd and a shell read alike."""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent.parent
UNITS = ROOT / "deploy/systemd"
SERVICES = sorted(UNITS.glob("*.service"))
LONG_RUNNING = {"als-code", "als-daemon", "als-web"}


def unit(path: Path) -> configparser.ConfigParser:
    parsed = configparser.ConfigParser(strict=False, interpolation=None)
    parsed.optionxform = str  # type: ignore[assignment, method-assign]
    parsed.read_string(path.read_text())
    return parsed


def test_systemd_accepts_every_unit(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd is not installed")
    for path in UNITS.glob("als*"):
        if path.suffix in (".service", ".timer", ".target"):
            text = path.read_text().replace("/opt/als/current/.venv/bin/", f"{Path(sys.executable).parent}/")
            (tmp_path / path.name).write_text(text.replace("/opt/als/current", str(ROOT)))
    files = [str(path) for path in sorted(tmp_path.iterdir())]
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *files], capture_output=True, text=True, check=False, timeout=60,
        env={"SYSTEMD_UNIT_PATH": f"{tmp_path}:/lib/systemd/system", "PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    ours = [line for line in (done.stderr + done.stdout).splitlines() if "als" in line]
    assert ours == [], ours


@pytest.mark.parametrize("path", SERVICES, ids=lambda path: path.stem)
def test_every_service_is_nobody_special_and_may_write_its_state_only(path: Path) -> None:
    service = unit(path)["Service"]
    assert (service["User"], service["EnvironmentFile"]) == ("als", "/etc/als/production.env")
    assert (service["ProtectSystem"], service["NoNewPrivileges"], service["CapabilityBoundingSet"]) == (
        "strict",
        "true",
        "",
    )
    assert (service["StateDirectory"], service["ReadWritePaths"]) == ("als", "-/var/backups/als")
    if path.stem in LONG_RUNNING:
        assert service["Restart"] == "on-failure" and service["KillSignal"] == "SIGINT"


def test_runs_outlive_the_code_server() -> None:
    assert unit(UNITS / "als-code.service")["Service"]["KillMode"] == "process"


def test_the_code_server_listens_where_the_others_look_for_it_and_nowhere_else() -> None:
    (server,) = yaml.safe_load((ROOT / "deploy/workspace.yaml").read_text())["load_from"]
    command = unit(UNITS / "als-code.service")["Service"]["ExecStart"]
    found = dict(re.findall(r"--(host|port|location-name) (\S+)", command))
    where = server["grpc_server"]
    assert found == {"host": where["host"], "port": str(where["port"]), "location-name": where["location_name"]}
    assert where["host"] == "127.0.0.1"
    for name in ("als-daemon", "als-web"):
        assert "-w /opt/als/current/deploy/workspace.yaml" in unit(UNITS / f"{name}.service")["Service"]["ExecStart"]


def test_the_units_and_the_example_of_the_environment_mean_the_same_folders() -> None:
    text = (ROOT / "deploy/production.env.example").read_text()
    values = dict(re.findall(r"^([A-Z_0-9]+)=(.*)$", text, re.MULTILINE))
    assert values["ALS_STATE"] == values["DAGSTER_HOME"] == "/var/lib/als"
    assert values["ALS_BACKUPS"] == "/var/backups/als"
    prepare = (UNITS / "als-prepare.service").read_text()
    assert "ExecStartPre=/bin/ln -sfn ${ALS_DAGSTER_CONFIG} /var/lib/als/dagster.yaml" in prepare
    on_files = re.findall(r"^Environment=ALS_DAGSTER_CONFIG=/opt/als/current/(\S+)$", prepare, re.MULTILINE)
    on_postgresql = re.findall(r"^#ALS_DAGSTER_CONFIG=/opt/als/current/(\S+)$", text, re.MULTILINE)
    assert (on_files, on_postgresql) == (["dagster.yaml"], ["deploy/dagster.yaml"])
    assert all((ROOT / name).is_file() for name in on_files + on_postgresql)


def test_a_shell_reads_the_environment_file_as_systemd_does() -> None:
    path = ROOT / "deploy/production.env.example"
    shown = subprocess.run(
        ["bash", "-euc", f"set -a; . {path}; env"],
        capture_output=True,
        text=True,
        check=True,
        env={"PATH": "/usr/bin:/bin"},
    ).stdout
    mine = dict(re.findall(r"^([A-Z_0-9]+)=(.*)$", path.read_text(), re.MULTILINE))
    assert {line.partition("=")[0]: line.partition("=")[2] for line in shown.splitlines()}.items() >= mine.items()
