"""One run of `ensure` as a process of its own: what a test kills.

Executed by path, with ASKED given: {environment, ledger, facilities, asset, keys, patient, out}. Appends the key of
each scan that it reports to the file `out`, and exits with 1 when scans have failed. With `dies` (the arguments of
`dying.Deaths`) it kills itself at the first point at which nobody has died yet.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

from als import platform
from als_assets import families
from als_assets.ensure import Ensure
from resources.facilities import Facilities, FacilityFile
from resources.ledger import Ledger
from tests.ensure import dying


async def main(asked: dict[str, Any]) -> dict[str, str]:
    os.environ.update(asked["environment"])
    if asked.get("dies"):
        dying.install(dying.Deaths(**asked["dies"]))
    facilities = Facilities(FacilityFile.model_validate(asked["facilities"]))
    spec = platform.spec_of("bl7011")
    ledger = Ledger(asked["ledger"], facilities.name)
    services = dict(facilities.services)
    family = families.family(spec, spec.asset(asked["asset"]), facilities, ledger, services)
    engine = Ensure(ledger, family, facilities.pace, families.systems(services), f"process {os.getpid()}")
    with Path(asked["out"]).open("a") as out:
        async for made in engine.run(asked["keys"], asked["patient"]):
            print(made.scan.key, file=out, flush=True)
    return engine.failed


if __name__ == "__main__":
    raise SystemExit(1 if asyncio.run(main(globals()["ASKED"])) else 0)
