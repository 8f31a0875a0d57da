"""NERSC's Superfacility API: Slurm jobs as tasks, and the small files beside them.

    nersc = Superfacility(api_url=…, token_url=…, user="als")      # without addresses: production
    nersc.submit("als-7f3a…", {"directives": {"account": "als", "qos": "regular", "constraint": "cpu",
                                              "time": "30", "nodes": 1}, "job": {…}})
    nersc.poll(["33821565"])

The job's name is the key. `submit` sends once; whoever does not know what became of it asks `find` first. Every call
ends within about a minute, and raises only `resources.errors`.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import re
import shlex
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import dagster as dg

from resources import credentials, job_script, slurm_states
from resources import sfapi_outages as outages
from resources.errors import CredentialProblem, FacilityError, NotFound, Refused, Unavailable
from resources.finding import Finding
from resources.sfapi_session import Session
from resources.tasks import TaskStatus, TaskSystem

CHUNK = 100  # job ids in one question
CALL_S = 45.0  # a call that is made of several requests begins no further one after this time
TASK_S = 25.0  # how long a submission may stay in SFAPI's own queue before its outcome counts as not known
HISTORY_DAYS = 14  # how far back `find` looks for jobs that have ended

# of what sbatch says: it did not take the job now, but will; and: nobody knows whether it took it
LATER = ("MaxSubmitJob", "temporarily unable", "Resource temporarily unavailable", "Slurm is down")
UNKNOWN = ("Socket timed out", "Unable to contact slurm controller", "Connection refused", "Connection timed out",
           "Zero Bytes were transmitted", "connect failure")  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """What a listing shows. `type` is "file", "dir", "link" or "other"; `mtime` is None where the API gave no time."""

    name: str
    type: str
    bytes: int
    mtime: datetime | None


class Superfacility(dg.ConfigurableResource):  # type: ignore[type-arg]
    """A `TaskSystem` for Slurm at NERSC, and its file view.

    Attributes:
        service: the name under which outages and pauses are kept.
        api_url, token_url: None for production.
        machine: where jobs run ("perlmutter"); files are reached through it as well.
        key_env: the environment variable that names the key file (mode 0600, as Iris writes it).
        user: whose jobs these are; "" asks the API.
        program: als-job on the compute nodes, a path or a name on PATH.
        job_page: address of a job's page with {id} in it, or None.
        roots: directories that always exist; a file below one that cannot be listed is not called missing.
    """

    service: str = "nersc"
    system: str = "sfapi"
    same_key_same_task: bool = False
    api_url: str | None = None
    token_url: str | None = None
    machine: str = "perlmutter"
    key_env: str = "ALS_SFAPI_KEY"
    user: str = ""
    program: str = "als-job"
    job_page: str | None = None
    roots: list[str] = []

    @property
    def session(self) -> Session:
        return Session(self.service, self.api_url, self.token_url, self.key_env)

    # tasks

    def new_key(self, proposed: str) -> str:
        return proposed

    def script(self, key: str, request: Mapping[str, Any]) -> str:
        """The batch script that `submit` would send. Raises Refused."""
        try:
            return job_script.render(key, request.get("directives") or {}, self.program, request.get("job") or {})
        except Refused as error:
            raise Refused(self.service, error.reason, error.code) from error

    def submit(self, key: str, request: Mapping[str, Any]) -> str:
        """Submit a job named `key`, once. `request` is {"directives": {…}, "job": {the request of als-job}}.

        Raises Refused (also by sbatch, with its words), Unavailable (with `retry_after_s` in an outage whose end is
        known; otherwise the job may have been submitted), CredentialProblem.
        """
        script = self.script(key, request)
        until = time.monotonic() + CALL_S
        self.available()
        answer = self.session.post(f"compute/jobs/{self.machine}", {"job": script, "isPath": False}, "submit a job")
        if answer.get("status") != "OK" or not answer.get("task_id"):
            raise self._sbatch_said(str(answer.get("error") or "no reason given"))
        result = self._task(str(answer["task_id"]), min(until, time.monotonic() + TASK_S))
        if str(result.get("status", "ok")).lower() == "error" or result.get("error"):
            raise self._sbatch_said(str(result.get("error") or "no reason given"))
        job_id = str(result.get("jobid") or "")
        if not job_id:
            match = re.search(r"Submitted batch job (\d+)", str(result.get("output") or ""))
            if match is None:
                raise Unavailable(self.service, "NERSC took the job but did not say its id")
            job_id = match[1]
        return job_id

    def find(self, key: str) -> list[TaskStatus]:
        """All jobs of our user with this name, live or ended within two weeks, oldest first."""
        user = self._user()
        rows = {str(r.get("jobid")): r for r in self._rows("sacct", [f"user={user}"]) if r.get("jobname") == key}
        live = {str(r.get("jobid")): r for r in self._rows("squeue", [f"user={user}"]) if r.get("name") == key}
        if not rows and not live:  # sacct alone looks back to midnight only
            older = self._table("sacct", [f"user={user}", f"starttime=now-{HISTORY_DAYS}days"])
            rows = {str(r.get("jobid")): r for r in older[0] or [] if r.get("jobname") == key}
        return [
            status
            for job_id in sorted({*rows, *live}, key=_age)
            if "." not in job_id and (status := _newest(job_id, rows.get(job_id), live.get(job_id))) is not None
        ]

    def poll(self, ids: Iterable[str]) -> dict[str, TaskStatus]:
        """The state of many jobs in few requests. A job that NERSC does not know (yet) is left out."""
        until = time.monotonic() + CALL_S
        found: dict[str, TaskStatus] = {}
        for chunk in _chunks(sorted({i for i in map(str, ids) if re.fullmatch(r"\d+(_\d+)?", i)}, key=_age)):
            if time.monotonic() > until:
                break  # the rest at the next poll
            found |= self._poll(chunk)
        return found

    def _poll(self, ids: Sequence[str]) -> dict[str, TaskStatus]:
        named = [f"jobid={','.join(ids)}"]
        ended, trouble = self._table("sacct", named)
        rows = {str(row.get("jobid")): row for row in ended or []}
        waiting = [i for i in ids if i not in rows or str(rows[i].get("state", "")).startswith("PENDING")]
        live: dict[str, Any] = {}
        if waiting:  # squeue says what a job waits for, and knows jobs that the accounting does not have yet
            queue, squeue_trouble = self._table("squeue", [f"jobid={','.join(waiting)}"])
            if ended is None and queue is None:
                raise Unavailable(self.service, f"NERSC cannot list jobs: {trouble or squeue_trouble}")
            live = {str(row.get("jobid")): row for row in queue or []}
        statuses = {i: _newest(i, rows.get(i), live.get(i)) for i in ids}
        return {i: status for i, status in statuses.items() if status is not None}

    def cancel(self, task_id: str) -> None:
        """Ask Slurm to end the job. Not an error when it has ended, or is not known."""
        try:
            answer = self.session.delete(f"compute/jobs/{self.machine}/{quote(task_id, safe='')}", "cancel a job")
        except NotFound:
            return
        error = str(answer.get("error") or "") if isinstance(answer, dict) else ""
        if error and "Invalid job id" not in error and "already completing" not in error:
            raise Refused(self.service, f"NERSC did not cancel job {task_id}: {error}")

    def url(self, task_id: str) -> str | None:
        return self.job_page.replace("{id}", task_id) if self.job_page else None

    # the machine

    def available(self, *also: str) -> None:
        """Raises Unavailable, with the reason and when it ends where that is known, when the machine takes no jobs.

        also: other resources of NERSC's status page that must be up, such as "archive", which is HPSS.
        """
        for resource in (self.machine, *also):
            outages.up(self.session, resource)

    def planned(self, now: datetime) -> list[outages.Outage]:
        """The maintenance of the machine that is announced and has not begun, soonest first."""
        return outages.coming(self.session, self.machine, now)

    def key_ends(self) -> datetime | None:
        """When the key that is in use ends; None when nobody says. The variable `<key_env>_EXPIRES` counts first."""
        said = os.environ.get(f"{self.key_env}_EXPIRES", "").strip()
        if said:
            end = outages.when(said)
            if end is None:
                raise CredentialProblem(self.service, f"{self.key_env}_EXPIRES={said} is no date: write 2026-12-24")
            return end
        ours = self.session.client_id()
        ends: dict[str, datetime] = {}
        for client in self.session.get("account/clients", doing="list API clients") or []:
            if (end := outages.when(client.get("expiresAt"))) is not None:
                ends[str(client.get("clientId"))] = end
        return ends.get(ours) or min(ends.values(), default=None)

    def key_ending(self, end: datetime, now: datetime) -> CredentialProblem | None:
        """What is to be said of a key that ends then; None while there is time."""
        if not credentials.ends_soon(end, self.session.key_made(), now):
            return None
        return CredentialProblem(
            self.service,
            f"the NERSC key {'ended' if end <= now else 'ends'} {end:%Y-%m-%d %H:%M} UTC: make a new one in Iris now, "
            f"and put it into the file that {self.key_env} names; no restart is needed",
            "ENDS",
        )

    def run_command(self, argv: Sequence[str]) -> str:
        """What a short command on a login node prints. Raises Refused with its words when it fails."""
        data = {"executable": shlex.join(argv)}
        answer = self.session.post(f"utilities/command/{self.machine}", data, "run a command")
        if answer.get("status") != "OK" or not answer.get("task_id"):
            raise Unavailable(self.service, f"NERSC did not run {argv[0]}: {answer.get('error')}")
        result = self._task(str(answer["task_id"]), time.monotonic() + TASK_S)
        if result.get("error") or str(result.get("status", "ok")).lower() == "error":
            raise Refused(self.service, f"{argv[0]} failed at NERSC: {result.get('error')}")
        return str(result.get("output") or "")

    def check(self, accounts: Sequence[str] = (), paths: Sequence[str] = ()) -> list[Finding]:
        """A flight check: sign-in, what the key may do, the machine, projects, directories; each by doing it."""
        from resources.sfapi_check import findings

        return findings(self, accounts, paths)

    # files

    def read(self, path: str, max_bytes: int) -> bytes:
        """A small file. Raises NotFound only when NERSC is healthy and says so; Refused when it is larger."""
        answer = self.session.get(self._on("download", path), {"binary": True}, f"read {path}")
        if answer.get("status") != "OK":
            raise self._file_trouble(path, str(answer.get("error") or ""))
        text = str(answer.get("file") or "")
        if len(text) * 3 // 4 - 2 > max_bytes:
            raise Refused(self.service, f"{path} is larger than {max_bytes} bytes")
        try:
            content = base64.b64decode(text, validate=True) if answer.get("is_binary", True) else text.encode()
        except binascii.Error as error:
            raise Unavailable(self.service, f"NERSC sent {path} in a form that cannot be read") from error
        if len(content) > max_bytes:
            raise Refused(self.service, f"{path} is larger than {max_bytes} bytes")
        return content

    def ls(self, path: str) -> list[Entry]:
        """What is in a directory; for a file, itself. Raises NotFound as `read` does."""
        return [entry for entry in self._listing(path) if entry.name not in (".", "..")]

    def stat(self, path: str) -> Entry:
        """A file or directory itself."""
        entries = self._listing(path)
        own = next((entry for entry in entries if entry.name == "."), entries[0])
        return Entry(path.rstrip("/").rpartition("/")[2], own.type, own.bytes, own.mtime)

    def exists(self, path: str) -> bool:
        """False only when NERSC is healthy and says so."""
        try:
            self._listing(path)
        except NotFound:
            return False
        return True

    def upload(self, path: str, content: bytes) -> None:
        """Write a small file; its directory must exist."""
        answer = self.session.put_file(self._on("upload", path), path.rpartition("/")[2], content, f"write {path}")
        if answer.get("status") != "OK":
            raise self._file_trouble(path, str(answer.get("error") or ""))

    def _listing(self, path: str) -> list[Entry]:
        answer = self.session.get(self._on("ls", path), doing=f"list {path}")
        if answer.get("status") != "OK":
            raise self._file_trouble(path, str(answer.get("error") or ""))
        entries = [_entry(row) for row in answer.get("entries") or []]
        if not entries:
            raise Unavailable(self.service, f"NERSC listed {path} without any entry, not even the directory itself")
        return entries

    def _on(self, verb: str, path: str) -> str:
        if not path.startswith("/") or "\0" in path or ".." in path.split("/"):
            raise Refused(self.service, f"{path!r} is not an absolute path without ..")
        return f"utilities/{verb}/{self.machine}/{quote(path, safe='/')}"

    def _file_trouble(self, path: str, says: str) -> FacilityError:
        if "No such file or directory" in says:
            self._healthy(path)
            return NotFound(self.service, f"{path} is not there")
        if any(words in says for words in ("Permission denied", "Is a directory", "Not a directory", "too large")):
            return Refused(self.service, f"{path}: {says[:300]}")
        return Unavailable(self.service, f"NERSC could not reach {path}: {says[:300] or 'no reason given'}")

    def _healthy(self, path: str) -> None:
        """Raises Unavailable when a "no such file" of this machine proves nothing."""
        status = self.session.get(f"status/{self.machine}", doing="say how the machine is")
        if str(status.get("status")) == "unavailable":
            raise Unavailable(
                self.service, f"{self.machine} is not available, so {path} cannot be looked for", "OUTAGE"
            )
        for root in self.roots:
            if path.startswith(root.rstrip("/") + "/"):
                answer = self.session.get(self._on("ls", root), doing=f"list {root}")
                if answer.get("status") != "OK":
                    raise Unavailable(self.service, f"{root} cannot be listed, so {path} cannot be looked for")

    # requests

    def _user(self) -> str:
        return self.user or str(self.session.get("account/", doing="say whose key this is").get("name") or "")

    def _table(self, command: str, filters: Sequence[str]) -> tuple[list[Mapping[str, Any]] | None, str]:
        """The rows of squeue or sacct; None and the reason when Slurm could not be asked."""
        params = {"sacct": command == "sacct", "cached": False, "kwargs": list(filters)}
        answer = self.session.get(f"compute/jobs/{self.machine}", params, "list jobs")
        output = answer.get("output") if isinstance(answer, dict) else None
        if not isinstance(output, list) or answer.get("status") == "ERROR":
            says = str(answer.get("error") or "no reason given") if isinstance(answer, dict) else "no reason given"
            return None, f"{command}: {says[:300]}"
        return [row for row in output if isinstance(row, dict)], ""

    def _rows(self, command: str, filters: Sequence[str]) -> list[Mapping[str, Any]]:
        rows, trouble = self._table(command, filters)
        if rows is None:
            raise Unavailable(self.service, f"NERSC cannot list jobs: {trouble}")
        return rows

    def _task(self, task_id: str, until: float) -> Mapping[str, Any]:
        """What an SFAPI task came to. Raises Unavailable when that is not known by `until`."""
        pause = 0.1
        while True:
            try:
                task = self.session.get(f"tasks/{quote(task_id, safe='')}", doing="say what became of a request")
            except NotFound:
                task = {"status": "new"}  # the API's cache lags
            if task.get("status") == "completed" and task.get("result"):
                try:
                    result = json.loads(task["result"])
                except ValueError:
                    result = {"output": task["result"]}
                return result if isinstance(result, dict) else {"output": result}
            if task.get("status") in ("failed", "cancelled"):
                says = str(task.get("result") or "no reason given")[:300]
                raise Unavailable(self.service, f"NERSC's API gave up on the request: {says}")
            if time.monotonic() + pause > until:
                raise Unavailable(self.service, "NERSC's API has taken the request but not carried it out yet")
            time.sleep(pause)
            pause = min(pause * 1.6, 2.0)

    def _sbatch_said(self, says: str) -> FacilityError:
        words = " ".join(says.replace("sbatch: error:", "").split())[:400]
        if any(text in says for text in UNKNOWN):
            return Unavailable(self.service, f"Slurm did not answer the submission: {words}")
        if any(text in says for text in LATER):
            return Unavailable(self.service, f"Slurm takes no further job at present: {words}", "QUEUE_FULL")
        if "sbatch" in says:
            return Refused(self.service, f"Slurm refused the job: {words}", "SBATCH")
        return Unavailable(self.service, f"NERSC's API did not submit the job: {words}")


def _newest(job_id: str, ended: Mapping[str, Any] | None, live: Mapping[str, Any] | None) -> TaskStatus | None:
    """Of a job's rows in sacct and squeue, the one that knows more: an end counts, else what the queue says."""
    old = slurm_states.status(job_id, ended) if ended is not None else None
    if old is not None and (not old.state.live or live is None):
        return old
    return (slurm_states.status(job_id, live) if live is not None else None) or old


def _age(job_id: str) -> tuple[int, str]:
    head = re.match(r"\d+", job_id)
    return (int(head[0]) if head else 0, job_id)


def _chunks(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(ids), CHUNK):
        yield ids[start : start + CHUNK]


def _entry(row: Mapping[str, Any]) -> Entry:
    perms, name = str(row.get("perms") or "?"), str(row.get("name") or "")
    kind = {"-": "file", "d": "dir", "l": "link"}.get(perms[0], "other")
    if kind == "link":
        name = name.partition(" -> ")[0]
    if kind != "dir":
        name = name.rpartition("/")[2]
    date = str(row.get("date") or "")
    return Entry(
        name, kind, int(row.get("size") or 0), outages.when(date) if re.search(r"(Z|[+-]\d\d:?\d\d)$", date) else None
    )


if TYPE_CHECKING:

    def _is_a_task_system(nersc: Superfacility) -> TaskSystem:
        return nersc
