"""als-describe: metadata, thumbnail and SHA-256 of many scans, read where the bytes are.

    als-describe < request.json
    {"scans": [{"id": "…", "files": ["/abs/…"], "layout": {…} | "als_7011"}], "out": "/abs/dir"}

For each scan one document `out/<id>.json` appears, whole. What is wrong with a scan stands in its own document
(`error`) and stops no other; a file is hashed even where it cannot be opened as HDF5.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from als_analysis.atomic import json_safe, write_json
from als_analysis.failure import OK, BadArguments, Failure, OutputError, one_line, run_command

_SAFE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
_BLOCK = 4 << 20


def describe_scan(id_: str, files: list[str], layout: Any) -> dict[str, Any]:
    """One `als-description/1` document; never raises for what is wrong with the scan itself.

    `metadata` is flat, {"name": {"value", "unit"}}; `files` are in the given order, with what could be found out.
    """
    errors: list[dict[str, str]] = []
    listed: list[dict[str, Any]] = []
    for name in files:
        entry, problem = _hashed(Path(name))
        listed.append(entry)
        if problem is not None:
            errors.append({"path": name, "reason": problem})
    metadata: dict[str, Any] = {}
    missing: list[str] = []
    picture: str | None = None
    if not errors:
        try:
            metadata, missing, picture = _looked_into([Path(name) for name in files], layout)
        except _InFile as problem:
            errors.append({"path": problem.path, "reason": problem.reason})
    return {
        "schema": "als-description/1",
        "id": id_,
        "files": listed,
        "metadata": json_safe(metadata),
        "metadata_missing": missing,
        "thumbnail": picture,
        "error": errors[0] if errors else None,
    }


class _InFile(Exception):
    def __init__(self, path: str, reason: str) -> None:
        super().__init__(reason)
        self.path, self.reason = path, reason


def _hashed(path: Path) -> tuple[dict[str, Any], str | None]:
    entry: dict[str, Any] = {"path": str(path), "bytes": None, "mtime": None, "sha256": None}
    try:
        digest = hashlib.sha256()
        with path.open("rb", buffering=0) as file:
            while block := file.read(_BLOCK):
                digest.update(block)
        status = path.stat()
    except OSError as error:
        return entry, one_line(f"cannot be read: {error.strerror or error}")
    modified = datetime.fromtimestamp(status.st_mtime, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    entry.update(bytes=status.st_size, mtime=modified, sha256=digest.hexdigest())
    return entry, None


def _looked_into(files: list[Path], layout_spec: Any) -> tuple[dict[str, Any], list[str], str | None]:
    from als_analysis.readers import load_layout, open_frames
    from als_analysis.thumbnail import thumbnail

    try:
        layout = load_layout(layout_spec)
    except Failure as failure:
        raise _InFile(str(files[0]), one_line(str(failure))) from failure
    if layout.reader is None:
        return {}, [], None
    companions = {
        layout.companion(raw, pattern) for raw in files for pattern in (layout.roi_file, layout.metadata_file)
    }
    raw = next((path for path in files if path not in companions), files[0])
    try:
        with open_frames(raw, layout) as source:
            metadata, missing = source.metadata()
            frames, height, width = source.shape
            metadata |= {
                "frames": {"value": frames, "unit": None},
                "height": {"value": height, "unit": "pixel"},
                "width": {"value": width, "unit": "pixel"},
                "dtype": {"value": str(source.dtype), "unit": None},
            }
            return metadata, missing, thumbnail(source)
    except Failure as failure:
        raise _InFile(str(raw), one_line(str(failure))) from failure


def describe_all(request: Any) -> int:
    """Describe every scan of a request, one document each; returns how many have an error."""
    if not isinstance(request, dict) or not isinstance(request.get("scans"), list):
        raise BadArguments("request: field scans: expected a list")
    out = request.get("out")
    if not isinstance(out, str) or not Path(out).is_absolute():
        raise BadArguments("request: field out: expected an absolute path")
    for index, scan in enumerate(request["scans"]):
        if not isinstance(scan, dict) or not isinstance(scan.get("id"), str) or not _SAFE_ID.fullmatch(scan["id"]):
            raise BadArguments(f"request: scans[{index}].id: expected letters, digits, dot, dash, underscore")
        names = scan.get("files")
        if not isinstance(names, list) or not names or not all(isinstance(n, str) and "\0" not in n for n in names):
            raise BadArguments(f"request: scans[{index}].files: expected a list of paths")
    bad = 0
    for scan in request["scans"]:
        document = describe_scan(scan["id"], scan["files"], scan.get("layout"))
        bad += document["error"] is not None
        write_json(Path(out) / f"{scan['id']}.json", document)
    return bad


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="als-describe",
        description="Describe scans: metadata, thumbnail, SHA-256. The request comes on stdin.",
        epilog='example: echo \'{"scans":[{"id":"a","files":["/data/a.h5"]}],"out":"/tmp/d"}\' | als-describe; '
        "exit 0 all documents written (a scan's own error stands in its document), 2 bad request, 8 out not writable",
    )
    parser.parse_args(argv)

    def body() -> int:
        try:
            request = json.loads(sys.stdin.read())
        except ValueError as error:
            raise BadArguments(f"request: not JSON: {error}") from error
        try:
            bad = describe_all(request)
        except OSError as error:
            raise OutputError(str(error)) from error
        print(json.dumps({"scans": len(request["scans"]), "with_error": bad}))
        return OK

    return run_command("als-describe", body)


if __name__ == "__main__":
    sys.exit(main())
