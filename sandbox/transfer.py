"""Globus Transfer at /transfer: tasks, as the service answers about them. Files are really moved, by sandbox/mover.py.

    GET  /v0.10/submission_id                     POST /v0.10/transfer, /v0.10/delete
    GET, PUT /v0.10/task/{id}                     POST /v0.10/task/{id}/cancel
    GET  /v0.10/task_list                         GET  /v0.10/task/{id}/event_list
    GET  /v0.10/task/{id}/successful_transfers    GET  /v0.10/task/{id}/skipped_errors, pause_info
    GET, PUT /v0.10/endpoint/{id}                 and the operations of transfer_files.py
    GET  /activity/{id}                           the page of a task, for people; the web app has it in production

The same submission_id again is answered with Duplicate and the task that it made first. Faults of this service that are
played here: consent_required (`path`: the collection's name), token_revoked (the token of that very request); more in
transfer_files.py and mover.py, and those of the wire in faults.py.
"""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Callable
from html import escape
from typing import Any

from starlette.requests import Request
from starlette.responses import HTMLResponse
from starlette.routing import BaseRoute, Route

from sandbox import transfer_collections, transfer_files, transfer_tasks
from sandbox.box import Box, Doc
from sandbox.transfer_answers import Call, Refusal, answering, matching, ordered
from sandbox.transfer_collections import ALS_DTN, NERSC_CFS, collections

__all__ = ["ALS_DTN", "NERSC_CFS", "routes", "setup"]

MOST_PENDING = 100
PAGE_OF_FILES = 100


def setup(box: Box) -> dict[str, Any]:
    """Make the collections, and go on with the tasks whose movers died with the machine."""
    made = transfer_collections.setup(box)
    transfer_tasks.supervise(box)
    return {"collections": {one.name: key for key, one in made.items()}}


def routes(box: Box) -> list[BaseRoute]:
    def route(path: str, handler: Any, *methods: str) -> Route:
        return Route(f"/v0.10/{path}", answering(box, handler), methods=list(methods) or ["GET"])

    return [
        route("submission_id", new_submission_id),
        route("transfer", submit_transfer, "POST"),
        route("delete", submit_delete, "POST"),
        route("task_list", task_list),
        route("task/{task}", get_task),
        route("task/{task}", update_task, "PUT"),
        route("task/{task}/cancel", cancel_task, "POST"),
        route("task/{task}/event_list", event_list),
        route("task/{task}/successful_transfers", successful_transfers),
        route("task/{task}/skipped_errors", skipped_errors),
        route("task/{task}/pause_info", pause_info),
        route("endpoint/{endpoint}", get_endpoint),
        route("endpoint/{endpoint}", update_endpoint, "PUT"),
        *transfer_files.routes(box),
        Route("/activity/{task}", activity_page(box)),
    ]


# submission


def new_submission_id(_: Call) -> Doc:
    return {"DATA_TYPE": "submission_id", "value": str(uuid.uuid4())}


def submit_transfer(call: Call) -> Doc:
    if not call.body.get("DATA"):
        raise Refusal(400, "ClientError.BadRequest.NoTransferItems", "A transfer requires at least one item")
    for item in call.body["DATA"]:
        if not item.get("source_path") or not item.get("destination_path"):
            raise Refusal(400, "BadRequest", "an item needs source_path and destination_path")
    if call.body.get("delete_destination_extra") or call.body.get("filter_rules"):
        raise Refusal(400, "BadRequest", "the sandbox knows neither delete_destination_extra nor filter_rules")
    for side in ("source_endpoint", "destination_endpoint"):
        call.collection(str(call.body.get(side)))
    return _submit(call, "TRANSFER", "transfer")


def submit_delete(call: Call) -> Doc:
    if not call.body.get("DATA"):
        raise Refusal(400, "ClientError.BadRequest.NoDeleteItems", "A delete requires at least one item")
    if any(not item.get("path") for item in call.body["DATA"]):
        raise Refusal(400, "BadRequest", "an item needs a path")
    call.collection(str(call.body.get("endpoint")))
    return _submit(call, "DELETE", "delete")


