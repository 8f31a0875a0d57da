"""Which family makes which asset: the one place where specs, places and services meet."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from als_assets.archive import ArchiveFamily
from als_assets.catalog import CatalogFamily
from als_assets.family import Family
from als_assets.transfers import CopyFamily
from als_assets.xpcs import XpcsFamily
from beamlines.spec import Asset, Kind, Spec
from resources.facilities import Facilities
from resources.ledger import Ledger
from resources.storage import Storage
from resources.tasks import TaskSystem

TRANSFER, CATALOG = "globus", "scicat"  # the services that every beamline uses, by their names in the facility file


def family(spec: Spec, asset: Asset, facilities: Facilities, ledger: Ledger, services: Mapping[str, Any]) -> Family:
    """The family of an asset of a beamline. Raises FacilityFileError when the facility file lacks what it needs."""
    if asset.kind is Kind.COPY and asset.copy_to is not None:
        globus = services[TRANSFER]
        source = storage(spec, asset.copy_to.source, facilities, globus)
        return CopyFamily(spec, asset, ledger, globus, source, storage(spec, asset.copy_to.place, facilities, globus))
    if asset.kind is Kind.ARCHIVE and asset.archive is not None:
        service = asset.archive.facility
        places = [facilities.place(spec.id, name) for name in (asset.archive.source, asset.archive.place)]
        return ArchiveFamily(spec, asset, ledger, services[service], *places, facilities.work(service, spec.id))
    if asset.kind is Kind.ANALYSIS and asset.analysis is not None:
        service = asset.analysis.facility
        place = facilities.place(spec.id, asset.analysis.place)
        return XpcsFamily(spec, asset, ledger, services[service], place, facilities.work(service, spec.id))
    if asset.kind is Kind.CATALOG and spec.catalog is not None:
        return CatalogFamily(spec, asset, ledger, services, facilities)
    raise ValueError(f"{spec.id}/{asset.name}: nothing makes a {asset.kind} asset")


def storage(spec: Spec, place: str, facilities: Facilities, globus: Any) -> Storage:
    """A place through its Globus view. One in which copies may be deleted is only believed with its sentinel."""
    prunable = spec.prune(place) is not None
    return Storage(globus, f"{spec.id}/{place}", facilities.place(spec.id, place), prunable)


def systems(services: Mapping[str, Any]) -> dict[str, TaskSystem]:
    """Those of the services that take tasks, by the name under which the ledger keeps their tasks. (By name, not by
    kind: two facilities may both be asked through a Superfacility API.)"""
    return {service.service: service for service in services.values() if hasattr(service, "system")}
