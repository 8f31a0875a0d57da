"""What differs between an entry of the catalogue and the one that is wanted.

The backend answers in its own spelling: times in UTC to the millisecond, folders without a trailing slash, `_id` on
what is in a list, valueSI and unitSI beside every quantity, the investigator of a result as principalInvestigator.
None of these is a difference.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

Document = dict[str, Any]
NOT_COMPARED = {"pid", "type", "datasetlifecycle", "size", "packedSize", "numberOfFiles", "numberOfFilesArchived"}
ADDED = {"_id", "valueSI", "unitSI"}


def origdatablock_of(files: Sequence[Mapping[str, Any]]) -> Document:
    """The body that lists these files."""
    block: Document = {"size": sum(int(f["size"]) for f in files), "dataFileList": list(files)}
    return {**block, "chkAlg": "sha256"} if any(f.get("chk") for f in files) else block


def changed_fields(present: Mapping[str, Any], wanted: Mapping[str, Any]) -> Document:
    """The fields of `wanted` that `present` has otherwise, apart from what the backend adds or spells its own way."""
    shown = {**present, "investigator": present.get("principalInvestigator")}
    return {k: v for k, v in wanted.items() if k not in NOT_COMPARED and not equal(shown.get(k), v)}


def equal(present: Any, wanted: Any) -> bool:
    if isinstance(wanted, Mapping):
        return (
            isinstance(present, Mapping)
            and set(present) - ADDED == set(wanted) - ADDED
            and all(equal(present[k], wanted[k]) for k in set(wanted) - ADDED)
        )
    if isinstance(wanted, list | tuple):
        return (
            isinstance(present, list)
            and len(present) == len(wanted)
            and all(equal(p, w) for p, w in zip(present, wanted, strict=True))
        )
    if isinstance(wanted, str) and isinstance(present, str) and present != wanted:
        return (_moment(present) is not None and _moment(present) == _moment(wanted)) or present == wanted.rstrip("/")
    return bool(present == wanted) and isinstance(present, bool) == isinstance(wanted, bool)


def _moment(text: str) -> datetime | None:
    """The time that a text says, to the millisecond as the backend keeps it."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000) if moment.tzinfo else None


def same_file(wanted: Mapping[str, Any], listed: Mapping[str, Any]) -> bool:
    checksums = {one for one in (wanted.get("chk"), listed.get("chk")) if one}
    return int(wanted["size"]) == int(listed["size"]) and len(checksums) < 2
