"""`als wait`: scripts learn from its exit status what became of a scan."""

from __future__ import annotations

import json
import threading
import time

from tests.noticing.conftest import Beamline


def test_it_ends_when_the_scan_is_done(beamline: Beamline) -> None:
    beamline.raw()
    for asset in ("raw_at_cfs", "xpcs_result", "catalog_entry"):
        beamline.rig.run(asset)
    ended = beamline.als("wait", "bl7011", "a.h5", "--json")
    assert ended.exit_code == 0 and json.loads(ended.stdout)["state"] == "done"


def test_one_asset_is_waited_for_by_itself(beamline: Beamline) -> None:
    beamline.raw()
    assert beamline.als("wait", "bl7011", "a.h5", "--asset", "raw_at_cfs", "--timeout", "0").exit_code == 2
    beamline.rig.run("raw_at_cfs")
    assert beamline.als("wait", "bl7011", "a.h5", "--asset", "raw_at_cfs", "--timeout", "0").exit_code == 0
    assert beamline.als("wait", "bl7011", "a.h5", "--timeout", "0").exit_code == 2


def test_a_scan_that_is_not_noticed_yet_is_waited_for_by_its_path(beamline: Beamline) -> None:
    codes: list[int] = []
    waiting = threading.Thread(
        target=lambda: codes.append(
            beamline.als("wait", "bl7011", "day/a b.h5", "--asset", "raw_at_dtn", "--timeout", "60").exit_code
        )
    )
    waiting.start()
    time.sleep(0.2)
    beamline.raw("day/a b.h5")
    waiting.join(60)
    assert codes == [0]


def test_what_will_not_come_by_waiting_ends_at_once(beamline: Beamline) -> None:
    beamline.spec(export_control={"paths": ["secret/**"]})
    beamline.raw("secret/a.h5")
    ended = beamline.als("wait", "bl7011", "secret/a.h5", "--timeout", "30")
    assert ended.exit_code == 1 and "export control" in ended.output
    beamline.raw("b.h5", age=100)
    beamline.write("b.h5", b"others")
    beamline.look()
    ended = beamline.als("wait", "bl7011", "b.h5", "--timeout", "30")
    assert ended.exit_code == 1 and "question: b.h5 was changed" in ended.output


def test_a_timeout_says_what_was_waited_for(beamline: Beamline) -> None:
    ended = beamline.als("wait", "bl7011", "never.h5", "--timeout", "0")
    assert ended.exit_code == 2 and "timed out after 0 s: it has not been noticed yet" in ended.output
    ended = beamline.als("wait", "bl7011", "never.h5", "--asset", "nothing")
    assert ended.exit_code == 2 and "bl7011 has no asset 'nothing'" in ended.output
