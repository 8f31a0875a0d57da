"""What a scan and its results look like in the catalogue: facts in, SciCat documents out, no I/O.

    raw_dataset(facts)                 the scan itself,        pid als/<beamline>/<hash>
    derived_dataset(facts, result)     what was made of it,    pid als/<beamline>/<hash>/<analysis>/<label>/r<revision>
    file_list(files)                   the files as acquired, for the entry's origdatablock
    attachment(caption, png, group)    a picture

The same facts always give the same documents, so that entering a scan again changes nothing. Conventions of ALS:
creationLocation /LBNL/ALS/<beamline>, keywords [technique, "ALS", beamline]. Metadata are flat {value, unit} entries,
since the catalogue cannot search nested ones; it adds SI values itself, so "0.8 keV" finds 850 eV. A number that is
not finite cannot be stored: its name is kept in the entry `not_finite`.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

Document = dict[str, Any]
STANDARD = "standard"  # the label of a result that has none
Q_ENTRIES = 64  # single q values that become metadata; mean, min and max are of all


@dataclass(frozen=True)
class FileFacts:
    """One file: path relative to the scan's source folder, size in bytes, mtime (aware), SHA-256 in hex or None."""

    path: str
    bytes: int
    mtime: datetime
    sha256: str | None = None


@dataclass(frozen=True)
class CopyFacts:
    """Where a copy is, in words for people ("nersc-cfs", "/global/cfs/…"), and when it was last proven."""

    place: str
    path: str
    verified_at: datetime | None = None
    pruned_at: datetime | None = None  # then it is not there any more


@dataclass(frozen=True)
class RawFacts:
    """A scan. Nobody's name is made up here: what is not known comes in as the configured placeholder.

    Attributes:
        beamline: its id, "bl7011". beamline_name: "7.0.1.1". facility_path: "/LBNL/ALS/7.0.1.1".
        key, short_hash: the scan's key, and the hash of it that names its tasks.
        proposal: None while it is not known.
        owner_group: who may read *and update*; the ingesting account must be in it.
        access_groups: who may read besides: the proposal, the beamline's staff.
        created: when the data were complete on disk, aware. started: when the acquisition began, if known.
        metadata: {name: {"value", "unit"} or a plain value}.
    """

    beamline: str
    beamline_name: str
    facility_path: str
    technique: str
    key: str
    short_hash: str
    principal_investigator: str
    owner: str
    contact_email: str
    owner_group: str
    source_folder: str
    created: datetime
    proposal: str | None = None
    access_groups: Sequence[str] = ()
    files: Sequence[FileFacts] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)
    copies: Sequence[CopyFacts] = ()
    started: datetime | None = None
    sample: str | None = None


@dataclass(frozen=True)
class ResultFacts:
    """What an analysis made of a scan.

    Attributes:
        analysis: "xpcs". label: "" for the standard one. revision: counts from 1.
        values: {name: one number per q}. units: {name: unit}; "1/angstrom" for q itself.
        q: the q of each entry of `values`.
        metadata: further numbers, {name: {"value", "unit"} or a plain value}; the qc among them.
        software: {"als-analysis": "0.1.0"}.
    """

    analysis: str
    label: str
    revision: int
    source_folder: str
    created: datetime
    parameters: Mapping[str, Any] = field(default_factory=dict)
    values: Mapping[str, Sequence[float | None]] = field(default_factory=dict)
    units: Mapping[str, str] = field(default_factory=dict)
    q: Sequence[float] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)
    software: Mapping[str, str] = field(default_factory=dict)
    files: Sequence[FileFacts] = ()


def raw_pid(beamline: str, short_hash: str) -> str:
    """The scan's pid; like all pids here of letters, digits and ._/- only."""
    return f"als/{safe(beamline)}/{safe(short_hash)}"


def derived_pid(beamline: str, short_hash: str, analysis: str, label: str, revision: int) -> str:
    """The pid of one revision of a result."""
    return f"{raw_pid(beamline, short_hash)}/{safe(analysis)}/{safe(label or STANDARD)}/r{revision}"


def safe(text: str) -> str:
    """`text` if a pid can hold it, else its readable part and a hash, so that two labels never share one pid."""
    if re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]*", text):
        return text
    readable = re.sub(r"[^A-Za-z0-9_-]+", "-", text).strip("-")[:40]
    return f"{readable}-{hashlib.sha256(text.encode()).hexdigest()[:8]}".lstrip("-")


def raw_dataset(facts: RawFacts) -> Document:
    """The entry of a scan. The sizes are left out: the catalogue adds them up from the file list."""
    metadata: dict[str, Any] = {"scan": facts.key, **facts.metadata}
    for copy in facts.copies:
        if copy.pruned_at is not None:
            metadata[f"copy_{copy.place}_pruned_at"] = utc(copy.pruned_at)
            continue
        metadata[f"copy_{copy.place}"] = copy.path
        if copy.verified_at is not None:
            metadata[f"copy_{copy.place}_verified_at"] = utc(copy.verified_at)
    return {
        "pid": raw_pid(facts.beamline, facts.short_hash),
        "type": "raw",
        "datasetName": facts.key,
        "description": f"{facts.technique} scan {facts.key} of ALS beamline {facts.beamline_name}",
        **_common(facts, facts.created, facts.source_folder),
        "principalInvestigator": facts.principal_investigator,
        "creationLocation": facts.facility_path,
        "scientificMetadata": entries(metadata),
        **({"startTime": utc(facts.started)} if facts.started else {}),
        **({"sampleId": facts.sample} if facts.sample else {}),
    }


