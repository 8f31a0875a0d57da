"""Every asset of a scan, from the detector's disk to the catalogue, with real data and the real analysis."""

from __future__ import annotations

from typing import Any


def test_smoke(rig: Any) -> None:
    (key,) = rig.copied()
    rig.run("xpcs_result")
    rig.run("catalog_entry")
    print(rig.document(key))
