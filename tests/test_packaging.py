"""What is delivered: wheels with the data files that the code reads, a lock file that pins all that is asked for."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = {".": ["als", "als_assets", "sensors", "resources", "beamlines", "sandbox"], "analysis": ["als_analysis"]}


@pytest.fixture(scope="module", params=list(PACKAGES))
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, zipfile.ZipFile]:
    """(folder of the distribution, its wheel), built as pip does it, without a network."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    ended = subprocess.run(
        [*command, "-w", str(folder), str(ROOT / request.param)], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    (wheel,) = folder.glob("*.whl")
    return request.param, zipfile.ZipFile(wheel)


def tracked(folder: str) -> set[str]:
    """The files below the packages of a distribution that git tracks, relative to its folder."""
    command = ["git", "ls-files", "--", *PACKAGES[folder]]
    ended = subprocess.run(command, cwd=ROOT / folder, capture_output=True, text=True, check=False)
    if ended.returncode:
        pytest.skip("not a git checkout")
    return {line for line in ended.stdout.splitlines() if (ROOT / folder / line).exists()}


def test_a_wheel_holds_every_file_of_its_packages(built: tuple[str, zipfile.ZipFile]) -> None:
    folder, wheel = built
    assert tracked(folder) - set(wheel.namelist()) == set()


def test_a_wheel_holds_the_files_that_are_data(built: tuple[str, zipfile.ZipFile]) -> None:
    folder, wheel = built
    wanted = {
        ".": {
            "beamlines/bl7011/defs.yaml",
            "resources/facilities/sandbox.yaml",
            "resources/ledger/migrations/versions/0001_first.py",
            "resources/ledger/migrations/script.py.mako",
            "sandbox/scicat_accounts.json",
        },
        "analysis": {"als_analysis/readers/layouts/als_7011.json"},
    }[folder]
    assert wanted - set(wheel.namelist()) == set()


def test_a_wheel_holds_no_test_and_nothing_of_a_checkout(built: tuple[str, zipfile.ZipFile]) -> None:
    folder, wheel = built
    outside = [n for n in wheel.namelist() if n.partition("/")[0] not in PACKAGES[folder] and ".dist-info/" not in n]
    assert outside == []
    assert not [n for n in wheel.namelist() if n.endswith(".pyc") or "/tests/" in n]


def test_a_wheel_brings_its_commands_and_its_licence(built: tuple[str, zipfile.ZipFile]) -> None:
    folder, wheel = built
    names = {n.rpartition("/")[2]: n for n in wheel.namelist() if ".dist-info/" in n}
    commands = wheel.read(names["entry_points.txt"]).decode()
    wanted = tomllib.loads((ROOT / folder / "pyproject.toml").read_text())["project"]["scripts"]
    assert dict(re.findall(r"^(als[\w-]*) = (.+)$", commands, re.MULTILINE)) == wanted
    assert "License-Expression: BSD-3-Clause" in wheel.read(names["METADATA"]).decode()
    assert "LICENSE" in names


# the lock file


def entries() -> list[str]:
    """The entries of requirements.lock, each in one line."""
    lines = (ROOT / "requirements.lock").read_text().replace("\\\n", " ").splitlines()
    return [line for line in lines if line.strip() and not line.startswith("#")]


def pinned() -> dict[str, str]:
    """name -> version of every entry that applies to this Python on this machine."""
    found = [Requirement(line.partition(" --hash")[0]) for line in entries()]
    here = [r for r in found if r.marker is None or r.marker.evaluate()]
    return {_normal(r.name): str(r.specifier).removeprefix("==") for r in here}


def asked_for() -> list[Requirement]:
    found: list[str] = []
    for path in (ROOT / "pyproject.toml", ROOT / "analysis/pyproject.toml"):
        document: dict[str, Any] = tomllib.loads(path.read_text())
        found += document["build-system"]["requires"] + document["project"]["dependencies"]
        for group in (document["project"].get("optional-dependencies", {}), document.get("dependency-groups", {})):
            found += [one for group_of in group.values() for one in group_of]
    return [r for r in map(Requirement, found) if not r.name.startswith("als-")]


def test_the_lock_file_names_no_package_index_and_no_address() -> None:
    text = (ROOT / "requirements.lock").read_text()
    assert not re.search(r"https?:|--(extra-)?index|--find-links|--trusted|file:|@ ", text)


def test_everything_in_the_lock_file_is_one_version_with_hashes() -> None:
    loose = [line for line in entries() if "==" not in line.split(";")[0] or "--hash=sha256:" not in line]
    assert len(entries()) > 50 and loose == []


def test_everything_that_the_projects_ask_for_is_pinned_to_a_version_that_they_allow() -> None:
    versions = pinned()
    wrong = [f"{r} is {versions.get(_normal(r.name), 'missing')}" for r in asked_for()
             if not r.specifier.contains(versions.get(_normal(r.name), "0"), prereleases=True)
             or _normal(r.name) not in versions]  # fmt: skip
    assert wrong == []


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_what_is_installed_is_what_is_pinned() -> None:
    from importlib.metadata import distributions

    versions = pinned()
    installed = {_normal(d.metadata["Name"]): d.version for d in distributions()}
    differ = {n: (v, versions[n]) for n, v in installed.items() if n in versions and v != versions[n]}
    assert differ == {}
