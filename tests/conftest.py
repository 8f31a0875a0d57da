"""Fixtures for all tests: `sandbox`, a running server with the facilities, back to its first day for every test."""

from __future__ import annotations

import functools
import json
import os
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import certifi
import pytest
import yaml
from joserfc._rfc7518.rsa_key import RSABinding

from resources.ledger import Ledger
from sandbox import slurm, workers
from sandbox.box import Box
from sandbox.transfer_collections import ALS_DTN, DEFAULTS

ROOT = Path(__file__).resolve().parent.parent
# How long a test waits for what must come about: long, since the machine may be busy with other things. What comes ends
# the wait at once; pytest's own limit for a test is three minutes.
PATIENCE_S = 60
# a dagster.yaml whose database is down: nothing listens there
STORAGE_IS_DOWN = (
    "telemetry: {enabled: false}\nstorage: {postgres: {postgres_url: 'postgresql://als:secret@127.0.0.1:9/dagster'}}\n"
)
# what an installation would put into its environment for the facility file of production
NERSC_DTN = "9e25c000-0000-4000-8000-0000000000d0"
PRODUCTION = {
    "ALS_BL7011_DTN_COLLECTION": ALS_DTN, "ALS_BL7011_DTN_BASE": "/bl7011", "ALS_NERSC_COLLECTION": NERSC_DTN,
    "ALS_NERSC_USER": "als", "ALS_NERSC_ACCOUNT": "als", "ALS_NERSC_JOB_PROGRAM": "als-job",
    "ALS_HPSS_HOME": "/home/a/als", "ALS_SCICAT_URL": "https://scicat.example.org/api/v3",
    "ALS_SCICAT_PAGES": "https://scicat.example.org",
}  # fmt: skip


def kept_open(box: Box) -> sqlite3.Connection:
    """A connection to a box's database that does nothing. The box opens one for each call; when nobody else has the
    database open, closing it ends with a wait for the disk, of several milliseconds, and a test makes hundreds of
    calls."""
    connection = sqlite3.connect(box.dir / "state.db", check_same_thread=False)
    connection.execute("select 1 from docs limit 1").fetchone()
    return connection


