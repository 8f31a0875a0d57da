"""`python -m sandbox.mover`: the detached process that does the work of a transfer or delete task.

It writes down each file that arrived, so that another mover can go on where this one was killed; when its task has
ended it takes the next one of the queue. What it does with trouble is what the service does: it notes a fault and an
event and tries again, until the deadline of the task. Only few things are fatal.

Faults of service "transfer" that it plays, for files whose source or destination matches `path`:

    file_not_found, permission_denied, no_space, file_size_changed, endpoint_down, quota    the event of that name
    trouble            any other event: `code` (ENDPOINT_TOO_BUSY, CONNECTION_RESET, …)
    checksum_mismatch  the file arrives damaged: noticed, and sent again, only when the task verifies checksums
    slow_transfer      `bytes_per_s`, or `delay` seconds for each file
    task_failed        the task ends as FAILED at once; `code`, `description`
    inactive, paused   the task is held for `delay` seconds, or without one until the fault is taken away
"""

from __future__ import annotations

import argparse
import os
import shutil
import time
import traceback
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from pathlib import Path

from sandbox.box import Box, Doc
from sandbox.executions import count_execution
from sandbox.transfer_collections import Collection, OutsideRoot, collections
from sandbox.transfer_copy import Copied, Trouble, copy, trouble, up_to_date
from sandbox.transfer_tasks import ENDED, add_event, change_within, claim, end, end_canceled, parse_time, unlock

RETRY_S = 0.5
NOTE_S = 0.2
_CODES = {
    "file_not_found": "FILE_NOT_FOUND",
    "permission_denied": "PERMISSION_DENIED",
    "no_space": "NO_SPACE_LEFT",
    "file_size_changed": "FILE_SIZE_CHANGED",
    "endpoint_down": "CONNECT_FAILED",
    "quota": "QUOTA_EXCEEDED",
}
_WORDS = {
    "FILE_NOT_FOUND": "file not found",
    "PERMISSION_DENIED": "permission denied",
    "NO_SPACE_LEFT": "no space left on device",
    "FILE_SIZE_CHANGED": "file size changed",
    "CONNECT_FAILED": "connection failed",
    "QUOTA_EXCEEDED": "quota exceeded",
    "VERIFY_CHECKSUM": "checksum verification failed",
    "ENDPOINT_ERROR": "endpoint error",
}


class Over(Exception):
    """The task ended while it was being worked on: cancelled, or past its deadline."""


@dataclass(frozen=True)
class Unit:
    """A file or directory to be moved or deleted; paths as in the request."""

    source: str
    destination: str
    recursive: bool = False
    external: tuple[str, str] | None = None


