"""Freeing a disk: copies are deleted when better ones have been proven, in two phases, each of which decides anew.

    run        one run on a beamline: `Pruning(…).plan()` and `.run()`
    place      what all parts of a run on one place share; way_back, deletion and removal build on each other
    facts      what the ledger knows; looks: what is in the other places now; trash: where the files wait
    report     what was done, and why the rest stays; job: the Dagster job

The decision itself is `beamlines.policy.deletable`, what is remembered is `resources.ledger.removals`.
"""

from als_assets.pruning.report import Report, State, short_days
from als_assets.pruning.run import AtWork, Pruning

__all__ = ["AtWork", "Pruning", "Report", "State", "short_days"]
