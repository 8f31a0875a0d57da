"""`type: als_assets.component.Beamline`: a spec in a defs.yaml becomes assets, jobs and sensors."""

from __future__ import annotations

import dagster as dg

from als_assets import shells
from als_assets.pruning.job import prune_job
from als_assets.quality import quality_checks
from beamlines.spec import Kind, Spec
from resources.facilities import Facilities, load
from sensors import schedules
from sensors.due_work import due_work
from sensors.new_scans import new_scans


class Beamline(dg.Component):
    """A beamline of a light source: where its scans appear, where they go, and what is made of them."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec

    @classmethod
    def get_model_cls(cls) -> type[Spec]:
        """Dagster checks the attributes against the spec itself, and reports a mistake with file, line and field."""
        return Spec

    @classmethod
    def load(cls, attributes: Spec | None, context: dg.ComponentLoadContext) -> Beamline:
        if attributes is None:
            raise ValueError(f"{context.path}: a beamline needs attributes; see beamlines/bl7011/defs.yaml")
        return cls(attributes)

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        return definitions_of(self.spec, load())


def definitions_of(spec: Spec, facilities: Facilities) -> dg.Definitions:
    """Everything that Dagster is to know of one beamline."""
    noticed, *made = spec.assets()
    assert noticed.kind is Kind.NOTICED
    assets = [shells.partitioned_asset(spec, asset, facilities) for asset in made]
    due_jobs = [shells.due_job(spec, asset, facilities) for asset in made]
    scan_jobs = [shells.scan_job(spec, asset) for asset in made]
    sensors = [new_scans(spec, facilities)]
    if made:
        sensors.append(due_work(spec, facilities, [*due_jobs, *scan_jobs]))
    prune = prune_job(spec, facilities) if spec.prunes else None
    checks = [quality_checks(spec, asset, shells.partitions(spec)) for asset in made]
    return dg.Definitions(
        assets=[shells.asset_spec(spec, noticed), *assets],
        asset_checks=[check for check in checks if check is not None],
        jobs=[*due_jobs, *scan_jobs, *([prune] if prune is not None else [])],
        sensors=sensors,
        schedules=schedules.of_beamline(spec, prune),
    )