class Mover:
    """Works on one task until it has ended."""

    def __init__(self, box: Box, task_id: str) -> None:
        self.box, self.task_id = box, task_id
        self.request = box.get("transfer_request", task_id) or {}
        self.task = box.get("transfer_task", task_id) or {"status": "FAILED"}
        known = collections(box)
        self.source: Collection | None = known.get(str(self.task.get("source_endpoint_id")))
        self.destination: Collection | None = known.get(str(self.task.get("destination_endpoint_id")))
        self.done: dict[str, Doc] = {doc["destination_path"]: doc for doc in box.all(f"done/{task_id}")}
        self.fresh: list[tuple[str, Doc]] = []
        self.counts = {"directories": 0, "files_skipped": 0, "subtasks_skipped_errors": 0, "faults": 0}
        self.retrying: dict[Unit, Trouble] = {}
        self.total = 0
        self.partial = 0
        self.noted_at = 0.0

    def run(self) -> None:
        if self.task["status"] in ENDED or not self._begin():
            return
        try:
            self._hold()
            self._work()
        except Over:
            pass
        except Trouble as fatal:
            self._note()
            with self.box.transaction() as docs:
                words = _WORDS.get(fatal.code, fatal.code.lower())
                add_event(docs, self.task_id, fatal.code, words, self._details(fatal), is_error=True)
                error = {"code": fatal.code, "description": f"{words}: {fatal.details}"}
                end(docs, self.task_id, "FAILED", fatal_error=error, **self._left("subtasks_failed"))

    def _begin(self) -> bool:
        with self.box.transaction() as docs:
            task = docs.get("transfer_task", self.task_id)
            if task is None or task["status"] in ENDED:
                return False
            self.counts["faults"] = task["faults"]
            if task["_started"] is None:
                count_execution(docs, "transfer", self.task_id)
                add_event(docs, self.task_id, "STARTED", "started", "{}")
                change_within(docs, self.task_id, _started=time.time())
            change_within(docs, self.task_id, nice_status="OK", status="ACTIVE", is_paused=False)
        return True

    # holding

    def _hold(self) -> None:
        for kind, status, code in (("inactive", "INACTIVE", "EXPIRED"), ("paused", "ACTIVE", "PAUSED")):
            fault = self._fault(("inactive", "paused"), kind=kind)
            if fault is None:
                continue
            paused = kind == "paused"
            with self.box.transaction() as docs:
                add_event(docs, self.task_id, code, code.lower(), "held by the sandbox", is_error=not paused)
                change_within(docs, self.task_id, status=status, is_paused=paused, nice_status=code)
            since = time.monotonic()
            while not self._released(fault, since):
                self._watch()
                time.sleep(0.1)
            with self.box.transaction() as docs:
                add_event(docs, self.task_id, "UNPAUSED" if paused else "ACTIVATED", "going on", "")
                change_within(docs, self.task_id, status="ACTIVE", is_paused=False, nice_status="OK")
        fault = self._fault(("task_failed",))
        if fault is not None:
            code = str(fault.get("code", "ENDPOINT_ERROR"))
            raise Trouble(code, str(fault.get("description", "the sandbox was asked to fail")), fatal=True)

    def _released(self, fault: Doc, since: float) -> bool:
        if "delay" in fault:
            return time.monotonic() - since >= float(fault["delay"])
        return all(other["id"] != fault["id"] for other in self.box.faults())

    def _watch(self) -> None:
        """Raise Over when the task was cancelled or its deadline is past."""
        task = self.box.get("transfer_task", self.task_id)
        if task is None:  # the sandbox was reset
            raise Over
        late = datetime.now(UTC) >= parse_time(task["deadline"])
        if not late and not task["_cancel"]:
            return
        self._note()
        with self.box.transaction() as docs:
            if task["_cancel"]:
                end_canceled(docs, self.task_id)
            else:
                last = next(reversed(self.retrying.values()), None)
                words = "the deadline is past" + (f"; last: {last}" if last else "")
                add_event(docs, self.task_id, "TIMEOUT", "deadline exceeded", words, is_error=True)
                error = {"code": "TIMEOUT", "description": words}
                end(docs, self.task_id, "FAILED", fatal_error=error, **self._left("subtasks_expired"))
        raise Over

    # working

    def _work(self) -> None:
        units = deque(self._unit(item) for item in self.request["DATA"])
        self.total = len(units)
        act: Callable[[Unit], list[Unit]] = self._transfer if self.task["type"] == "TRANSFER" else self._delete
        while units:
            unit = units.popleft()
            self._note(now_and_then=True)
            try:
                children = act(unit)
                self.retrying.pop(unit, None)
                self.total += len(children)
                units.extendleft(reversed(children))
            except Trouble as what:
                if what.fatal or (what.code == "QUOTA_EXCEEDED" and self.task["fail_on_quota_errors"]):
                    raise
                self._keep_for_later(unit, what)
            if not units and self.retrying:
                self._note()
                time.sleep(RETRY_S)
                units.extend(self.retrying)
        self._note()
        with self.box.transaction() as docs:
            details = f"files: {len(self.done)}, bytes: {self._bytes()}"
            add_event(docs, self.task_id, "SUCCEEDED", "succeeded", details)
            end(docs, self.task_id, "SUCCEEDED", nice_status=None)

    def _unit(self, item: Doc) -> Unit:
        if self.task["type"] == "DELETE":
            return Unit(item["path"], item["path"], bool(self.request.get("recursive")))
        external = None
        if item.get("external_checksum"):
            external = (str(item.get("checksum_algorithm") or "md5").lower(), str(item["external_checksum"]))
        return Unit(item["source_path"], item["destination_path"], bool(item.get("recursive")), external)

    def _keep_for_later(self, unit: Unit, what: Trouble) -> None:
        skip = self.task["skip_source_errors"] and what.side == "source"
        if skip and what.code in ("FILE_NOT_FOUND", "PERMISSION_DENIED"):
            document = {"source_path": unit.source, "destination_path": unit.destination, "error_code": what.code}
            kept = {"DATA_TYPE": "skipped_error", "checksum_algorithm": None, "external_checksum": None, **document}
            self.retrying.pop(unit, None)
            self.counts["subtasks_skipped_errors"] += 1
            with self.box.transaction() as docs:
                docs.put(f"skipped/{self.task_id}", unit.destination, {**kept, "error_details": what.details})
            return
        self.retrying.pop(unit, None)
        self.retrying[unit] = what
        self.counts["faults"] += 1
        with self.box.transaction() as docs:
            words = _WORDS.get(what.code, what.code.lower().replace("_", " "))
            add_event(docs, self.task_id, what.code, words, self._details(what, unit), is_error=True)

    def _transfer(self, unit: Unit) -> list[Unit]:
        self._play_trouble(unit)
        source = self._place(self.source, unit.source, "source")
        destination = self._place(self.destination, unit.destination, "destination", writes=True)
        try:
            if source.is_dir():
                return self._open_directory(unit, source, destination)
            if not source.exists():
                raise Trouble("FILE_NOT_FOUND", f"No such file or directory: {unit.source}")
            if not source.is_file() or destination.is_dir() or unit.destination.endswith("/"):
                raise Trouble("ENDPOINT_ERROR", f"not a plain file: {unit.source} -> {unit.destination}")
            if unit.destination in self.done:
                return []
            if up_to_date(source, destination, self.task["sync_level"]):
                self.counts["files_skipped"] += 1
                return []
        except OSError as error:
            raise trouble(error, "source") from error
        copied = self._copy(unit, source, destination)
        document = {"source_path": unit.source, "destination_path": unit.destination, "size": copied.bytes}
        self.done[unit.destination] = {**document, "checksum": copied.checksum}
        self.fresh.append((unit.destination, self.done[unit.destination]))
        return []

    def _open_directory(self, unit: Unit, source: Path, destination: Path) -> list[Unit]:
        if not unit.recursive:
            raise Trouble("ENDPOINT_ERROR", f"is a directory, and the item is not recursive: {unit.source}")
        destination.mkdir(parents=True, exist_ok=True)
        self.counts["directories"] += 1
        return [
            Unit(f"{unit.source.rstrip('/')}/{child.name}", f"{unit.destination.rstrip('/')}/{child.name}", True)
            for child in sorted(source.iterdir())
            if not child.is_symlink()  # recursive_symlinks: ignore
        ]

    def _copy(self, unit: Unit, source: Path, destination: Path) -> Copied:
        slow = self._fault(("slow_transfer",), unit)
        damage = self._fault(("checksum_mismatch",), unit) is not None
        began = time.monotonic()

        def progress(size: int) -> None:
            self.partial = size
            until = began + size / float(slow["bytes_per_s"]) if slow and "bytes_per_s" in slow else 0.0
            self._note(now_and_then=True)
            while time.monotonic() < until:
                time.sleep(0.05)
                self._note(now_and_then=True)

        if slow and "delay" in slow:
            until = began + float(slow["delay"])
            while time.monotonic() < until:
                self._note(now_and_then=True)
                time.sleep(0.05)
        try:
            return copy(
                source,
                destination,
                f"globus-{self.task_id[:8]}",
                verify=self.task["verify_checksum"],
                preserve_timestamp=self.task["preserve_timestamp"],
                external=unit.external,
                damage=damage,
                progress=progress,
            )
        finally:
            self.partial = 0

    def _delete(self, unit: Unit) -> list[Unit]:
        self._play_trouble(unit)
        if unit.destination in self.done:
            return []
        place = self._place(self.source, unit.source, "source", follow=False, writes=True)
        try:
            if place.is_dir() and not place.is_symlink():
                if not unit.recursive:
                    raise Trouble("ENDPOINT_ERROR", f"is a directory, and the task is not recursive: {unit.source}")
                shutil.rmtree(place)
            else:
                place.unlink(missing_ok=bool(self.request.get("ignore_missing")))
        except OSError as error:
            raise trouble(error, "source") from error
        self.done[unit.destination] = {"source_path": unit.source, "destination_path": unit.destination, "size": 0}
        self.fresh.append((unit.destination, self.done[unit.destination]))
        return []

    def _place(
        self, collection: Collection | None, path: str, side: str, follow: bool = True, writes: bool = False
    ) -> Path:
        if collection is None:
            raise Trouble("ENDPOINT_ERROR", "the collection was deleted", side, fatal=True)
        if writes and collection.read_only:
            raise Trouble("PERMISSION_DENIED", f"{collection.name} is read-only: {path}", side)
        try:
            return collection.locate(path, follow)
        except OutsideRoot as error:
            raise trouble(error, side) from error

    # faults and bookkeeping

    def _fault(self, kinds: tuple[str, ...], unit: Unit | None = None, kind: str | None = None) -> Doc | None:
        def matches(fault: Doc) -> bool:
            if fault.get("service") != "transfer" or fault.get("kind") not in ((kind,) if kind else kinds):
                return False
            paths = [unit.source, unit.destination] if unit else self._all_paths()
            return "path" not in fault or any(fnmatchcase(path, str(fault["path"])) for path in paths)

        return self.box.take_fault(matches)

    def _all_paths(self) -> list[str]:
        keys = ("source_path", "destination_path", "path")
        return [str(item[key]) for item in self.request["DATA"] for key in keys if key in item]

    def _play_trouble(self, unit: Unit) -> None:
        fault = self._fault((*_CODES, "trouble"), unit)
        if fault is not None:
            code = _CODES.get(fault["kind"]) or str(fault.get("code", "ENDPOINT_ERROR"))
            raise Trouble(code, "the sandbox was asked to fail", str(fault.get("side", "source")))

    def _details(self, what: Trouble, unit: Unit | None = None) -> str:
        place = self.source if what.side == "source" else self.destination
        name = f"{place.name} ({place.id})" if place else "?"
        path = "" if unit is None else f"File: {unit.source if what.side == 'source' else unit.destination}\n"
        return f"Error (transfer)\nEndpoint: {name}\n{path}Message: {what.details}\n"

    def _bytes(self) -> int:
        return sum(int(doc["size"]) for doc in self.done.values())

    def _left(self, counter: str) -> dict[str, int]:
        done = len(self.done) + self.counts["directories"] + self.counts["files_skipped"]
        left = max(1, self.total - done - self.counts["subtasks_skipped_errors"])
        return {counter: left, "subtasks_pending": 0, "subtasks_retrying": 0}

    def _note(self, now_and_then: bool = False) -> None:
        """Write down what arrived since the last time, with the counters."""
        if now_and_then and time.monotonic() - self.noted_at < NOTE_S:
            return
        self.noted_at = time.monotonic()
        if now_and_then:
            self._watch()
        done, moved = len(self.done), self._bytes()
        finished = done + self.counts["directories"] + self.counts["files_skipped"]
        transfer = self.task["type"] == "TRANSFER"
        with self.box.transaction() as docs:
            for key, document in self.fresh:
                docs.put(f"done/{self.task_id}", key, document)
            task = docs.get("transfer_task", self.task_id)
            if task is None or task["status"] in ENDED:
                return
            change_within(
                docs,
                self.task_id,
                **self.counts,
                bytes_transferred=moved + self.partial,
                bytes_checksummed=moved if task["verify_checksum"] else 0,
                effective_bytes_per_second=int(moved / max(0.001, time.time() - task["_started"])),
                files=self.total - self.counts["directories"],
                files_transferred=done if transfer else 0,
                subtasks_total=self.total,
                subtasks_succeeded=finished,
                subtasks_retrying=len(self.retrying),
                subtasks_pending=max(
                    0, self.total - finished - len(self.retrying) - self.counts["subtasks_skipped_errors"]
                ),
                nice_status=next(reversed(self.retrying.values())).code if self.retrying else "OK",
            )
        self.fresh.clear()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m sandbox.mover")
    parser.add_argument("--dir", required=True)
    parser.add_argument("--task", required=True)
    parser.add_argument("--lock", type=int, required=True, help="file descriptor of the task's lock, held already")
    options = parser.parse_args()
    box = Box(options.dir)
    turn: list[tuple[str, int]] = [(options.task, options.lock)]
    while turn:
        task_id, descriptor = turn.pop()
        os.set_inheritable(descriptor, False)
        try:
            Mover(box, task_id).run()
        except Exception:  # noqa: BLE001 - a mover with a bug must end its task, or it would be started for ever
            traceback.print_exc()
            with box.transaction() as docs:
                error = {"code": "INTERNAL_ERROR", "description": "a bug of the sandbox; see movers/log in its folder"}
                end(docs, task_id, "FAILED", fatal_error=error)
        unlock(descriptor)
        turn = claim(box, most=1)


if __name__ == "__main__":
    main()
