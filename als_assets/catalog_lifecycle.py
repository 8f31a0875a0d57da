"""Where the files of a scan are, as SciCat's life cycle and archive packages tell it. Pure: facts in, documents out.

The fields of each state are those that the real backend keeps (docs: SciCat, datasetlifecycle). They are set by the
route that merges, never inside a data set: there every field that is not named would be reset.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from als_assets.catalog_documents import FileFacts, file_list, utc

ON_TAPE = "nersc-hpss"
PACKAGE_VERSION = "htar-1"


def lifecycle(
    step_state: str | None, archive: Mapping[str, Any] | None, purged: datetime | None = None
) -> dict[str, Any]:  # fmt: skip
    """The fields for a scan on disk, being archived, archived, or whose archiving has failed.

    Args:
        step_state: of the archive's step in the ledger; None when the beamline archives nothing.
        archive: als-archive's result document, once there is one.
        purged: when its copy on the central disk was deleted; None while it is there.
    """
    on_disk: dict[str, Any] = {"isOnCentralDisk": purged is None}
    if purged is not None:
        on_disk["dateOfDiskPurging"] = utc(purged)
    if archive is not None:
        verified = archive.get("verified") or {}
        return {
            **on_disk,
            "archivable": False,
            "retrievable": True,
            "archiveStatusMessage": "datasetOnArchiveDisk",
            "storageLocation": ON_TAPE,
            "archiveReturnMessage": {
                "path": archive["archive"],
                "manifest": archive.get("manifest_path"),
                "checksum": verified.get("method"),
            },
        }
    if step_state in ("in_flight", "landed"):
        return {**on_disk, "archivable": False, "retrievable": False, "archiveStatusMessage": "started"}
    if step_state == "failed":
        return {**on_disk, "retrievable": False, "archiveStatusMessage": "scheduleArchiveJobFailed"}
    return {**on_disk, "archivable": True, "retrievable": False, "archiveStatusMessage": "datasetCreated"}


def datablock(archive: Mapping[str, Any], files: Sequence[FileFacts]) -> dict[str, Any]:
    """The archive package of a scan. Its id is unique for ever, as its name on tape is."""
    return {
        "archiveId": f"hpss:{archive['archive']}",
        "size": sum(f.bytes for f in files),
        "packedSize": int(archive.get("bytes") or sum(f.bytes for f in files)),
        "version": PACKAGE_VERSION,
        "chkAlg": "sha256",
        "dataFileList": file_list(files),
    }
