"""A new credential is used without a restart: the old one is withdrawn at the facility, the file replaced, and the same
process goes on. Until the file is replaced, what is said names the variable and what to do, and never the secret."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from als.sandbox import environment
from resources import credentials
from resources.errors import CredentialProblem
from resources.facilities import load
from sandbox import auth, sfapi_auth
from sandbox.transfer_collections import ALS_DTN
from tests.conftest import loopback_production

NOW = datetime(2026, 11, 20, 10, 0, tzinfo=UTC)


def secret_file(path: Path, secret: str) -> Path:
    """As an administrator replaces it: written aside, then renamed."""
    fresh = path.with_suffix(".new")
    fresh.write_text(secret + "\n")
    fresh.chmod(0o600)
    return fresh.replace(path)


@pytest.fixture
def services(sandbox: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Production's services on loopback, with every secret in a file."""
    variables = {**environment(sandbox.dir), **loopback_production(sandbox, tmp_path)[1]}
    for name, secret in [("ALS_GLOBUS_CLIENT_SECRET", "globus"), ("ALS_SCICAT_PASSWORD", "scicat")]:
        variables[f"{name}_FILE"] = str(secret_file(tmp_path / secret, variables.pop(name)))
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return load(environment=variables).services


@pytest.fixture
def globus_secret(sandbox: Any) -> Iterator[Any]:
    """Give the sandbox's Globus client another secret; the old one and its tokens are good for nothing then."""
    before = auth.setup(sandbox.box)

    def change(secret: str) -> None:
        with sandbox.box.transaction() as docs:
            kept = json.dumps({**before, "client_secret": secret})
            docs.db.execute("update kept set value = ? where name = 'auth'", (kept,))
            docs.db.execute("delete from docs where kind = 'token'")

    yield change
    change(before["client_secret"])


def test_a_globus_secret_is_rotated(services: Any, globus_secret: Any, tmp_path: Path) -> None:
    globus = services["globus"]
    globus.ls(ALS_DTN, "/")
    globus_secret("the-next-secret")
    with pytest.raises(CredentialProblem, match="ALS_GLOBUS_CLIENT_SECRET") as refused:
        globus.ls(ALS_DTN, "/")
    secret_file(tmp_path / "globus", "the-next-secret")
    globus.ls(ALS_DTN, "/")
    assert "no restart is needed" in refused.value.reason and "the-next" not in str(refused.value)


def test_a_nersc_key_is_rotated(sandbox: Any, services: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = tmp_path / "nersc.json"
    secret_file(key, (sandbox.dir / "sfapi_key.json").read_text())
    monkeypatch.setenv("ALS_SFAPI_KEY", str(key))
    nersc = services["nersc"]
    assert nersc.run_command(["echo", "one"]).strip() == "one"
    sfapi_auth.rotate(sandbox.box)  # the old key and its tokens end
    with pytest.raises(CredentialProblem, match=r"does not accept the key in .*nersc\.json"):
        nersc.run_command(["echo", "two"])
    secret_file(key, (sandbox.dir / "sfapi_key.json").read_text())
    assert nersc.run_command(["echo", "two"]).strip() == "two"


def test_a_scicat_password_is_rotated(sandbox: Any, services: Any, tmp_path: Path) -> None:
    scicat = services["scicat"]
    assert scicat.get_dataset("als/none") is None
    sandbox.box.put("scicat_password", "ingestor", {"password": "the-next-password"})
    with sandbox.box.transaction() as docs:
        docs.db.execute("delete from docs where kind = 'scicat_token'")
    with pytest.raises(CredentialProblem, match="does not accept the account 'ingestor' with its password") as refused:
        scicat.get_dataset("als/none")
    secret_file(tmp_path / "scicat", "the-next-password")
    assert scicat.get_dataset("als/none") is None
    assert "the-next" not in str(refused.value)


@pytest.mark.parametrize("name", ["globus", "scicat"])
def test_a_secret_that_others_can_read_is_not_used(services: Any, tmp_path: Path, name: str) -> None:
    (tmp_path / name).chmod(0o640)
    with pytest.raises(CredentialProblem, match="chmod 600"):
        services["globus"].ls(ALS_DTN, "/") if name == "globus" else services["scicat"].get_dataset("als/none")


# what is told before a key ends


def test_a_key_s_end_is_that_of_the_client_in_the_file_not_of_another_of_the_same_user(
    sandbox: Any, services: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    nersc = services["nersc"]
    far = time.time() + 20 * 86400
    sandbox.box.put("sfapi_key_expires", "at", {"at": far})
    end = nersc.key_ends()
    assert end is not None and abs(end.timestamp() - far) < 1
    monkeypatch.setenv("ALS_SFAPI_KEY_EXPIRES", "2026-12-24")
    assert nersc.key_ends() == datetime(2026, 12, 24, tzinfo=UTC)
    monkeypatch.setenv("ALS_SFAPI_KEY_EXPIRES", "at Christmas")
    with pytest.raises(CredentialProblem, match="is no date"):
        nersc.key_ends()


@pytest.mark.parametrize(
    ("life", "left", "soon"),
    [(60, 8, False), (60, 6.9, True), (30, 8, False), (30, 6, True), (2, 1.5, False), (2, 0.9, True), (12, 4, False),
     (12, 2.9, True), (60, -1, True)],
)  # fmt: skip
def test_staff_are_told_a_week_before_or_in_the_last_quarter_of_a_short_life(
    life: float, left: float, soon: bool
) -> None:
    end = NOW + timedelta(days=left)
    assert credentials.ends_soon(end, end - timedelta(days=life), NOW) is soon
