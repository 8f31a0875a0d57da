"""The catalogue, SciCat: say what an entry shall be, and it is so, however often it is said.

    scicat.upsert_dataset(document)                  -> "created" | "updated" | "unchanged"
    scicat.ensure_origdatablock(pid, files)          -> "created" | "added" | "updated" | "unchanged"
    scicat.ensure_attachment(pid, caption, picture)  -> "created" | "updated" | "unchanged"
    scicat.set_lifecycle(pid, archivable=False, archiveStatusMessage="started")

Every verb looks before it writes, and looks again where two may have written at once: repeating it after a lost
answer, or running it twice at the same time, leaves one entry with the right sizes. What each route does is in
`sandbox/scicat_datasets.py`, recorded from the real backend.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import quote

import dagster as dg
from pydantic import PrivateAttr

from resources import credentials
from resources.errors import FacilityError, NotFound, Refused, Unavailable
from resources.finding import Finding
from resources.scicat_differences import Document, changed_fields, equal, origdatablock_of, same_file

if TYPE_CHECKING:
    from resources.scicat_session import Session

KEY = "als_id"  # where the wanted pid is kept in an entry whose real pid the backend made
FILES_PER_BLOCK = 20_000  # a body may have 16 MB
MOST = 1000
GROUPS_KEPT_S = 120.0

log = logging.getLogger(__name__)


class SciCat(dg.ConfigurableResource[Any]):
    """One account at one SciCat. All methods raise only `resources.errors`.

    Attributes:
        service: the name that errors and outages carry.
        base_url: of the interface, version 3: "https://scicat.example.org/api/v3".
        frontend_url: of the pages for people, without /datasets.
        username_env, password_env: *names* of the environment variables with the account, or of the files that hold
            them (NAME_FILE); read at each login.
        choose_pids: False where the account may not choose pids (`check` finds out): then the pid that we would have
            chosen is kept in the entry's metadata as `als_id`, and every verb looks the entry up by it.
        timeout_s: how long one request may take, seconds.
    """

    service: str = "scicat"
    base_url: str
    frontend_url: str = ""
    username_env: str = "ALS_SCICAT_USERNAME"
    password_env: str = "ALS_SCICAT_PASSWORD"
    choose_pids: bool = True
    timeout_s: float = 60.0

    _session: Any = PrivateAttr(default=None)
    _groups: tuple[float, set[str]] | None = PrivateAttr(default=None)

    @property
    def session(self) -> Session:
        if self._session is None:
            from resources.scicat_session import Session

            self._session = Session(self.service, self.base_url, self._credentials, self.timeout_s)
        return cast("Session", self._session)

    def _credentials(self) -> tuple[str, str]:
        """Read again at each login: a new password needs no restart."""
        name = credentials.read(self.username_env, self.service, "the account at SciCat")
        return name, credentials.read(self.password_env, self.service, "the password of the account at SciCat")

    def dataset_url(self, pid: str) -> str:
        """The page for people."""
        return f"{self.frontend_url.rstrip('/')}/datasets/{quote(self._pid(pid), safe='')}"

    def may_update(self, group: str) -> bool:
        """May our account change entries that belong to this group? Asked again every few minutes."""
        if self._groups is None or time.monotonic() - self._groups[0] > GROUPS_KEPT_S:
            me = self.session.whoami()
            if not me:  # we have not logged in yet, or our token has been forgotten
                self.session.login()
                me = self.session.whoami()
            self._groups = (time.monotonic(), set(me.get("currentGroups", [])))
        return bool({group, "admin"} & self._groups[1])

    # data sets

    def get_dataset(self, pid: str) -> Document | None:
        """The entry, or None when the catalogue, knowing who asks, says that it has none."""
        if not self.choose_pids:
            found = self._find({f"scientificMetadata.{KEY}.value": {"inq": [pid]}})
            return min(found, key=lambda one: (one.get("createdAt", ""), one["pid"])) if found else None
        try:
            return cast(Document, self.session.call("get", _path(pid), doing=f"show data set {pid}"))
        except NotFound:
            return None

    def find_by_source(self, *folders: str) -> list[Document]:
        """The entries of these source folders. Always `inq`: plain equality fails for names that look like dates."""
        return self._find({"sourceFolder": {"inq": list(folders)}})

    def _find(self, condition: Mapping[str, Any]) -> list[Document]:
        asked = json.dumps({"where": condition, "limits": {"limit": MOST}}, separators=(",", ":"))
        found = self.session.call("get", f"datasets?filter={quote(asked, safe='')}", doing="search for data sets")
        return cast(list[Document], found or [])

    def upsert_dataset(self, document: Mapping[str, Any]) -> str:
        """Make the entry `document["pid"]` have the fields of `document`; fields that it does not name stay.

        Returns "created", "updated" or "unchanged". `scientificMetadata` is replaced as a whole. The type, the sizes
        and the life cycle are never changed here: the backend would reset what is not named.
        """
        wanted = {k: v for k, v in document.items() if v is not None and k != "datasetlifecycle"}
        pid = str(wanted["pid"])
        if not self.choose_pids:
            return self._upsert_by_key(pid, wanted)
        from resources.scicat_session import Conflict

        try:
            self.session.call("post", "datasets", wanted, doing=f"enter data set {pid}")
        except Conflict:
            present = self.get_dataset(pid)
            if present is None:
                raise
            return self._update(present, wanted)
        return "created"

    def _upsert_by_key(self, pid: str, wanted: Document) -> str:
        metadata = {**wanted.get("scientificMetadata", {}), KEY: {"value": pid, "unit": ""}}
        wanted = {**wanted, "scientificMetadata": metadata}
        if "inputDatasets" in wanted:
            wanted["inputDatasets"] = [self._pid(one) for one in wanted["inputDatasets"]]
        del wanted["pid"]
        with _one_at_a_time(pid):
            present = self.get_dataset(pid)
            if present is not None:
                return self._update(present, wanted)
            self.session.call("post", "datasets", wanted, doing=f"enter data set {pid}")
        return "created"

    def _update(self, present: Document, wanted: Mapping[str, Any]) -> str:
        changed = changed_fields(present, wanted)
        if not changed:
            return "unchanged"
        pid = present["pid"]
        self.session.call("patch", _path(pid), changed, doing=f"update {', '.join(sorted(changed))} of data set {pid}")
        return "updated"

    def _pid(self, pid: str) -> str:
        """The pid under which the backend has what we call `pid`."""
        if self.choose_pids:
            return pid
        found = self.get_dataset(pid)
        if found is None:
            raise NotFound(self.service, f"has no data set whose {KEY} is {pid}")
        return str(found["pid"])

    # files

    def ensure_origdatablock(self, pid: str, files: Sequence[Mapping[str, Any]]) -> str:
        """Make the entry list these files ({path, size, time, chk?}) as acquired, each once, with the right sizes.

        Files that are not listed yet go into a block of their own ("created" the first, "added" further ones). A
        checksum that was not known before is filled in ("updated"). Files that are listed but not named here stay:
        the list is what was acquired. The same path with another size or checksum is refused: that is a new version
        of the scan, with an entry of its own.
        """
        pid = self._pid(pid)
        with _one_at_a_time(pid):
            blocks = self._blocks(pid)
            listed = {f["path"]: f for block in blocks for f in block["dataFileList"]}
            clash = [f["path"] for f in files if f["path"] in listed and not same_file(f, listed[f["path"]])]
            if clash:
                raise Refused(
                    self.service,
                    f"data set {pid} lists {clash[0]!r} with another size or checksum: what was acquired does not "
                    "change; enter the new content as a new version of the scan",
                )
            new = [dict(f) for f in files if f["path"] not in listed]
            for start in range(0, len(new), FILES_PER_BLOCK):
                block = origdatablock_of(new[start : start + FILES_PER_BLOCK])
                self.session.call(
                    "post", _path(pid, "origdatablocks"), block, doing=f"list the files of data set {pid}"
                )
            filled = self._fill_in_checksums(blocks, {f["path"]: f for f in files if f.get("chk")})
            self._settle_blocks(pid)
        return ("added" if blocks else "created") if new else "updated" if filled else "unchanged"

    def _blocks(self, pid: str) -> list[Document]:
        found = self.session.call("get", _path(pid, "origdatablocks"), doing=f"show the files of data set {pid}")
        return cast(list[Document], found or [])

    def _fill_in_checksums(self, blocks: list[Document], known: Mapping[str, Mapping[str, Any]]) -> bool:
        filled = False
        for block in blocks:
            if not any(f["path"] in known and not f.get("chk") for f in block["dataFileList"]):
                continue
            names = ("path", "size", "time", "chk", "uid", "gid", "perm")
            files = [{k: f[k] for k in names if f.get(k)} | {"size": f["size"]} for f in block["dataFileList"]]
            files = [
                f if "chk" in f or f["path"] not in known else {**f, "chk": known[f["path"]]["chk"]} for f in files
            ]
            try:
                where = f"origdatablocks/{quote(block['_id'], safe='')}"
                self.session.call("patch", where, {"chkAlg": "sha256", "dataFileList": files}, doing="add checksums")
                filled = True
            except (Refused, NotFound) as refusal:
                log.warning("the catalogue keeps a file list without checksums: %s", refusal)
        return filled

    def _settle_blocks(self, pid: str) -> None:
        """After writing: every file listed once, and size and number of files as listed."""
        blocks = sorted(self._blocks(pid), key=lambda block: (block.get("createdAt", ""), block["_id"]))
        counted: dict[str, int] = {}
        for block in blocks:
            if block["dataFileList"] and all(f["path"] in counted for f in block["dataFileList"]):
                try:
                    where = _path(pid, "origdatablocks", block["_id"])
                    self.session.call("delete", where, doing=f"remove a second list of the same files from {pid}")
                except (Refused, NotFound) as refusal:
                    log.warning("a list of files stays in the catalogue twice: %s", refusal)
            counted |= {f["path"]: int(f["size"]) for f in block["dataFileList"]}
        right = {"size": sum(counted.values()), "numberOfFiles": len(counted)}
        present = self.session.call("get", _path(pid), doing=f"show data set {pid}")
        if {name: present.get(name) for name in right} != right:
            self.session.call("patch", _path(pid), right, doing=f"correct the size of data set {pid}")

    def ensure_datablock(self, pid: str, block: Mapping[str, Any]) -> str:
        """Make the entry have the archive package `block["archiveId"]`. Returns "created" or "unchanged"."""
        pid = self._pid(pid)
        where = _path(pid, "datablocks")

        def present() -> bool:
            held = self.session.call("get", where, doing=f"show the archive packages of data set {pid}") or []
            return any(one["archiveId"] == block["archiveId"] for one in held)

        with _one_at_a_time(pid):
            if present():
                return "unchanged"
            try:
                self.session.call("post", where, block, doing=f"enter the archive package of data set {pid}")
            except Unavailable:  # also what a repeated archiveId gives: HTTP 500
                if not present():
                    raise
                return "unchanged"
        return "created"

    # pictures

    def ensure_attachment(self, pid: str, caption: str, thumbnail: str, owner_group: str = "") -> str:
        """Make the entry have one attachment of this caption, with this picture ("data:image/png;base64,…").

        The caption is its key. Another picture replaces the one before: the new one is attached, then the old one
        deleted, because PUT would detach it. Returns "created", "updated" or "unchanged".
        """
        pid = self._pid(pid)
        with _one_at_a_time(pid):
            held = self._attachments(pid, caption)
            if not any(one.get("thumbnail") == thumbnail for one in held):
                group = owner_group or self.session.call("get", _path(pid), doing=f"show data set {pid}")["ownerGroup"]
                new = {"ownerGroup": group, "caption": caption, "thumbnail": thumbnail}
                self.session.call("post", _path(pid, "attachments"), new, doing=f"attach {caption!r} to data set {pid}")
                state = "updated" if held else "created"
                held = self._attachments(pid, caption)
            else:
                state = "unchanged"
            kept = next((one for one in held if one.get("thumbnail") == thumbnail), None)
            for other in held:
                if kept is not None and other["id"] != kept["id"]:
                    where = _path(pid, "attachments", other["id"])
                    self.session.call("delete", where, doing=f"remove the old {caption!r} of data set {pid}")
        return state

    def _attachments(self, pid: str, caption: str) -> list[Document]:
        """Those of this caption, the oldest first: writers that meet keep the same one."""
        found = self.session.call("get", _path(pid, "attachments"), doing=f"show the pictures of data set {pid}") or []
        return sorted(
            (one for one in found if one.get("caption") == caption),
            key=lambda one: (one.get("createdAt", ""), one["id"]),
        )

    # life cycle

    def set_lifecycle(self, pid: str, **fields: Any) -> str:
        """Set these fields of the life cycle and leave the others; "updated" or "unchanged".

        The states (archiving, archived, pruned …) and their fields are in SciCat's documentation of datasetlifecycle;
        `archiveReturnMessage` may be a document, times are ISO 8601 with Z.
        """
        pid = self._pid(pid)
        where = _path(pid, "datasetlifecycle")
        present = self.session.call("get", where, doing=f"show the life cycle of data set {pid}") or {}
        changed = {name: value for name, value in fields.items() if not equal(present.get(name), value)}
        if not changed:
            return "unchanged"
        self.session.call("patch", where, changed, doing=f"set {', '.join(sorted(changed))} of data set {pid}")
        return "updated"

    # flight check

    def check(self, owner_groups: Sequence[str] = ()) -> list[Finding]:
        """Try what production needs, by doing it; `owner_groups` are those that entries will belong to.

        Leaves one entry "als/flight-check/<account>" behind where the account may not delete.
        """
        out: list[Finding] = []
        try:
            self.session.health()
            out.append(Finding(self.service, "SciCat answers", True, self.base_url))
            self.session.login()
            me = self.session.whoami()
        except FacilityError as trouble:
            return [*out, Finding(self.service, "SciCat login", False, str(trouble))]
        groups = list(me.get("currentGroups", []))
        says = f"{self.session.username}, groups: {', '.join(groups) or 'none'}"
        out.append(Finding(self.service, "SciCat login", bool(me), says))
        for group in owner_groups:
            member = group in groups or "admin" in groups
            why = "" if member else "entries of this group can be created but not updated: add the account to the group"
            out.append(Finding(self.service, f"SciCat group {group}", member, why))
        return [*out, *self._try_an_entry(me, owner_groups or [g for g in groups if g != "globalaccess"])]

    def _try_an_entry(self, me: Mapping[str, Any], owner_groups: Sequence[str]) -> list[Finding]:
        pid = f"als/flight-check/{self.session.username}"
        probe = {
            "pid": pid,
            "type": "raw",
            "datasetName": "flight check, no data",
            "ownerGroup": owner_groups[0] if owner_groups else "admin",
            "owner": self.session.username,
            "principalInvestigator": self.session.username,
            "contactEmail": me.get("email") or "nobody@example.org",
            "creationTime": "2026-01-01T00:00:00.000Z",
            "creationLocation": "/flight-check",
            "sourceFolder": "/flight-check",
        }
        what = "SciCat entry with a pid of our own" if self.choose_pids else "SciCat entry, found by its key"
        try:
            self.upsert_dataset(probe)
        except Refused as refusal:
            hint = " Ask for CREATE_DATASET_WITH_PID_GROUPS, or set choose_pids: false." if self.choose_pids else ""
            return [Finding(self.service, what, False, f"{refusal}.{hint}")]
        except FacilityError as trouble:
            return [Finding(self.service, what, False, str(trouble))]
        out = [Finding(self.service, what, True, pid)]
        try:
            self.upsert_dataset({**probe, "description": datetime.now().astimezone().isoformat()})
            out.append(Finding(self.service, "SciCat update", True))
        except FacilityError as trouble:
            out.append(Finding(self.service, "SciCat update", False, str(trouble)))
        try:
            self.session.call("delete", _path(self._pid(pid)), doing=f"delete data set {pid}")
        except FacilityError:
            out.append(Finding(self.service, "SciCat delete", True, f"not permitted, and not needed: {pid} stays"))
        return out


def _path(pid: str, *more: str) -> str:
    return "/".join(["datasets", quote(pid, safe=""), *(quote(part, safe="") for part in more)])


@contextmanager
def _one_at_a_time(pid: str) -> Iterator[None]:
    """Let one process (and thread) of this machine at a time write what hangs on an entry.

    The backend has no unique key for file lists and pictures, so that two writers who both look first still add twice.
    The lock ends with its process; writers on two machines are kept apart by the asset's lease, and what slips through
    is set right by whoever looks last.
    """
    folder = Path(tempfile.gettempdir()) / f"als-scicat-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    with (folder / hashlib.sha256(pid.encode()).hexdigest()[:2]).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