def _submit(call: Call, kind: str, word: str) -> Doc:
    try:
        uuid.UUID(str(call.body.get("submission_id")))
        if call.body.get("deadline"):
            transfer_tasks.parse_time(str(call.body["deadline"]))
    except ValueError as error:
        raise Refusal(400, "BadRequest", f"submission_id or deadline: {error}") from error
    if not re.fullmatch(r"[\w ,-]{0,128}", str(call.body.get("label") or ""), re.ASCII):
        raise Refusal(400, "BadRequest", "a label has up to 128 letters, digits, spaces, commas, '-' or '_'")
    known = call.box.get("submission", str(call.body["submission_id"]).lower())
    if known is None and len(call.box.all("transfer_live")) >= MOST_PENDING:
        raise Refusal(409, "TooManyPendingJobs", f"there are {MOST_PENDING} pending tasks already")
    task_id, fresh = transfer_tasks.accept(call.box, kind, call.body)
    transfer_tasks.supervise(call.box)
    message = (
        f"The {word} has been accepted and a task has been created and queued for execution"
        if fresh
        else "A task with this submission_id already exists"
    )
    link = {"DATA_TYPE": "link", "href": f"/v0.10/task/{task_id}?format=json", "rel": "related", "resource": "task"}
    more = {"submission_id": call.body["submission_id"], "task_id": task_id}
    document = call.result(f"{word}_result", "Accepted" if fresh else "Duplicate", message, **more)
    return {**document, "task_link": {**link, "title": "related task"}}


# tasks


def _task(call: Call) -> Doc:
    task = call.box.get("transfer_task", call.path["task"])
    if task is None:
        raise Refusal(404, "TaskNotFound", f"No such task '{call.path['task']}'")
    return task


def _names(call: Call) -> dict[str, str]:
    return {key: one.name for key, one in collections(call.box).items()}


def get_task(call: Call) -> Doc:
    transfer_tasks.supervise(call.box)
    return transfer_tasks.shown(_task(call), _names(call))


def update_task(call: Call) -> Doc:
    task = _task(call)
    changes = {key: call.body[key] for key in ("label", "deadline") if key in call.body}
    transfer_tasks.change(call.box, task["task_id"], **changes)
    return call.result("result", "Updated", "Updated task details successfully")


def cancel_task(call: Call) -> Doc:
    task_id = _task(call)["task_id"]
    code = transfer_tasks.cancel(call.box, task_id)
    until = time.monotonic() + 5
    while code == "CancelAccepted" and time.monotonic() < until:
        if _task(call)["status"] in transfer_tasks.ENDED:
            code = "Canceled"
        time.sleep(0.05)
    message = {
        "Canceled": "The task has been cancelled successfully.",
        "TaskComplete": "The task completed before the cancel request was processed.",
        "CancelAccepted": "The cancel request has been accepted.",
    }[code]
    return call.result("result", code, message)


def task_list(call: Call) -> Doc:
    transfer_tasks.supervise(call.box)
    limit, offset = call.whole_number("limit", 10, 1000), call.whole_number("offset", 0, 10**9)
    clauses = call.query.get("filter", "")
    asked = [clause.removeprefix("task_id:") for clause in clauses.split("/") if clause.startswith("task_id:")]
    if asked:
        tasks = [call.box.get("transfer_task", task_id) for task_id in dict.fromkeys(asked[0].split(","))]
    else:
        tasks = list(call.box.all("transfer_task"))
    names = _names(call)
    documents = [transfer_tasks.shown(task, names) for task in tasks if task is not None]
    if clauses:
        documents = matching(documents, clauses, ("task_id", "status", "type", "is_paused"))
    documents = ordered(documents, call.query.get("orderby", "request_time DESC"))
    page = documents[offset : offset + limit]
    common = {"DATA_TYPE": "task_list", "DATA": page, "length": len(page)}
    return {**common, "limit": limit, "offset": offset, "total": len(documents)}


def event_list(call: Call) -> Doc:
    limit, offset = call.whole_number("limit", 10, 1000), call.whole_number("offset", 0, 10**9)
    events = call.box.all(f"event/{_task(call)['task_id']}")[::-1]  # newest first
    page = events[offset : offset + limit]
    common = {"DATA_TYPE": "event_list", "DATA": page, "length": len(page)}
    return {**common, "limit": limit, "offset": offset, "total": len(events)}


