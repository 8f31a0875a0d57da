"""The facility file in use: services, places, pace. ALS_FACILITIES names it: one of those in this folder, or a path.

A facility file is YAML in which `${NAME}` is replaced by an environment variable and `${NAME:-default}` by the variable
or the default. It holds addresses and *names* of variables with secrets, never a secret. The file default.txt names the
one that is used when nobody says otherwise, so that no code has to.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from resources.alerts import Alerts
from resources.ledger.location import state_dir
from resources.once import Patience

HERE = Path(__file__).parent
VARIABLE = re.compile(r"\$\{([A-Z][A-Z0-9_]*)(?::-([^}]*))?\}")


class FacilityFileError(Exception):
    """The facility file, or a variable that it names, is missing or wrong. Says which and what to do."""


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class View(Part):
    """How the Globus service sees a place."""

    collection: str
    base: str = Field(default="/", pattern=r"^/", description="path on the collection; absolute")


class Place(Part):
    """Where copies live. It is asked only through a view that it has."""

    globus: View | None = None
    paths: dict[str, str] = Field(default_factory=dict, description="service -> path as its jobs see it")
    mount: str | None = Field(default=None, description="path on this machine")
    durable: bool = False


class Work(Part):
    """Where jobs at a compute facility keep their attempts and leave their results."""

    attempts: str
    results: str
    account: str | None = None


class Pace(Part):
    """How fast things go, in seconds: the only thing besides addresses in which facility files differ."""

    tick_s: float = Field(default=30, gt=0, description="interval of the sensors; Dagster ticks every 5 s at best")
    settle_s: float = 60
    companion_wait_s: float = 600
    grace_s: float = Field(default=25, description="how long an automatic run stays with its tasks without progress")
    linger_s: float = Field(default=10, description="how long it waits for more when all its scans are done")
    stay_s: float = Field(default=900, description="how long it stays at most")
    poll_s: float = 10
    lease_s: float = 90
    report_s: float = Field(default=120, description="after which an event that Dagster lacks is sent again")
    lookup_s: float = 180
    unknown_s: float = 7200
    pause_first_s: float = 30
    pause_most_s: float = 1800
    stall_s: float = Field(default=600, description="after which a transfer that only tries again is ended")
    retry_speed: float = Field(default=1, gt=0, description="retry waits are divided by it")
    day_s: float = Field(default=86400, gt=0, description="what a day of retention lasts")
    trash_s: float = Field(default=7 * 86400, ge=0, description="how long a removed file stays in the trash")
    look_s: float = Field(default=2 * 86400, gt=0, description="how long a look at tape, made by a job, counts")

    @property
    def patience(self) -> Patience:
        return Patience(self.lookup_s, self.unknown_s, self.pause_first_s, self.pause_most_s, self.stall_s)

    def span(self, name: str) -> timedelta:
        return timedelta(seconds=float(getattr(self, name)))


class FacilityFile(Part):
    name: str
    if_missing: str = Field(default="", description="what to do when a variable that the file names is not set")
    variables_in: str | None = Field(
        default=None, description="a JSON file below the state folder with the variables of the file; see `adopt`"
    )
    services: dict[str, dict[str, Any]]
    places: dict[str, dict[str, Place]] = Field(description="beamline -> place -> how to get at it")
    work: dict[str, dict[str, Work]] = Field(default_factory=dict, description="service -> beamline -> folders")
    pace: Pace = Field(default_factory=Pace)
    alerts: Alerts = Field(default_factory=Alerts)


@dataclass(frozen=True)
class Facilities:
    """The facilities in use. Its resources are made on first use and share their sessions."""

    file: FacilityFile

    @property
    def name(self) -> str:
        return self.file.name

    @property
    def pace(self) -> Pace:
        return self.file.pace

    def place(self, beamline: str, place: str) -> Place:
        try:
            return self.file.places[beamline][place]
        except KeyError:
            known = sorted(self.file.places.get(beamline, {}))
            raise FacilityFileError(
                f"the facility file {self.name!r} has no place {place!r} for beamline {beamline!r}; it has {known}"
            ) from None

    def work(self, service: str, beamline: str) -> Work:
        try:
            return self.file.work[service][beamline]
        except KeyError:
            raise FacilityFileError(
                f"the facility file {self.name!r} says nothing under work: {service}: {beamline}: "
                f"(attempts, results: folders that jobs can write)"
            ) from None

    def settings(self, service: str) -> dict[str, Any]:
        try:
            return dict(self.file.services[service])
        except KeyError:
            raise FacilityFileError(f"the facility file {self.name!r} has no service {service!r}") from None

    @cached_property
    def services(self) -> Mapping[str, Any]:
        """service name -> its resource, one for each entry under `services:`."""
        from resources.globus import GlobusTransfer
        from resources.scicat import SciCat
        from resources.sfapi import Superfacility

        kinds: dict[str, Any] = {"globus": GlobusTransfer, "sfapi": Superfacility, "scicat": SciCat}
        out: dict[str, Any] = {}
        for name, settings in self.file.services.items():
            kind = settings.get("kind")
            if kind not in kinds:
                raise FacilityFileError(f"service {name!r}: kind {kind!r} is not one of {sorted(kinds)}")
            given = {key: value for key, value in settings.items() if key != "kind"}
            known = set(kinds[kind].model_fields) - {"service"}
            unknown = sorted(set(given) - known)
            if unknown:
                raise FacilityFileError(f"services.{name}.{unknown[0]}: not known; a {kind} has {sorted(known)}")
            try:
                out[name] = kinds[kind](service=name, **given)
            except ValidationError as error:
                first = error.errors()[0]
                where = ".".join(["services", name, *(str(part) for part in first["loc"])])
                raise FacilityFileError(f"{where}: {first['msg']}") from None
        return out


def load(name: str | None = None, environment: Mapping[str, str] | None = None) -> Facilities:
    """The facility file `name`, or that of ALS_FACILITIES. Raises FacilityFileError in words that say what to set."""
    variables = os.environ if environment is None else environment
    path = _path(name, variables)
    document = _document(path)
    hint = document.get("if_missing") if isinstance(document, dict) else None
    filled = _filled(document, variables, path, f" {hint}" if hint else "")
    try:
        return Facilities(FacilityFile.model_validate(filled))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file as a whole"
        raise FacilityFileError(f"{path}: {where}: {first['msg']}") from None


def adopt() -> None:
    """Take over the variables that the facility file in use keeps in the state folder (`variables_in`).

    Nothing happens when one of the variables that the file names is set already: then somebody means other facilities.
    """
    try:
        path = _path(None, os.environ)
        document = _document(path)
    except FacilityFileError:
        return  # whoever needs the facilities is told
    kept = document.get("variables_in") if isinstance(document, dict) else None
    if not kept or any(found in os.environ for found, _ in VARIABLE.findall(path.read_text())):
        return
    try:
        variables = json.loads((state_dir() / str(kept)).read_text())
    except (OSError, ValueError):
        return
    for name, value in variables.items():
        os.environ.setdefault(name, value)


def _path(name: str | None, variables: Mapping[str, str]) -> Path:
    wanted = name or variables.get("ALS_FACILITIES") or (HERE / "default.txt").read_text().strip()
    path = Path(wanted) if "/" in wanted or wanted.endswith((".yaml", ".yml")) else HERE / f"{wanted}.yaml"
    if not path.is_file():
        shipped = sorted(p.stem for p in HERE.glob("*.yaml"))
        why = "Is a directory" if path.exists() else "No such file or directory"
        raise FacilityFileError(f"facilities {wanted!r}: {why}: {path}. Shipped are {shipped}.")
    return path


def _document(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise FacilityFileError(f"{path}: {getattr(error, 'strerror', None) or 'not UTF-8'}") from None
    except yaml.YAMLError as error:
        raise FacilityFileError(f"{path}: {error}") from None


def _filled(value: Any, variables: Mapping[str, str], path: Path, hint: str) -> Any:
    if isinstance(value, dict):
        return {key: _filled(part, variables, path, hint) for key, part in value.items()}
    if isinstance(value, list):
        return [_filled(part, variables, path, hint) for part in value]
    if not isinstance(value, str):
        return value

    def fill(match: re.Match[str]) -> str:
        found = variables.get(match[1]) or match[2]
        if found is None:
            raise FacilityFileError(f"{path} needs the environment variable {match[1]}, which is not set.{hint}")
        return found

    return VARIABLE.sub(fill, value)
