"""A companion that comes while the data of its scan are in the trash: what staff are told brings both together."""

from __future__ import annotations

from typing import Any

from als_assets import families
from resources.ledger import refusals
from sensors import new_scans


def test_a_hold_brings_the_data_back_and_the_companion_is_copied(disk: Any) -> None:
    rig = disk.rig
    rule = rig.spec.scans.model_copy(update={"companions": {**rig.spec.scans.companions, "dark": "{stem}_dark.h5"}})
    rig.spec = rig.spec.model_copy(update={"scans": rule})
    rig.pace(settle_s=0)
    place = families.storage(rig.spec, "dtn", rig.facilities, rig.services["globus"])

    def look() -> new_scans.Noticed:
        return new_scans.look(rig.ledger, rig.spec, place, rig.facilities.pace, "globus")

    (key,) = disk.scans()
    disk.prune()
    assert not disk.there(key)
    (disk.root / "day/s000_dark.h5").write_bytes(b"it came late")
    look()
    with rig.ledger.read() as tx:
        assert f"`als hold bl7011 {key}`" in refusals.refused(tx, "bl7011")["'day/s000_dark.h5'"]
    disk.hold(key)
    disk.prune()
    assert disk.there(key)
    assert look().scans == [rig.found(key).id]
    with rig.ledger.read() as tx:
        assert refusals.refused(tx, "bl7011") == {}
    ran = rig.run("raw_at_cfs", [key])
    assert not ran.failed and (rig.cfs / "day/s000_dark.h5").read_bytes() == b"it came late"
