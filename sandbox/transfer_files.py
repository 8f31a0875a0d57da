"""Operations of the Transfer service on the files of a collection: ls, stat, mkdir, rename.

Faults of service "transfer", where `path` matches the path asked for: endpoint_down, permission_denied,
file_not_found; and consent_required, where `path` is the collection's name.
"""

from __future__ import annotations

import grp
import os
import pwd
import stat as modes
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import NoReturn

from starlette.routing import BaseRoute, Route

from sandbox.box import Box, Doc
from sandbox.faults import of_service
from sandbox.transfer_answers import Call, Refusal, answering, matching, ordered
from sandbox.transfer_collections import Collection, OutsideRoot, to_wire

LARGEST_LISTING = 100_000


def routes(box: Box) -> list[BaseRoute]:
    prefix = "/v0.10/operation/endpoint/{endpoint}"
    return [
        Route(f"{prefix}/ls", answering(box, ls)),
        Route(f"{prefix}/stat", answering(box, stat)),
        Route(f"{prefix}/mkdir", answering(box, mkdir), methods=["POST"]),
        Route(f"{prefix}/rename", answering(box, rename), methods=["POST"]),
    ]


def ls(call: Call) -> Doc:
    collection = call.collection(call.path["endpoint"])
    path = call.query.get("path", "/")
    limit = call.whole_number("limit", LARGEST_LISTING, LARGEST_LISTING)
    offset = call.whole_number("offset", 0, 10**9)
    directory = _reach(call, collection, path, "list")
    if not directory.exists():
        raise Refusal(404, "ClientError.NotFound", _words("list", collection, "No such file or directory", path))
    if not directory.is_dir():
        code = "ExternalError.DirListingFailed.NotDirectory"
        raise Refusal(502, code, _words("list", collection, "Not a directory", path))
    try:
        names = os.listdir(directory)  # noqa: PTH208 - names that are no UTF-8 included, cheaper than Paths
    except OSError as error:
        _failed("DirListingFailed", "list", collection, path, error)
    if len(names) > LARGEST_LISTING:
        code = "ExternalError.DirListingFailed.SizeLimit"
        raise Refusal(502, code, _words("list", collection, f"Directory limit of {LARGEST_LISTING} reached", path))
    hidden = call.query.get("show_hidden", "1") != "0"
    entries = [_entry(collection, directory / name) for name in names if hidden or not name.startswith(".")]
    found = [entry for entry in entries if entry is not None]
    filters = call.query.getlist("filter")
    if filters:
        found = _any_of(found, filters)
    found = ordered(found, call.query.get("orderby", "name"))
    page = found[offset : offset + limit]
    return {
        "DATA_TYPE": "file_list",
        "DATA": page,
        "absolute_path": "/" + str(directory.relative_to(collection.root.resolve())).removeprefix("."),
        "endpoint": collection.id,
        "path": path,
        "length": len(page),
        "limit": limit,
        "offset": offset,
        "total": len(found),
        "rename_supported": True,
        "symlink_supported": False,
    }


def stat(call: Call) -> Doc:
    collection = call.collection(call.path["endpoint"])
    path = call.query.get("path", "/")
    place = _reach(call, collection, path, "stat", follow=False)
    entry = _entry(collection, place)
    if entry is None:
        raise Refusal(
            404, "NotFound", f"Path not found, {_words('list', collection, 'No such file or directory', path)}"
        )
    return entry


def mkdir(call: Call) -> Doc:
    collection = call.collection(call.path["endpoint"])
    path = str(call.body.get("path", ""))
    place = _reach(call, collection, path, "mkdir", writes=True)
    try:
        place.mkdir()
    except FileExistsError as error:
        words = _words("mkdir", collection, "Path already exists", path)
        raise Refusal(502, "ExternalError.MkdirFailed.Exists", words) from error
    except OSError as error:
        _failed("MkdirFailed", "mkdir", collection, path, error)
    return call.result("mkdir_result", "DirectoryCreated", "The directory was created successfully")


