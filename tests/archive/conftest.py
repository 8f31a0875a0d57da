"""als-archive as a job runs it: a process of its own, with the sandbox's hsi and htar on its PATH."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sandbox import hpss
from sandbox.box import Box
from tests.conftest import kept_open

ARCHIVE = "/home/a/als/7.0.1.1/2026/scan-0001.a1.tar"


@dataclass
class Ended:
    """How a run ended: exit code, its last line on stderr, and what it printed."""

    code: int
    line: str
    out: str


class Site:
    """A transfer node: `disk` holds sources, `out` results, the tape is behind hsi and htar."""

    def __init__(self, tmp_path: Path) -> None:
        self.box = Box(tmp_path / "box")
        self._open = kept_open(self.box)
        hpss.install(self.box)
        self.disk, self.out, self.back = tmp_path / "disk", tmp_path / "out", tmp_path / "back"
        self.disk.mkdir()
        self.archive = ARCHIVE

    def write(self, name: str, content: bytes | None = None) -> dict[str, Any]:
        """A source file; returns its entry for a request, without a SHA-256."""
        path = self.disk / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.urandom(3000) if content is None else content)
        return {"path": str(path), "name": name, "bytes": path.stat().st_size, "sha256": None}

    def store_request(self, *files: dict[str, Any], **more: Any) -> dict[str, Any]:
        document = {"schema": "als-archive/1", "archive": self.archive, "files": list(files), "out": str(self.out)}
        return {**document, **more}

    def command(self, verb: str, *words: str) -> list[str]:
        return [sys.executable, "-m", "als_analysis.archive", verb, *words]

    def environment(self) -> dict[str, str]:
        return {**os.environ, "PATH": f"{self.box.dir}/nersc/bin:/usr/bin:/bin"}

    def run(self, verb: str, request: dict[str, Any], *words: str) -> Ended:
        done = subprocess.run(
            self.command(verb, *words), input=json.dumps(request), env=self.environment(), capture_output=True,
            text=True, timeout=60, cwd=self.disk.parent,
        )  # fmt: skip
        lines = done.stderr.splitlines()
        assert "Traceback" not in done.stderr, done.stderr
        return Ended(done.returncode, lines[-1] if lines else "", done.stdout)

    def store(self, *files: dict[str, Any], **more: Any) -> Ended:
        return self.run("store", self.store_request(*files, **more))

    def verify(self, level: str = "crc", **more: Any) -> Ended:
        request = {"schema": "als-archive/1", "archive": self.archive, "out": str(self.out), **more}
        return self.run("verify", request, "--level", level)

    def restore(self, *names: str, **more: Any) -> Ended:
        request = {"schema": "als-archive/1", "archive": self.archive, "out": str(self.out)}
        return self.run("restore", {**request, "destination": str(self.back), "names": list(names) or None, **more})

    def document(self, name: str = "archive") -> dict[str, Any]:
        document: dict[str, Any] = json.loads((self.out / f"{name}.json").read_text())
        return document

    def on_tape(self, path: str | None = None) -> Path:
        return hpss.hpss_path(self.box, path or self.archive)

    def tape(self) -> dict[str, bytes]:
        """All that is on tape: {path: content}."""
        root = self.on_tape("/")
        return {f"/{p.relative_to(root)}": p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}

    def fault(self, kind: str, **more: Any) -> None:
        self.box.add_fault({"service": "hpss", "kind": kind, **more})


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    yield made
    made._open.close()