def successful_transfers(call: Call) -> Doc:
    task = _task(call)
    if task["type"] != "TRANSFER":
        raise Refusal(400, "BadRequest", "only a transfer has successful transfers")
    if task["status"] not in transfer_tasks.ENDED:
        raise Refusal(409, "Conflict", "the task has not ended yet")
    kept = call.box.all(f"done/{task['task_id']}")
    files = [
        {
            "DATA_TYPE": "successful_transfer",
            "source_path": one["source_path"],
            "destination_path": one["destination_path"],
            "checksum": one["checksum"],
            "checksum_algorithm": "MD5" if one["checksum"] else None,
            "size": one["size"],
        }
        for one in kept
    ]
    return _marked(call, "successful_transfers", files)


def skipped_errors(call: Call) -> Doc:
    return _marked(call, "skipped_errors", call.box.all(f"skipped/{_task(call)['task_id']}"))


def _marked(call: Call, kind: str, documents: list[Doc]) -> Doc:
    """A page that begins at the marker; the next one's is null at the end."""
    begin = call.whole_number("marker", 0, 10**9)
    stop = begin + PAGE_OF_FILES
    after = str(stop) if stop < len(documents) else None
    return {"DATA_TYPE": kind, "DATA": documents[begin:stop], "marker": str(begin), "next_marker": after}


def pause_info(call: Call) -> Doc:
    task = _task(call)
    rule = {
        "DATA_TYPE": "pause_rule_limited",
        "id": str(uuid.UUID(int=1)),
        "message": "The endpoint is paused for maintenance",
        "start_time": None,
        "endpoint_id": task["source_endpoint_id"],
        "created_by_host_manager": False,
    }
    return {
        "DATA_TYPE": "pause_info_limited",
        "pause_rules": [rule] if task["is_paused"] else [],
        "source_pause_message": None,
        "source_pause_message_share": None,
        "destination_pause_message": None,
        "destination_pause_message_share": None,
    }


def activity_page(box: Box) -> Callable[[Request], HTMLResponse]:
    def page(request: Request) -> HTMLResponse:
        task = box.get("transfer_task", request.path_params["task"])
        if task is None:
            return HTMLResponse("<!doctype html><title>Globus</title><h1>No such task</h1>", 404)
        rows = transfer_tasks.shown(task, {key: one.name for key, one in collections(box).items()})
        events = box.all(f"event/{task['task_id']}")
        cells = "".join(f"<tr><th>{escape(k)}<td>{escape(str(v))}" for k, v in rows.items() if v not in (None, ""))
        log = "".join(
            f"<tr><td>{e['time']}<td>{escape(e['code'])}<td><pre>{escape(e['details'])}</pre>" for e in events
        )
        style = "<style>body{font-family:sans-serif}th{text-align:left;padding-right:2em}td{vertical-align:top}</style>"
        title = f"Globus task {escape(task['task_id'])} ({escape(task['status'])}), in the sandbox"
        head = f"<!doctype html><meta charset=utf-8><title>{title}</title>{style}<h1>{title}</h1>"
        return HTMLResponse(f"{head}<table>{cells}</table><h2>Events</h2><table>{log}</table>")

    return page


# collections


def get_endpoint(call: Call) -> Doc:
    one = call.collection(call.path["endpoint"])
    changed = call.box.get("endpoint", one.id) or {}
    return {
        "DATA_TYPE": "endpoint",
        "id": one.id,
        "display_name": one.name,
        "entity_type": "GCSv5_mapped_collection",
        "description": "a directory of the sandbox",
        "organization": "sandbox",
        "owner_id": transfer_tasks.OWNER,
        "owner_string": "sandbox",
        "public": True,
        "non_functional": False,
        "is_globus_connect": False,
        "gcp_connected": None,
        "gcp_paused": None,
        "default_directory": "/",
        "disable_verify": False,
        "force_verify": False,
        "force_encryption": False,
        "high_assurance": False,
        "mfa_required": False,
        "acl_available": False,
        "acl_editable": False,
        "keywords": [],
        "my_effective_roles": [],
        **changed,
    }


def update_endpoint(call: Call) -> Doc:
    one = call.collection(call.path["endpoint"])
    known = call.box.get("endpoint", one.id) or {}
    allowed: Doc = {key: call.body[key] for key in ("display_name", "description", "keywords") if key in call.body}
    call.box.put("endpoint", one.id, {**known, **allowed})
    return call.result("result", "Updated", "Endpoint updated successfully")
