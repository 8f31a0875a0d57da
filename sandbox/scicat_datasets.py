"""Datasets of the catalogue with their life cycle, file lists and archive packages.

Every method is one route's work: it gets the account, what the path names and the body, and returns what the real
backend answered when it was recorded. Oddities are kept: anybody may add a file list; a PATCH with `datasetlifecycle`
resets all that it does not name.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from sandbox import scicat_query as query
from sandbox import scicat_validation as rules
from sandbox.box import Box, Documents
from sandbox.scicat_units import with_si

Doc = dict[str, Any]
PID_PREFIX = "als-test/"
SINGLES = {"proposalId": "proposalIds", "sampleId": "sampleIds", "instrumentId": "instrumentIds"}
DATES = ("creationTime", "startTime", "endTime")


class HttpError(Exception):
    def __init__(self, status: int, body: Any) -> None:
        super().__init__(f"HTTP {status}")
        self.status, self.body = status, body


def nest(status: int, message: Any, error: str | None = None) -> HttpError:
    """An error in the shape that NestJS gives it."""
    named = error or {
        400: "Bad Request",
        403: "Forbidden",
        404: "Not Found",
        409: "Conflict",
        412: "Precondition Failed",
    }.get(status)
    return HttpError(status, {"message": message, **({"error": named} if named else {}), "statusCode": status})


FORBIDDEN = nest(403, "Forbidden resource")
NO_ACCESS = nest(403, "Unauthorized access")


class Account:
    """Who asks. An unknown, expired or junk token is nobody, never an error."""

    def __init__(self, username: str = "", email: str = "", groups: tuple[str, ...] = ()) -> None:
        self.username, self.email, self.groups = username, email, groups

    @property
    def admin(self) -> bool:
        return "admin" in self.groups

    def owns(self, doc: Mapping[str, Any]) -> bool:
        return self.admin or doc.get("ownerGroup") in self.groups

    def reads(self, doc: Mapping[str, Any]) -> bool:
        shared = self.email and self.email in doc.get("sharedWith", ())
        return bool(
            self.owns(doc) or set(doc.get("accessGroups", ())) & set(self.groups) or doc.get("isPublished") or shared
        )


NOBODY = Account()


def now() -> str:
    return stamp(datetime.now(UTC))


def stamp(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"


def utc(text: str) -> str:
    moment = datetime.fromisoformat(text)
    return stamp(moment if moment.tzinfo else moment.replace(tzinfo=UTC))


def object_id() -> str:
    return uuid.uuid4().hex[:24]


def lifecycle(given: Mapping[str, Any] | None = None) -> Doc:
    """A new life cycle: the defaults, and those of the given fields that exist."""
    today = datetime.now(UTC)
    known = {k: v for k, v in (given or {}).items() if k in rules.LIFECYCLE}
    return {
        "archivable": True,
        "retrievable": False,
        "publishable": False,
        "dateOfDiskPurging": stamp(today + timedelta(days=365)),
        "archiveRetentionTime": stamp(today + timedelta(days=3653)),
        "dateOfPublishing": stamp(today + timedelta(days=1096)),
        "publishedOn": stamp(today),
        "isOnCentralDisk": True,
        "archiveStatusMessage": "datasetCreated",
        "retrieveStatusMessage": "",
        "retrieveIntegrityCheck": False,
        **_with_utc(known, rules.LIFECYCLE),
        "_id": object_id(),
    }


def _with_utc(fields: Mapping[str, Any], table: rules.Table) -> Doc:
    dates = {k for k, (_, checks) in table.items() if checks and checks[0][0] == "isDateString"}
    return {k: utc(v) if k in dates and isinstance(v, str) else v for k, v in fields.items()}


def stored(body: Mapping[str, Any]) -> Doc:
    """The fields of a request as they are kept."""
    doc = _with_utc(body, rules.DATASET)
    if "scientificMetadata" in doc:
        doc["scientificMetadata"] = with_si(doc["scientificMetadata"]) or {}
    if "sourceFolder" in doc:
        doc["sourceFolder"] = doc["sourceFolder"].rstrip("/") or "/"
    for name in ("principalInvestigator", "investigator"):
        if name in doc:
            doc["principalInvestigators"] = [doc.pop(name)]
    for single, plural in SINGLES.items():
        if single in doc:
            doc[plural] = [doc.pop(single)]
    for name in ("techniques", "relationships"):
        if name in doc:
            doc[name] = [{**entry, "_id": object_id()} for entry in doc[name]]
    if "datasetlifecycle" in doc:
        doc["datasetlifecycle"] = lifecycle(doc["datasetlifecycle"])
    return doc


def view(doc: Doc, created: bool = False) -> Doc:
    """A dataset as version 3 of the interface shows it; the answer to its creation leaves out what is empty."""
    out = dict(doc)
    if doc.get("principalInvestigators"):
        out["principalInvestigator"] = doc["principalInvestigators"][0]
    for single, plural in SINGLES.items():
        values = doc.get(plural) or []
        if values and not (created and values[0] is None):
            out[single] = values[0]
    return out


class Datasets:
    def __init__(self, box: Box) -> None:
        self.box = box

    # reading

    def visible(self, account: Account) -> list[Doc]:
        return [view(doc) for doc in self.box.all("scicat_dataset") if account.reads(doc)]

    def find(self, pid: str, account: Account, docs: Documents | Box | None = None) -> Doc:
        doc = (docs or self.box).get("scicat_dataset", pid)
        if doc is None:
            raise nest(404, f"dataset: {pid} not found")
        if not account.reads(doc):
            raise NO_ACCESS
        return doc

    def get(self, account: Account, pid: str) -> Doc:
        return {**view(self.find(pid, account)), "history": []}

    def list(self, account: Account, filters: Mapping[str, Any]) -> list[Doc]:
        found = query.page(query.where(self.visible(account), filters.get("where") or {}), filters.get("limits"))
        found = [self._include(doc, filters.get("include") or ()) for doc in found]
        wanted = filters.get("fields")
        if not wanted:
            return found
        names = {"_id", *(wanted if isinstance(wanted, list) else [k for k, on in wanted.items() if on])}
        return [{k: v for k, v in doc.items() if k in names} for doc in found]

    def _include(self, doc: Doc, relations: Any) -> Doc:
        for relation in relations:
            name = relation.get("relation") if isinstance(relation, dict) else relation
            if name in ("attachments", "origdatablocks", "datablocks"):
                doc = {**doc, name: self.held(self.box, name, doc["pid"])}
        return doc

    # changing

    def check_new(self, account: Account, body: Mapping[str, Any]) -> list[Doc]:
        if account is NOBODY:
            raise FORBIDDEN
        return rules.dataset_errors(body, rules.rules_of_dataset(body.get("type"), new=True))

    def create(self, account: Account, body: Doc) -> Doc:
        errors = self.check_new(account, body)
        if errors:
            raise HttpError(400, {"status": 400, "message": _json(errors)})
        privileged = account.admin or "ingestor" in account.groups
        if not privileged and (body.get("pid") or not account.owns(body)):
            raise nest(403, "Unauthorized to create this dataset")
        pid = body.get("pid") or PID_PREFIX + str(uuid.uuid4())
        doc = {
            "accessGroups": [],
            "size": 0,
            "packedSize": 0,
            "numberOfFiles": 0,
            "numberOfFilesArchived": 0,
            "keywords": [],
            "datasetName": "/".join(body["sourceFolder"].rstrip("/").split("/")[-2:]),
            "classification": "IN=medium,AV=low,CO=low",
            "isPublished": False,
            "techniques": [],
            "sharedWith": [],
            "relationships": [],
            "scientificMetadata": {},
            "version": "3",
            "inputDatasets": [],
            "usedSoftware": [],
            "principalInvestigators": [],
            "proposalIds": [None],
            "sampleIds": [None] if body["type"] == "raw" else [],
            "instrumentIds": [None] if body["type"] == "raw" else [],
            "datasetlifecycle": lifecycle(),
            **stored(body),
            "pid": pid,
            "createdBy": account.username,
            "updatedBy": account.username,
            "createdAt": now(),
            "updatedAt": now(),
            "_id": str(uuid.uuid4()),
            "__v": 0,
        }
        with self.box.transaction() as docs:
            if docs.get("scicat_dataset", pid):
                raise nest(409, f"A dataset with pid {pid} already exists!")
            docs.put("scicat_dataset", pid, doc)
        return view(doc, created=True)

    def _change(self, pid: str, account: Account, apply: Callable[[Doc], Doc], missing: HttpError) -> Doc:
        if account is NOBODY:
            raise FORBIDDEN
        with self.box.transaction() as docs:
            doc = docs.get("scicat_dataset", pid)
            if doc is None:
                raise missing
            doc = {**apply(doc), "updatedBy": account.username, "updatedAt": now()}
            docs.put("scicat_dataset", pid, doc)
        return doc

    def patch(self, account: Account, pid: str, body: Doc, unmodified_since: datetime | None = None) -> Doc:
        def apply(doc: Doc) -> Doc:
            errors = rules.dataset_errors(body, rules.rules_of_dataset(doc["type"], new=False), partial=True)
            if errors:
                raise HttpError(400, {"status": 400, "message": _json(errors)})
            if not account.owns(doc):
                raise nest(403, "Unauthorized to update this dataset")
            if unmodified_since and datetime.fromisoformat(doc["updatedAt"]) > unmodified_since:
                raise nest(412, "Resource has been modified on server")
            return {**doc, **stored(body)}

        return view(self._change(pid, account, apply, HttpError(404, {"message": "Not Found", "statusCode": 404})))

    def get_lifecycle(self, account: Account, pid: str) -> Doc:
        found: Doc = self.find(pid, account)["datasetlifecycle"]
        return found

    def patch_lifecycle(self, account: Account, pid: str, body: Doc | None) -> Doc:
        if account is NOBODY:
            raise FORBIDDEN
        wrong = rules.sentences(body or {}, rules.LIFECYCLE, partial=True)
        if wrong:
            raise nest(400, wrong)

        def apply(doc: Doc) -> Doc:
            if not body:
                raise nest(400, "dataset lifecycle DTO must not be empty")
            if not account.owns(doc) and "archivemanager" not in account.groups:
                raise nest(403, "Unauthorized to update this dataset")
            return {**doc, "datasetlifecycle": {**doc["datasetlifecycle"], **_with_utc(body, rules.LIFECYCLE)}}

        doc = self._change(pid, account, apply, nest(404, f"dataset with pid {pid} not found"))
        found: Doc = doc["datasetlifecycle"]
        return found

    def delete(self, account: Account, pid: str) -> Doc:
        if "archivemanager" not in account.groups:
            raise FORBIDDEN
        with self.box.transaction() as docs:
            doc = docs.get("scicat_dataset", pid)
            if doc is None:
                raise HttpError(404, {"message": "Not Found", "statusCode": 404})
            docs.delete("scicat_dataset", pid)
        return {**doc, "id": pid}

    # file lists and archive packages

    @staticmethod
    def held(docs: Documents | Box, kind: str, pid: str) -> list[Doc]:
        found: list[Doc] = (docs.get(f"scicat_{kind}", pid) or {}).get("items", [])
        return found

    def items(self, account: Account, kind: str, pid: str) -> list[Doc]:
        self.find(pid, account)
        return self.held(self.box, kind, pid)

    def add_block(self, account: Account, kind: str, pid: str | None, body: Doc) -> Doc:
        """A new origdatablock or datablock; `pid` is None when the body names the dataset."""
        if account is NOBODY:
            raise FORBIDDEN
        table = rules.DATABLOCK if kind == "datablocks" else rules.ORIGDATABLOCK if pid else rules.ORIGDATABLOCK_AT_ROOT
        wrong = rules.sentences(body, table)
        if wrong:
            raise nest(400, wrong)
        pid = pid or str(body["datasetId"])
        with self.box.transaction() as docs:
            dataset = docs.get("scicat_dataset", pid)
            if dataset is None:
                raise nest(404, f"dataset: {pid} not found")
            if kind == "datablocks":
                if docs.get("scicat_archive_id", body["archiveId"]):
                    raise HttpError(500, "Internal server error")
                docs.put("scicat_archive_id", body["archiveId"], {"pid": pid})
            block = signed({**body, "datasetId": pid}, dataset, account)
            block["dataFileList"] = [_file(f) for f in body["dataFileList"]]
            items = [*self.held(docs, kind, pid), block]
            docs.put(f"scicat_{kind}", pid, {"items": items})
            if kind == "datablocks":
                dataset["packedSize"] += body["packedSize"]
                dataset["numberOfFilesArchived"] += len(body["dataFileList"])
            else:
                dataset["size"] += body["size"]
                dataset["numberOfFiles"] += len(body["dataFileList"])
            docs.put("scicat_dataset", pid, {**dataset, "updatedAt": now()})
        return block

    def patch_origdatablock(self, account: Account, block_id: str, body: Doc) -> Doc:
        wrong = rules.sentences(body, rules.ORIGDATABLOCK, partial=True)
        if wrong:
            raise nest(400, wrong)
        with self.box.transaction() as docs:
            for holder in docs.all("scicat_origdatablocks"):
                for block in holder["items"]:
                    if block["_id"] != block_id:
                        continue
                    dataset = docs.get("scicat_dataset", block["datasetId"]) or {}
                    if not account.owns(dataset):
                        raise FORBIDDEN
                    block.update(body, updatedBy=account.username, updatedAt=now())
                    block["dataFileList"] = [_file(f) for f in block["dataFileList"]]
                    docs.put("scicat_origdatablocks", dataset["pid"], holder)
                    _recount(docs, dataset, holder["items"])
                    return dict(block)
        raise nest(404, f"OrigDatablock: {block_id} not found")

    def delete_origdatablock(self, account: Account, pid: str, block_id: str) -> Doc | None:
        if "archivemanager" not in account.groups:
            raise FORBIDDEN
        with self.box.transaction() as docs:
            dataset = docs.get("scicat_dataset", pid)
            if dataset is None:
                raise nest(404, f"dataset: {pid} not found")
            items = self.held(docs, "origdatablocks", pid)
            left = [block for block in items if block["_id"] != block_id]
            docs.put("scicat_origdatablocks", pid, {"items": left})
            _recount(docs, dataset, left)
        return next((block for block in items if block["_id"] == block_id), None)


def signed(body: Doc, dataset: Mapping[str, Any], account: Account) -> Doc:
    """A new document of a dataset: who made it when, and the dataset's groups."""
    key = object_id()
    groups = {k: dataset[k] for k in ("ownerGroup", "accessGroups") if k in dataset}
    made = {"createdBy": account.username, "updatedBy": account.username, "createdAt": now(), "updatedAt": now()}
    return {**body, **groups, "isPublished": False, **made, "_id": key, "__v": 0, "id": key}


def _file(entry: Mapping[str, Any]) -> Doc:
    key = object_id()
    return {"_id": key, "id": key, **entry, "time": utc(entry["time"])}


def _recount(docs: Documents, dataset: Doc, blocks: list[Doc]) -> None:
    totals = {"size": sum(b["size"] for b in blocks), "numberOfFiles": sum(len(b["dataFileList"]) for b in blocks)}
    docs.put("scicat_dataset", dataset["pid"], {**dataset, **totals, "updatedAt": now()})


def _json(errors: list[Doc]) -> str:
    return json.dumps(errors, separators=(",", ":"), ensure_ascii=False)