def rename(call: Call) -> Doc:
    collection = call.collection(call.path["endpoint"])
    old, new = str(call.body.get("old_path", "")), str(call.body.get("new_path", ""))
    source = _reach(call, collection, old, "rename", follow=False, writes=True)
    target = _reach(call, collection, new, "rename", follow=False, writes=True)
    if not os.path.lexists(source):
        raise Refusal(
            404, "NotFound", f"Path not found, {_words('rename', collection, 'No such file or directory', old)}"
        )
    if os.path.lexists(target):
        raise Refusal(409, "Exists", f"Path already exists, {_words('rename', collection, 'File exists', new)}")
    try:
        source.rename(target)
    except OSError as error:
        _failed("RenameFailed", "rename", collection, new, error)
    return call.result("result", "FileRenamed", "File or directory renamed successfully")


def _reach(call: Call, collection: Collection, path: str, verb: str, follow: bool = True, writes: bool = False) -> Path:
    """The place on this machine, after the faults and permissions that come before it."""
    service = "DirListingFailed" if verb in ("list", "stat") else f"{verb.capitalize()}Failed"
    if call.box.take_fault(of_service("transfer", ("endpoint_down",), path)):
        words = _words(verb, collection, "Could not connect to server", path)
        raise Refusal(502, f"ExternalError.{service}.ConnectFailed", words)
    if call.box.take_fault(of_service("transfer", ("file_not_found",), path)):
        code = "ClientError.NotFound" if verb == "list" else "NotFound"
        raise Refusal(404, code, "Path not found, " + _words(verb, collection, "No such file or directory", path))
    denied = call.box.take_fault(of_service("transfer", ("permission_denied",), path)) is not None
    try:
        place = collection.locate(path, follow)
    except OutsideRoot:
        denied = True
    if denied or (writes and collection.read_only):
        raise Refusal(
            403, "EndpointPermissionDenied", "Denied by endpoint, " + _words(verb, collection, "Path not allowed", path)
        )
    return place


def _words(verb: str, collection: Collection, message: str, path: str) -> str:
    return (
        f"Error ({verb})\nEndpoint: {collection.name} ({collection.id})\nServer: 127.0.0.1:443\n"
        f"Message: {message}\n---\nDetails: 500 Command failed: {path}: {message}\n"
    )


def _failed(what: str, verb: str, collection: Collection, path: str, error: OSError) -> NoReturn:
    words = _words(verb, collection, error.strerror or str(error), path)
    if isinstance(error, PermissionError):
        raise Refusal(403, "EndpointPermissionDenied", "Denied by endpoint, " + words) from error
    raise Refusal(502, f"ExternalError.{what}", words) from error


def _entry(collection: Collection, place: Path) -> Doc | None:
    """The file document of a path, or None when nothing is there. A link that leads out looks like a broken one."""
    try:
        own = place.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    link: Doc = dict.fromkeys(("link_group", "link_last_modified", "link_size", "link_target", "link_user"))
    seen, kind = own, _kind(own.st_mode)
    if kind == "link":
        link = {
            "link_group": _group(own.st_gid),
            "link_last_modified": _when(own.st_mtime),
            "link_size": own.st_size,
            "link_target": to_wire(str(place.readlink())),
            "link_user": _user(own.st_uid),
        }
        inside = place.resolve().is_relative_to(collection.root.resolve())
        try:
            seen = place.stat() if inside else own
        except OSError:
            inside = False
        kind = _kind(seen.st_mode) if inside else "invalid_symlink"
    return {
        "DATA_TYPE": "file",
        "name": to_wire(place.name),
        "type": kind,
        "size": seen.st_size,
        "last_modified": _when(seen.st_mtime),
        "permissions": f"{modes.S_IMODE(seen.st_mode):04o}",
        "user": _user(seen.st_uid),
        "group": _group(seen.st_gid),
        **link,
    }


def _kind(mode: int) -> str:
    for test, name in (
        (modes.S_ISREG, "file"),
        (modes.S_ISDIR, "dir"),
        (modes.S_ISLNK, "link"),
        (modes.S_ISFIFO, "pipe"),
        (modes.S_ISCHR, "chr"),
        (modes.S_ISBLK, "blk"),
    ):
        if test(mode):
            return name
    return "other"


def _when(seconds: float) -> str:
    """ "2023-12-18 16:52:50+00:00": whole seconds."""
    return datetime.fromtimestamp(int(seconds), UTC).isoformat(" ")


@cache
def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


@cache
def _group(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def _any_of(entries: list[Doc], filters: list[str]) -> list[Doc]:
    """Those that fulfil at least one of several filters."""
    names = {entry["name"] for one in filters for entry in matching(entries, one, ("type",))}
    return [entry for entry in entries if entry["name"] in names]