class Sandbox:
    """A sandbox server as a process of its own, below one folder, on a free port.

    Attributes:
        dir: its folder; the disks are below it. box: its state, shared with the server.
        url: "http://127.0.0.1:PORT"; the same after a restart.
        options: of `sandbox serve`: "--slurm" for jobs that go through real Slurm.
    """

    def __init__(self, directory: Path, *options: str) -> None:
        self.dir = directory.resolve()
        self.options = options
        self.box = Box(self.dir)
        self.url = ""
        self._process: subprocess.Popen[bytes] | None = None
        self._open = kept_open(self.box)

    def start(self) -> None:
        """Start the server and wait until it listens."""
        (self.dir / "address.json").unlink(missing_ok=True)
        with (self.dir / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "sandbox", "serve", "--dir", str(self.dir), *self.options],
                cwd=ROOT, stdout=log, stderr=log,
            )  # fmt: skip
        until = time.monotonic() + PATIENCE_S
        while not (self.dir / "address.json").exists():
            if self._process.poll() is not None or time.monotonic() > until:
                raise RuntimeError("the sandbox did not start:\n" + (self.dir / "server.log").read_text())
            time.sleep(0.02)
        self.url = json.loads((self.dir / "address.json").read_text())["url"]

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def kill(self) -> None:
        """kill -9 of the server; movers and jobs go on."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def down(self) -> None:
        """End the server and everything that it started."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        slurm.Slurm(self.dir).down()
        left = workers.end_all(self.dir)
        self._open.close()
        assert not left, f"detached workers that could not be ended: {left}"

    def call(self, method: str, path: str, document: Any = None) -> Any:
        """One request to the sandbox, JSON in and out: `call("GET", "/sandbox/status")`."""
        data = None if document is None else json.dumps(document).encode()
        request = urllib.request.Request(
            self.url + path, method=method, data=data, headers={"Content-Type": "application/json"}
        )
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=60) as answer:
            return json.loads(answer.read())

    def reset(self) -> None:
        (self.dir / "collections.json").unlink(missing_ok=True)
        if not self.running:
            self.start()
        self.call("POST", "/sandbox/reset")

    def fault(self, service: str, kind: str, **more: Any) -> int:
        """Add a fault: `fault("transfer", "status", route="POST /v0.10/transfer", when="after", code=502)`."""
        return self.box.add_fault({"service": service, "kind": kind, **more})

    def requests(self) -> dict[str, int]:
        """{"transfer POST /v0.10/transfer": n} since the server started or was reset."""
        counts: dict[str, int] = self.call("GET", "/sandbox/status")["requests"]
        return counts

    def executions(self, service: str) -> dict[str, int]:
        """{task or job: how often it was really done}."""
        counts: dict[str, int] = self.call("GET", "/sandbox/status")["executions"].get(service, {})
        return counts

    def credentials(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads((self.dir / "credentials.json").read_text())
        return document


def loopback_production(server: Sandbox, folder: Path) -> tuple[Path, dict[str, str]]:
    """production.yaml with nothing but its addresses replaced by those of a sandbox, and NERSC's disks by folders of
    it; and the variables that belong to it. Globus's addresses are not in the file: the SDK has them, and a variable
    for each. `/global/cfs` at NERSC is the folder nersc/global/cfs of the sandbox, for Globus as for the jobs."""
    document = yaml.safe_load((ROOT / "resources/facilities/production.yaml").read_text())
    nersc = document["services"]["nersc"]
    nersc["api_url"], nersc["token_url"] = f"{server.url}/sfapi/api/v1.2", f"{server.url}/sfapi/token"
    disks = f"{server.dir}/nersc"
    nersc["roots"] = [disks + root for root in nersc["roots"]]
    for places, work in zip(document["places"].values(), document["work"]["nersc"].values(), strict=True):
        for use in ("attempts", "results"):
            work[use] = disks + work[use]
        for place in places.values():
            for service, path in place.get("paths", {}).items():
                if path.startswith("/global/"):
                    place["paths"][service] = disks + path
    path = folder / "production.yaml"
    path.write_text(yaml.safe_dump(document))
    collections = {**DEFAULTS, NERSC_DTN: {"name": "NERSC DTN", "root": "nersc"}}
    (server.dir / "collections.json").write_text(json.dumps(collections))
    addresses = {
        "ALS_FACILITIES": str(path), "ALS_SCICAT_URL": f"{server.url}/scicat/api/v3",
        "GLOBUS_SDK_SERVICE_URL_TRANSFER": f"{server.url}/transfer/",
        "GLOBUS_SDK_SERVICE_URL_AUTH": f"{server.url}/auth/",
    }  # fmt: skip
    return path, {**PRODUCTION, **addresses}


@pytest.fixture(scope="session", autouse=True)
def _quick_sign_ins(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """At each sign-in NERSC's client reads all the world's certificates, also for an address without TLS, and checks
    that the primes of its key are primes: 60 ms. Here it is one certificate, and each key is checked once."""
    first, end, _ = certifi.contents().partition("-----END CERTIFICATE-----\n")
    path = tmp_path_factory.mktemp("certificates") / "one.pem"
    path.write_text(first + end)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSL_CERT_FILE", str(path))
        read = RSABinding.import_private_key
        once = functools.cache(lambda text: read(json.loads(text)))
        patch.setattr(RSABinding, "import_private_key", staticmethod(lambda key: once(json.dumps(key))))
        yield


@pytest.fixture(scope="session")
def _sandbox_of_the_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    os.environ["NO_PROXY"] = "127.0.0.1,localhost"
    server = Sandbox(tmp_path_factory.mktemp("sandbox"))
    try:
        yield server
    finally:
        server.down()


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ledger of the day it was made; copying it is quicker than migrating."""
    os.environ.setdefault("ALS_LEDGER_FAST", "1")
    path = tmp_path_factory.mktemp("template") / "ledger.db"
    ledger = Ledger(f"sqlite:///{path}", "sandbox")
    with ledger.engine.connect() as connection:
        connection.exec_driver_sql("rollback")
        connection.exec_driver_sql("pragma wal_checkpoint(truncate)")
    ledger.close()
    return path


@pytest.fixture(scope="session")
def _slurm_sandbox_of_the_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    if (problem := slurm.missing()) is not None:
        pytest.skip(problem)
    os.environ["NO_PROXY"] = "127.0.0.1,localhost"
    server = Sandbox(tmp_path_factory.mktemp("slurm"), "--slurm")
    try:
        yield server
    finally:
        server.down()


@pytest.fixture
def slurm_sandbox(_slurm_sandbox_of_the_session: Sandbox) -> Iterator[Sandbox]:
    """A sandbox whose jobs go through a real Slurm of its own, back to its first day."""
    _slurm_sandbox_of_the_session.reset()
    yield _slurm_sandbox_of_the_session


# on a test that takes `sandbox`: it runs a second time with real Slurm
in_real_slurm_too = pytest.mark.parametrize("sandbox", ["processes", "slurm"], indirect=True)


@pytest.fixture
def sandbox(request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    """The session's sandbox, back to its first day. A test may kill it and start it again."""
    if getattr(request, "param", "processes") == "slurm":
        yield request.getfixturevalue("slurm_sandbox")
        return
    server: Sandbox = request.getfixturevalue("_sandbox_of_the_session")
    server.reset()
    yield server


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what runs with a real Slurm or PostgreSQL: `make test-services` runs it, `make test` the rest."""
    for item in items:
        parameters = getattr(getattr(item, "callspec", None), "params", {}).values()
        slurm_only = Path(str(item.path)).name.startswith("test_slurm") and item.path.parent.name == "sandbox"
        needed = {p for p in parameters if isinstance(p, str)} | set(getattr(item, "fixturenames", ()))
        if slurm_only or {"slurm", "slurm_sandbox", "postgresql"} & needed:
            item.add_marker("services")
