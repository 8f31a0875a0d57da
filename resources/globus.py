"""Globus Transfer: moving and deleting files as tasks, and looking at the files of a collection.

A request of `submit`, JSON-able, stored before it is sent:

    {"source": collection id, "destination": collection id, "label": str, "encrypt": bool, "deadline_s": seconds,
     "sync_level": null | 0 exists | 1 size | 2 mtime | 3 checksum,
     "items": [{"source_path", "destination_path", "recursive": false, "bytes": n}]}

    {"kind": "delete", "collection": id, "label": str, "deadline_s": seconds, "ignore_missing": bool,
     "items": [{"path"}]}                                        explicit files only, never recursively

A task that succeeded has verified the checksum of every file that it transferred. Files that it did not transfer, since
a sync level let it skip them, it has not looked at.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import Field, PrivateAttr

from resources.errors import FacilityError, NotFound, Refused, Unavailable
from resources.finding import Finding
from resources.globus_tasks import Event, event, status
from resources.tasks import TaskStatus

if TYPE_CHECKING:  # the SDK is heavy, and the code server loads this module
    import globus_sdk

    from resources.globus_session import Session
    from resources.tasks import TaskSystem

    def _is_a_task_system(globus: GlobusTransfer) -> TaskSystem:
        return globus


POLLED_AT_ONCE = 50  # task ids in one request, as part of its address
LISTING_S = 55.0  # a large directory is silent for long before it answers
OPERATION = {"answer_s": 25.0, "retries": 1}  # the service asks the collection, which may think for a while


@dataclass(frozen=True)
class Entry:
    """Something in a directory of a collection.

    type: file, dir, link (never followed), other. bytes: its size. mtime: aware UTC datetime, whole seconds.
    """

    name: str
    type: str
    bytes: int
    mtime: datetime


class GlobusTransfer(dg.ConfigurableResource):  # type: ignore[type-arg]
    """Globus Transfer for one confidential client. Thread-safe. Calls take at most about a minute, then raise.

    Example:
        globus = GlobusTransfer()
        key = globus.new_key("")                  # stored by the caller before the next line
        task_id = globus.submit(key, {"source": …, "destination": …, "items": [...], …})
        globus.poll([task_id])[task_id].state

    Raises only `resources.errors`.
    """

    service: str = Field(default="globus", description="the name that outages and pauses are kept under")
    transfer_url: str | None = Field(default=None, description="address of the Transfer service; none: production")
    auth_url: str | None = Field(default=None, description="address of Globus Auth; none: production")
    web_url: str = Field(default="https://app.globus.org", description="where people look at tasks")
    client_id_env: str = Field(default="ALS_GLOBUS_CLIENT_ID", description="environment variable; see credentials.py")
    client_secret_env: str = Field(default="ALS_GLOBUS_CLIENT_SECRET", description="environment variable")
    listing_page: int = Field(default=100_000, description="entries asked for at a time; the service allows 100,000")

    system: str = "globus"
    same_key_same_task: bool = True
    _session: Any = PrivateAttr(default=None)

    def _asking(self, what: str, **bounds: Any) -> AbstractContextManager[globus_sdk.TransferClient]:
        if self._session is None:
            from resources.globus_session import Session

            self._session = Session(
                self.service, self.transfer_url, self.auth_url, self.client_id_env, self.client_secret_env
            )
        session: Session = self._session
        return session.asking(what, **bounds)

    # tasks

    def new_key(self, proposed: str) -> str:
        """A submission_id of the service's own; `proposed` is not used."""
        with self._asking("asking for a submission id") as client:
            return str(client.get_submission_id()["value"])

    def script(self, key: str, request: Mapping[str, Any]) -> None:
        """A transfer has none."""

    def submit(self, key: str, request: Mapping[str, Any]) -> str:
        """Send a request (see above) and return the task id. The same key again returns the task that it made first.

        The key is put at the end of the label, so that a person, and `find`, can tell whose task it is.
        """
        delete = request.get("kind") == "delete"
        try:
            data: Any = _delete_data(key, request) if delete else _transfer_data(key, request)
        except (KeyError, TypeError, ValueError) as error:
            raise Refused(self.service, f"the request is not complete: {error!r}", "REQUEST") from error
        with self._asking("submitting a task", answer_s=20.0, retries=1) as client:
            answer = client.submit_delete(data) if delete else client.submit_transfer(data)
            return str(answer["task_id"])

    def find(self, key: str) -> list[TaskStatus]:
        """The task of a submission id, or [] when it is not among the newest thousand tasks.

        The service cannot be asked for a submission id, so this looks for the label that `submit` gave. Nothing needs
        it in order to be safe: sending the same request with the same key again returns the task id (`Duplicate`).
        """
        if not key:
            return []
        with self._asking("looking for a task") as client:
            pages = client.paginated.task_list(orderby="request_time DESC")
            found = [task for page in pages for task in page if str(task.get("label") or "").endswith(key)]
            return [self._status(client, task) for task in reversed(found)]

    def labelled(self, prefix: str) -> list[TaskStatus]:
        """Of the newest thousand tasks those whose label begins so, newest first; without why one failed."""
        with self._asking("listing tasks") as client:
            pages = client.paginated.task_list(orderby="request_time DESC")
            return [status(task) for page in pages for task in page if str(task.get("label") or "").startswith(prefix)]

    def poll(self, ids: Iterable[str]) -> dict[str, TaskStatus]:
        """The status of many tasks, fifty in a request; one more request for each that failed or is paused.

        An id that the service does not know, or no longer (it forgets after 30 days), is left out.
        """
        wanted = list(dict.fromkeys(ids))
        found: dict[str, TaskStatus] = {}
        with self._asking("asking how tasks are") as client:
            for begin in range(0, len(wanted), POLLED_AT_ONCE):
                some = wanted[begin : begin + POLLED_AT_ONCE]
                for task in client.task_list(filter={"task_id": some}, limit=len(some)):
                    found[str(task["task_id"])] = self._status(client, task)
        return found

    def cancel(self, task_id: str) -> None:
        """Ask for the task's end. Not an error when it has ended already. Raises NotFound for an unknown task."""
        try:
            with self._asking(f"cancelling task {task_id}") as client:
                client.cancel_task(task_id)
        except Refused as error:
            if error.code != "TaskComplete":
                raise

    def url(self, task_id: str) -> str:
        """The page of a task."""
        return f"{self.web_url.rstrip('/')}/activity/{task_id}"

    def events(self, task_id: str, most: int = 100) -> list[Event]:
        """The newest `most` entries of a task's event log, newest first. Raises NotFound for an unknown task."""
        with self._asking(f"reading the events of task {task_id}") as client:
            return _events(client, task_id, most)

    def successful_files(self, task_id: str) -> set[tuple[str, str]]:
        """(source path, destination path) of every file that a task which has ended transferred and verified.

        Also of a FAILED task: what arrived before it failed. Directories, and files skipped by a sync level, are not
        in it. Raises NotFound for an unknown task, Refused while it has not ended.
        """
        with self._asking(f"reading what task {task_id} transferred", **OPERATION) as client:
            pages = client.paginated.task_successful_transfers(task_id)
            return {(str(one["source_path"]), str(one["destination_path"])) for page in pages for one in page}

    def _status(self, client: globus_sdk.TransferClient, task: Mapping[str, Any]) -> TaskStatus:
        """With what else must be asked to say why a task failed or is paused."""
        if task["status"] == "FAILED":
            return status(task, _events(client, str(task["task_id"]), 20))
        if task["status"] == "ACTIVE" and task.get("is_paused"):
            info = client.task_pause_info(str(task["task_id"]))
            said = [rule.get("message") for rule in info["pause_rules"]]
            said += [info.get("source_pause_message"), info.get("destination_pause_message")]
            return status(task, pause="; ".join(str(message) for message in said if message))
        return status(task)

    # files

    def ls(self, collection: str, path: str) -> list[Entry]:
        """The entries of a directory by name, hidden ones included. Not recursive; links are listed, not followed.

        Raises NotFound only when the collection is well and says that the directory is not there; Refused when it is
        no directory, or the collection is gone.
        """
        found: dict[str, Entry] = {}
        try:
            with self._asking(f"listing {path}", answer_s=LISTING_S, retries=0) as client:
                offset = 0
                while True:
                    page = client.operation_ls(
                        collection, path, show_hidden=True, orderby="name", limit=self.listing_page, offset=offset
                    )
                    entries = [_entry(one) for one in page["DATA"]]
                    found.update((entry.name, entry) for entry in entries)
                    offset += len(entries)
                    if len(entries) < self.listing_page:
                        return list(found.values())
        except NotFound:
            self.confirm_collection(collection)
            raise

    def walk(self, collection: str, path: str, max_entries: int) -> Iterator[tuple[str, Entry]]:
        """(path on the collection, Entry) of everything below a directory, depth first; links are not followed.

        Raises Refused after `max_entries`, and whatever `ls` raises: then what came before is not the whole.
        """
        folders, count = [path], 0
        while folders:
            folder = folders.pop()
            entries = self.ls(collection, folder)
            inside = [(f"{folder.rstrip('/')}/{entry.name}", entry) for entry in entries]
            for where, entry in inside:
                count += 1
                if count > max_entries:
                    raise Refused(self.service, f"there are more than {max_entries} entries below {path}", "TOO_MANY")
                yield where, entry
            folders += [where for where, entry in reversed(inside) if entry.type == "dir"]

    def stat(self, collection: str, path: str) -> Entry | None:
        """What is at a path. None only when the collection is well and says that nothing is there."""
        try:
            with self._asking(f"looking at {path}", **OPERATION) as client:
                return _entry(client.operation_stat(collection, path).data)
        except NotFound:
            self.confirm_collection(collection)
            return None

    def mkdir(self, collection: str, path: str) -> None:
        """Make a directory; its parent must be there. Not an error when it exists already."""
        try:
            with self._asking(f"making the directory {path}", **OPERATION) as client:
                client.operation_mkdir(collection, path)
        except Refused as error:
            if not error.code.endswith(".Exists"):
                raise
            there = self.stat(collection, path)
            if there is None or there.type != "dir":
                raise

    def rename(self, collection: str, old: str, new: str) -> None:
        """Rename a file or directory within a collection. Raises NotFound, Refused when `new` exists.

        Not repeated by itself: after Unavailable, look which of the two names is there.
        """
        with self._asking(f"renaming {old} to {new}", answer_s=LISTING_S, retries=0) as client:
            client.operation_rename(collection, old, new)

    def confirm_collection(self, collection: str) -> str:
        """The name of a collection that exists. Raises Refused when it is gone or hidden, Unavailable when unknown."""
        try:
            with self._asking(f"looking at collection {collection}") as client:
                return str(client.get_endpoint(collection)["display_name"])
        except NotFound as error:
            raise Refused(self.service, f"the collection {collection} is gone: {error.reason}", error.code) from error

    # flight check

    def check(self, places: Iterable[tuple[str, str]] = ()) -> list[Finding]:
        """Log in, then list each (collection id, base path). Raises nothing: what fails is a finding."""
        findings: list[Finding] = []

        def tried(what: str, act: Callable[[], str]) -> bool:
            try:
                findings.append(Finding(self.service, what, True, act()))
            except FacilityError as error:
                findings.append(Finding(self.service, what, False, error.reason + _todo(error, self.client_id_env)))
            return bool(findings[-1].ok)

        if tried("Globus login", self._log_in):
            for collection, base in places:
                found = tried(f"collection {collection}", partial(self.confirm_collection, collection))
                if found:
                    tried(f"list {collection} {base}", partial(self._count, collection, base))
        return findings

    def _log_in(self) -> str:
        self.new_key("")
        return f"the Transfer service accepts the client of {self.client_id_env}"

    def _count(self, collection: str, path: str) -> str:
        return f"{len(self.ls(collection, path))} entries"


