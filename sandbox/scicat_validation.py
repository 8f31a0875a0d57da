"""What the catalogue accepts, and the exact words in which it refuses the rest.

Datasets are refused with a list of class-validator errors as JSON text in `message` (`dataset_errors`); everything
else with a plain list of sentences (`sentences`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

Check = tuple[str, str, Callable[[Any], bool]]  # (name of the constraint, its sentence, is the value right?)
Table = dict[str, tuple[bool, list[Check]]]  # property: (required, checks), in the order of the answers

ISO = re.compile(r"\d{4}-\d{2}-\d{2}([T ]\d{2}:\d{2}(:\d{2}([.,]\d+)?)?(Z|[+-]\d{2}:?\d{2})?)?$")
EMAIL = re.compile(r"[^@\s;]+@[^@\s;]+\.[^@\s;.]{2,}$")


def _string(name: str) -> list[Check]:
    return [("isString", f"{name} must be a string", lambda v: isinstance(v, str))]


def _strings(name: str) -> list[Check]:
    def right(v: Any) -> bool:
        return isinstance(v, list) and all(isinstance(x, str) for x in v)

    return [("isString", f"each value in {name} must be a string", right)]


def _integer(name: str) -> list[Check]:
    return [("isInt", f"{name} must be an integer number", _is_integer)]


def _date(name: str) -> list[Check]:
    return [("isDateString", f"{name} must be a valid ISO 8601 date string", is_date)]


def _boolean(name: str) -> list[Check]:
    return [("isBoolean", f"{name} must be a boolean value", lambda v: isinstance(v, bool))]


def _array(name: str) -> list[Check]:
    return [("isArray", f"{name} must be an array", lambda v: isinstance(v, list))]


def _is_integer(v: Any) -> bool:
    return (isinstance(v, int) and not isinstance(v, bool)) or (isinstance(v, float) and v.is_integer())


def is_date(v: Any) -> bool:
    return isinstance(v, str) and ISO.match(v) is not None


def _emails(v: Any) -> bool:
    return isinstance(v, str) and bool(v) and all(EMAIL.match(part.strip()) for part in v.split(";"))


ANY: list[Check] = []
OWNABLE: Table = {
    "ownerGroup": (True, _string("ownerGroup")),
    "accessGroups": (False, _strings("accessGroups")),
    "instrumentGroup": (False, _string("instrumentGroup")),
}
DATASET: Table = {
    **OWNABLE,
    "owner": (True, _string("owner")),
    "ownerEmail": (False, [("isEmail", "ownerEmail must be an email", _emails)]),
    "orcidOfOwner": (False, _string("orcidOfOwner")),
    "contactEmail": (
        True,
        [("customEmailList", "Expected an email or a list of semicolon separated emails, got {}", _emails)],
    ),
    "sourceFolder": (
        True,
        [("isNotEmpty", "sourceFolder should not be empty", lambda v: v not in (None, "")), *_string("sourceFolder")],
    ),
    "sourceFolderHost": (False, _string("sourceFolderHost")),
    "size": (False, _integer("size")),
    "packedSize": (False, _integer("packedSize")),
    "numberOfFiles": (False, _integer("numberOfFiles")),
    "numberOfFilesArchived": (False, _integer("numberOfFilesArchived")),
    "creationTime": (True, _date("creationTime")),
    "validationStatus": (False, _string("validationStatus")),
    "keywords": (False, _strings("keywords")),
    "description": (False, _string("description")),
    "datasetName": (False, _string("datasetName")),
    "classification": (False, _string("classification")),
    "license": (False, _string("license")),
    "isPublished": (False, _boolean("isPublished")),
    "techniques": (False, _array("techniques")),
    "sharedWith": (False, _strings("sharedWith")),
    "relationships": (False, _array("relationships")),
    "datasetlifecycle": (False, ANY),
    "scientificMetadata": (False, ANY),
    "scientificMetadataSchema": (False, _string("scientificMetadataSchema")),
    "comment": (False, _string("comment")),
    "dataQualityMetrics": (False, ANY),
    "proposalId": (False, _string("proposalId")),
    "runNumber": (False, _string("runNumber")),
    "startTime": (False, _date("startTime")),
    "endTime": (False, _date("endTime")),
}
RAW: Table = {
    **DATASET,
    "principalInvestigator": (True, _string("principalInvestigator")),
    "creationLocation": (True, _string("creationLocation")),
    "dataFormat": (False, _string("dataFormat")),
    "sampleId": (False, _string("sampleId")),
    "instrumentId": (False, _string("instrumentId")),
}
DERIVED: Table = {
    **DATASET,
    "investigator": (True, _string("investigator")),
    "inputDatasets": (True, _strings("inputDatasets")),
    "usedSoftware": (True, _strings("usedSoftware")),
    "jobParameters": (False, ANY),
    "jobLogData": (False, _string("jobLogData")),
}
OTHER: Table = {  # of a type that does not exist; a recorded oddity
    **DATASET,
    "datasetName": (True, _string("datasetName")),
    "creationLocation": (False, _string("creationLocation")),
    "principalInvestigators": (False, _strings("principalInvestigators")),
}
NEW: Table = {"pid": (False, _string("pid")), "type": (True, ANY)}
LIFECYCLE: Table = {
    "archivable": (False, _boolean("archivable")),
    "retrievable": (False, _boolean("retrievable")),
    "publishable": (False, _boolean("publishable")),
    "dateOfDiskPurging": (False, _date("dateOfDiskPurging")),
    "archiveRetentionTime": (False, _date("archiveRetentionTime")),
    "dateOfPublishing": (False, _date("dateOfPublishing")),
    "publishedOn": (False, _date("publishedOn")),
    "isOnCentralDisk": (False, _boolean("isOnCentralDisk")),
    "archiveStatusMessage": (False, _string("archiveStatusMessage")),
    "retrieveStatusMessage": (False, _string("retrieveStatusMessage")),
    "archiveReturnMessage": (False, ANY),
    "retrieveReturnMessage": (False, ANY),
    "exportedTo": (False, _string("exportedTo")),
    "retrieveIntegrityCheck": (False, _boolean("retrieveIntegrityCheck")),
    "storageLocation": (False, _string("storageLocation")),
}
FILE: Table = {
    "path": (True, _string("path")),
    "size": (True, _integer("size")),
    "time": (True, _date("time")),
    "chk": (False, _string("chk")),
    "uid": (False, _string("uid")),
    "gid": (False, _string("gid")),
    "perm": (False, _string("perm")),
    "type": (False, _string("type")),
}
FILES: list[Check] = [
    ("isArray", "dataFileList must be an array", lambda v: isinstance(v, list)),
    ("arrayNotEmpty", "dataFileList should not be empty", lambda v: not isinstance(v, list) or bool(v)),
]
ORIGDATABLOCK: Table = {
    "size": (True, _integer("size")),
    "chkAlg": (False, _string("chkAlg")),
    "dataFileList": (True, FILES),
}
ORIGDATABLOCK_AT_ROOT: Table = {
    "datasetId": (True, _string("datasetId")),
    "ownerGroup": (False, _string("ownerGroup")),
    "accessGroups": (False, _strings("accessGroups")),
    "instrumentGroup": (False, _string("instrumentGroup")),
    **ORIGDATABLOCK,
}
DATABLOCK: Table = {
    "archiveId": (True, _string("archiveId")),
    "size": (True, _integer("size")),
    "packedSize": (True, _integer("packedSize")),
    "chkAlg": (False, _string("chkAlg")),
    "version": (True, _string("version")),
    "dataFileList": (True, FILES),
}
ATTACHMENT: Table = {
    **OWNABLE,
    "thumbnail": (False, _string("thumbnail")),
    "caption": (True, _string("caption")),
    "isPublished": (False, _boolean("isPublished")),
}
NEW_ATTACHMENT: Table = {
    **ATTACHMENT,
    "id": (False, _string("id")),
    "datasetId": (False, _string("datasetId")),
    "sampleId": (False, _string("sampleId")),
    "proposalId": (False, _string("proposalId")),
}
SAMPLE: Table = {
    **OWNABLE,
    "sampleId": (False, _string("sampleId")),
    "owner": (False, _string("owner")),
    "description": (False, _string("description")),
    "sampleCharacteristics": (False, ANY),
    "isPublished": (False, _boolean("isPublished")),
    "type": (False, _string("type")),
}
PROPOSAL: Table = {
    **OWNABLE,
    "proposalId": (True, _string("proposalId")),
    "email": (True, [("isEmail", "email must be an email", _emails)]),
    "title": (True, _string("title")),
    **{
        name: (False, _string(name))
        for name in ("pi_email", "pi_firstname", "pi_lastname", "firstname", "lastname", "abstract", "type")
    },
    "startTime": (False, _date("startTime")),
    "endTime": (False, _date("endTime")),
    "metadata": (False, ANY),
}
INSTRUMENT: Table = {
    "uniqueName": (True, _string("uniqueName")),
    "name": (True, _string("name")),
    "pid": (False, _string("pid")),
    "customMetadata": (False, ANY),
}


def rules_of_dataset(kind: Any, new: bool) -> Table:
    own = {"raw": RAW, "derived": DERIVED}.get(kind, OTHER)
    return {**own, **NEW} if new else own


def dataset_errors(body: Mapping[str, Any], rules: Table, partial: bool = False) -> list[dict[str, Any]]:
    """The errors that class-validator finds, unknown properties first; empty when the dataset is accepted."""
    errors: list[dict[str, Any]] = [
        {"property": key, "constraints": {"whitelistValidation": f"property {key} should not exist"}}
        for key in body
        if key not in rules
    ]
    for name, wrong in _wrong(body, rules, partial):
        errors.append({"property": name, "children": [], "constraints": wrong})
    return errors


def sentences(body: Mapping[str, Any], rules: Table, partial: bool = False) -> list[str]:
    """What is wrong with a body that is not a dataset, one sentence each."""
    out = [f"property {key} should not exist" for key in body if key not in rules]
    for _, wrong in _wrong(body, rules, partial):
        out += wrong.values()
    files = body.get("dataFileList")
    if "dataFileList" in rules and isinstance(files, list):
        for i, file in enumerate(files):
            if isinstance(file, dict):
                out += [f"dataFileList.{i}.{words}" for words in _file_sentences(file)]
            else:
                out.append("each value in nested property dataFileList must be either object or array")
    return out


def _file_sentences(file: Mapping[str, Any]) -> list[str]:
    unknown = [f"property {key} should not exist" for key in file if key not in FILE]
    return unknown + [words for _, wrong in _wrong(file, FILE, False) for words in wrong.values()]


def _wrong(body: Mapping[str, Any], rules: Table, partial: bool) -> list[tuple[str, dict[str, str]]]:
    out = []
    for name, (required, checks) in rules.items():
        value = body.get(name)
        if value is None and (partial or not required):
            continue
        shown = "undefined" if name not in body else "null" if value is None else value
        wrong = {kind: words.format(shown) for kind, words, right in checks if not right(value)}
        if wrong:
            out.append((name, wrong))
    return out