def derived_dataset(facts: RawFacts, result: ResultFacts) -> Document:
    """The entry of a result: it names its input, its parameters and software, and has its numbers as metadata."""
    label = result.label or STANDARD
    return {
        "pid": derived_pid(facts.beamline, facts.short_hash, result.analysis, result.label, result.revision),
        "type": "derived",
        "datasetName": f"{facts.key} {result.analysis} {label} r{result.revision}",
        "description": f"{result.analysis.upper()} result ({label}, revision {result.revision}) of scan {facts.key}",
        **_common(facts, result.created, result.source_folder),
        "investigator": facts.principal_investigator,
        "inputDatasets": [raw_pid(facts.beamline, facts.short_hash)],
        "usedSoftware": [f"{name}@{version}" for name, version in sorted(result.software.items())],
        "jobParameters": plain(result.parameters),
        "scientificMetadata": entries(
            {"scan": facts.key, "label": label, "revision": result.revision, **_per_q(result), **result.metadata}
        ),
    }


def _common(facts: RawFacts, created: datetime, folder: str) -> Document:
    return {
        "ownerGroup": facts.owner_group,
        "accessGroups": [group for group in dict.fromkeys(facts.access_groups) if group != facts.owner_group],
        "owner": facts.owner,
        "contactEmail": facts.contact_email,
        "creationTime": utc(created),
        "sourceFolder": folder,
        "keywords": [facts.technique, "ALS", facts.beamline_name],
        "isPublished": False,
        **({"proposalId": facts.proposal} if facts.proposal else {}),
    }


def _per_q(result: ResultFacts) -> Document:
    """{"contrast_mean", "contrast_min", "contrast_max", "contrast_q001", …} and the q of each: "q_q001"."""
    out: Document = {}
    columns = {**({"q": result.q} if len(result.q) else {}), **result.values}
    units = {"q": "1/angstrom", **result.units}
    for name, column in columns.items():
        unit = units.get(name, "")
        finite = [float(x) for x in column if x is not None and math.isfinite(x)]
        if finite:
            for what, number in (("mean", math.fsum(finite) / len(finite)), ("min", min(finite)), ("max", max(finite))):
                out[f"{name}_{what}"] = {"value": number, "unit": unit}
        for i, x in enumerate(column[:Q_ENTRIES], start=1):
            out[f"{name}_q{i:03d}"] = {"value": math.nan if x is None else float(x), "unit": unit}
    return out


def file_list(files: Sequence[FileFacts]) -> list[Document]:
    """The files as the catalogue lists them, in the order of their paths."""
    return [
        {"path": f.path, "size": f.bytes, "time": utc(f.mtime), **({"chk": f.sha256} if f.sha256 else {})}
        for f in sorted(files, key=lambda f: f.path)
    ]


def origdatablock(files: Sequence[FileFacts]) -> Document:
    """The body that lists these files."""
    block: Document = {"size": sum(f.bytes for f in files), "dataFileList": file_list(files)}
    return {**block, "chkAlg": "sha256"} if any(f.sha256 for f in files) else block


def attachment(caption: str, png: bytes, owner_group: str) -> Document:
    """A picture; the caption tells it from the others of its entry."""
    return {
        "ownerGroup": owner_group,
        "caption": caption,
        "thumbnail": "data:image/png;base64," + base64.b64encode(png).decode("ascii"),
    }


def entries(metadata: Mapping[str, Any]) -> Document:
    """Flat {name: {"value", "unit"}}; names without the dots and dollars that the catalogue's search takes apart."""
    out: Document = {}
    not_finite = []
    for name, given in metadata.items():
        has_unit = isinstance(given, Mapping) and "value" in given
        value, unit = (given["value"], given.get("unit") or "") if has_unit else (given, "")
        value = plain(value)
        if value is None:
            if given is not None:
                not_finite.append(name)
            continue
        if isinstance(value, dict | list):
            text = json.dumps(value)
            value = text if len(text) <= 1000 else f"{len(value)} values"
        out[re.sub(r"[.$]", "_", name)] = {"value": value, "unit": str(unit)}
    if not_finite:
        out["not_finite"] = {"value": ", ".join(sorted(not_finite)), "unit": ""}
    return out


def plain(value: Any) -> Any:
    """JSON of it: numpy scalars and arrays become Python's, times text, a number that is not finite None."""
    if isinstance(value, bool | str) or value is None:
        return value
    if isinstance(value, int | float):
        return value if math.isfinite(value) else None
    if isinstance(value, datetime):
        return utc(value)
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, Sequence | set | frozenset):
        return [plain(v) for v in value]
    return str(value)


def utc(moment: datetime) -> str:
    """ISO 8601 in UTC with Z, to the millisecond. Local time without a zone is refused: it would be a guess."""
    if moment.tzinfo is None:
        raise ValueError(f"{moment} has no time zone")
    moment = moment.astimezone(UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"