def _todo(error: FacilityError, id_env: str) -> str:
    if isinstance(error, NotFound):
        return ". Make the directory, or correct the base path in the facility file"
    if isinstance(error, Refused):
        return f". Let the collection's administrator give the client of {id_env} access, or correct the facility file"
    if isinstance(error, Unavailable):
        return ". Try again later; see status.globus.org"
    return ""  # it says itself


def _transfer_data(key: str, request: Mapping[str, Any]) -> globus_sdk.TransferData:
    """Every flag is set, so that no default of the service or the SDK decides."""
    import globus_sdk

    level = request.get("sync_level")
    data = globus_sdk.TransferData(
        request["source"],
        request["destination"],
        label=_label(request, key),
        submission_id=key,
        sync_level=globus_sdk.MISSING if level is None else int(level),
        verify_checksum=True,
        preserve_timestamp=True,
        encrypt_data=bool(request["encrypt"]),
        deadline=_deadline(request),
        skip_source_errors=False,
        fail_on_quota_errors=True,
        delete_destination_extra=False,
        notify_on_succeeded=False,
        notify_on_failed=False,
        notify_on_inactive=False,
    )
    for item in request["items"]:
        data.add_item(item["source_path"], item["destination_path"], recursive=bool(item.get("recursive", False)))
    return data


