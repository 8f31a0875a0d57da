"""One run of `ensure` as a process of its own: what a test kills. Prints the key of each scan that it reports."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from als import platform
from als_assets import families
from als_assets.ensure import Ensure
from resources.facilities import Facilities, FacilityFile
from resources.ledger import Ledger


async def main(asked: dict) -> dict[str, str]:
    facilities = Facilities(FacilityFile.model_validate(asked["facilities"]))
    spec = platform.spec_of("bl7011")
    ledger = Ledger(asked["ledger"], facilities.name)
    services = dict(facilities.services)
    family = families.family(spec, spec.asset(asked["asset"]), facilities, ledger, services)
    engine = Ensure(ledger, family, facilities.pace, families.systems(services), f"process {os.getpid()}")
    async for made in engine.run(asked["keys"], asked["patient"]):
        print(made.scan.key, flush=True)
    return engine.failed


if __name__ == "__main__":
    failed = asyncio.run(main(json.loads(sys.argv[1])))
    print(json.dumps(failed), file=sys.stderr)
    raise SystemExit(1 if failed else 0)