def _delete_data(key: str, request: Mapping[str, Any]) -> globus_sdk.DeleteData:
    import globus_sdk

    data = globus_sdk.DeleteData(
        request["collection"],
        label=_label(request, key),
        submission_id=key,
        recursive=False,
        ignore_missing=bool(request.get("ignore_missing", False)),
        interpret_globs=False,
        deadline=_deadline(request),
        notify_on_succeeded=False,
        notify_on_failed=False,
        notify_on_inactive=False,
    )
    for item in request["items"]:
        data.add_item(item["path"])
    return data


def _deadline(request: Mapping[str, Any]) -> str:
    return (datetime.now(UTC) + timedelta(seconds=float(request["deadline_s"]))).isoformat(timespec="seconds")


def _label(request: Mapping[str, Any], key: str) -> str:
    """Up to 128 letters, digits, spaces, commas, '-' and '_': all that the service allows; the key at its end."""
    clean = re.sub(r"[^A-Za-z0-9 ,_-]+", "_", str(request.get("label") or ""))
    return f"{clean[: 127 - len(key)]} {key}".strip()


def _entry(document: Mapping[str, Any]) -> Entry:
    kind = str(document["type"])
    link = document.get("link_target") is not None or kind in ("link", "invalid_symlink")
    return Entry(
        name=str(document["name"]),
        type="link" if link else kind if kind in ("file", "dir") else "other",
        bytes=int(document["size"] or 0),
        mtime=datetime.fromisoformat(document["last_modified"]).astimezone(UTC),
    )


def _events(client: globus_sdk.TransferClient, task_id: str, most: int) -> list[Event]:
    return [event(one) for one in client.task_event_list(task_id, limit=min(most, 1000))]
