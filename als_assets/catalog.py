"""`catalog_entry`: every scan in SciCat, entered with its first verified copy and updated with whatever follows.

The raw data set (files, checksums, metadata with units, a thumbnail) and one derived data set per result, which names
its input. Metadata come from a description that `als-describe` makes at the facility; when that cannot be had now, the
entry is made without, and completed later. Pids are computed from the scan, so that entering it twice changes nothing.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import dagster as dg
from sqlalchemy.engine import Connection

from als_assets import catalog_documents as documents
from als_assets import description, jobs
from als_assets.catalog_lifecycle import datablock, lifecycle
from als_assets.description import Describer
from als_assets.family import ByHand, ByTask, Done, GoOn, NotDone, Outcome, Rests, Wait, Work
from als_assets.transfers import link
from beamlines.policy import retry
from beamlines.spec import Asset, Catalog, Spec
from resources.errors import CredentialProblem, Unavailable
from resources.facilities import Facilities
from resources.ledger import Ledger, notices, products, scans, steps
from resources.ledger.leases import Pause
from resources.ledger.products import Product
from resources.ledger.scans import File, Scan
from resources.ledger.steps import Step
from resources.ledger.tasks import Task
from resources.ledger.views import stamp
from resources.storage import joined

UNITS = {"tau_s": "s", "tau_s_err": "s", "q_per_angstrom": "1/angstrom", "phi_deg": "deg"}
VALUES = ("tau_s", "contrast", "baseline", "chi_squared")  # of a result, searchable in the catalogue
CAPTIONS = {"thumbnail": "mean image, logarithmic", "g2": "g2 per q with fits", "scattering": "mean scattering"}


class CatalogFamily:
    """The catalogue entries of a beamline."""

    def __init__(
        self, spec: Spec, asset: Asset, ledger: Ledger, services: Mapping[str, Any], facilities: Facilities
    ) -> None:
        if spec.catalog is None:
            raise ValueError(f"{spec.id} has no catalog")
        self.spec, self.asset, self.catalog = spec, asset, spec.catalog
        self.ledger, self.scicat, self.facilities = ledger, services["scicat"], facilities
        self.describer = _describer(spec, spec.catalog, services, facilities)

    def begin(self, due: Sequence[tuple[Step, Scan]], rests: Rests) -> list[Work]:
        """Scans without a description are described first, many in one job, unless the facility rests."""
        works: list[Work] = []
        undescribed: list[tuple[Step, Scan]] = []
        with self.ledger.read() as tx:
            wanting = {scan.id for _, scan in due if self._wants_description(tx, scan)}
            entered = {scan.id for _, scan in due if self._entered(tx, scan)}
            files = scans.files_of(tx, sorted(wanting))
        rest = self._rest(rests) if wanting else None
        for step, scan in due:
            if scan.id not in wanting or (rest is not None and scan.id not in entered):
                works.append(ByHand(self.scicat.service, scan))
            elif rest is not None:
                why = f"entered without metadata; its files are described once {rest.service} is back: {rest.reason}"
                works.append(Wait(scan, rest.until, why))
            else:
                undescribed.append((step, scan))
        if self.describer is None:
            return works
        for attempt, group in itertools.groupby(sorted(undescribed, key=_attempt), key=_attempt):
            members = [(scan, files[scan.id]) for _, scan in group]
            size = retry.company(attempt, description.MOST_SCANS)
            for start in range(0, len(members), size):
                block = members[start : start + size]
                request = self.describer.request(block)
                works.append(ByTask("describe", self.describer.compute, [s for s, _ in block], attempt, request))
        return works

    def _rest(self, rests: Rests) -> Pause | None:
        """Is it no use to submit a description now? Asked of the facility itself: a job that cannot be submitted would
        keep the scans out of the catalogue for as long as an outage lasts."""
        assert self.describer is not None
        compute = self.describer.compute
        rest = rests.of(compute.service)
        if rest is None:
            try:
                compute.available()
            except (Unavailable, CredentialProblem) as error:
                rest = rests.begin(error)
        return rest

    def _entered(self, tx: Connection, scan: Scan) -> bool:
        """Is the scan in the catalogue with all that is known of it?"""
        entry = products.latest(tx, scan.id, self.asset.name)
        made = [p.made_at for p in products.of_scan(tx, scan.id) if p.asset in self._analyses()]
        return entry is not None and all(at <= entry.made_at for at in made)

    def _wants_description(self, tx: Connection, scan: Scan) -> bool:
        if self.describer is None:
            return False
        known = products.latest(tx, scan.id, description.PRODUCT)
        if known is None:
            return True
        copy = scans.evidence_in(tx, scan.id, self.describer.place_name)
        proofs = [one for group in copy.values() for one in group if not _only_seen(one)]
        copied = [one["at"] for one in proofs if one["method"] != description.DIGEST]
        if any(at > known.made_at for at in copied):
            return True  # it tells of an earlier copy
        described = {str(entry["path"]) for entry in known.document.get("files", [])}
        files = scans.files_of(tx, [scan.id])[scan.id]
        return any(not any(path.endswith("/" + file.path) for path in described) for file in files)

    def collect(self, task: Task, pairs: Sequence[tuple[Step, Scan]]) -> dict[int, Outcome]:
        """Fetch what als-describe has left. A job that ended without is tried again; once attempts are used up, the
        entry is made without a description rather than not at all."""
        assert self.describer is not None
        ended = jobs.outcome(self.describer.compute, task)["describe"]
        with self.ledger.read() as tx:
            files = scans.files_of(tx, [scan.id for _, scan in pairs])
        return {
            scan.id: self._described(task, step, scan, files[scan.id], ended, self.describer) for step, scan in pairs
        }

    def _described(
        self, task: Task, step: Step, scan: Scan, files: Sequence[File], ended: jobs.Ended, describer: Describer
    ) -> Outcome:
        found = describer.fetch(task, scan)
        if found is None:
            why = (
                f"{scan.key}: its metadata could not be read at {describer.compute.service} in job {task.external_id}: "
                f"{ended.message.rstrip('.') or 'the job left no description'}."
            )
            if jobs.transient(ended, task) and step.attempt < self.spec.retry.attempts:
                return NotDone(why, f"read the job's output in {task.request['job']['attempt_dir']}.")
            error = {"path": scan.path, "reason": why}
            found = {
                "files": [{"path": joined(describer.root, scan.folder, f.path)} for f in files],
                "metadata": {},
                "error": error,
            }
        document = found

        def write(tx: Connection, now: datetime) -> None:
            description.keep(tx, scan, files, describer.place_name, task, document, now)

        return GoOn(write)

    def act(self, step: Step, scan: Scan) -> Outcome:
        """Enter the scan, or bring its entry up to date. Safe to repeat, also at the same time."""
        owner = self._owner_group(scan)
        with self.ledger.read() as tx:
            facts = self._facts(tx, scan, owner)
            known = products.latest(tx, scan.id, description.PRODUCT)
            results = [p for p in products.of_scan(tx, scan.id) if p.asset in self._analyses()]
            pictures = {p.id: products.pngs(tx, p.id) for p in [*results, *([known] if known else [])]}
            archive_state, archive = self._archive(tx, scan)
            purged = self._purged(tx, scan)
        raw = documents.raw_dataset(facts)
        self.scicat.upsert_dataset(raw)
        self.scicat.ensure_origdatablock(raw["pid"], documents.file_list(facts.files))
        if known is not None:
            self._attach(raw["pid"], pictures[known.id], owner)
        if archive is not None:
            self.scicat.ensure_datablock(raw["pid"], datablock(archive, facts.files))
        self.scicat.set_lifecycle(raw["pid"], **lifecycle(archive_state, archive, purged))
        made = [{"pid": raw["pid"], "type": "raw"}]
        for product in results:
            derived = documents.derived_dataset(facts, self._result(product))
            self.scicat.upsert_dataset(derived)
            self._attach(derived["pid"], pictures[product.id], owner)
            made.append({"pid": derived["pid"], "type": "derived"})
        for entry in made:
            entry["url"] = self.scicat.dataset_url(entry["pid"])

        def write(tx: Connection, now: datetime) -> None:
            document = {"entries": made}
            products.keep(tx, scan.id, self.asset.name, "", 1, None, None, document, {}, now)

        if known is None and self.describer is not None:
            return GoOn(write, "entered without metadata; its files are described once the facility is back")
        return Done(write, self._lack(known))

    def _lack(self, known: Product | None) -> str | None:
        error = known.document.get("error") if known else None
        return f"entered without metadata: {error['reason']}" if error else None

    def _owner_group(self, scan: Scan) -> str:
        """The proposal, so that its members have the data; the beamline's group while it is not known, or as long as
        our account is not in the proposal's group: an entry that we own no more cannot be brought up to date."""
        if scan.proposal is None or not self.scicat.may_update(scan.proposal):
            return self.catalog.owner_group
        return scan.proposal

    def _attach(self, pid: str, pngs: Mapping[str, bytes], owner: str) -> None:
        for name, png in pngs.items():
            picture = documents.attachment(CAPTIONS.get(name, name), png, owner)
            self.scicat.ensure_attachment(pid, picture["caption"], picture["thumbnail"], picture["ownerGroup"])

    def _archive(self, tx: Connection, scan: Scan) -> tuple[str | None, dict[str, Any] | None]:
        """The state of the archive's step, and als-archive's document once it is done."""
        wanted = self.spec.archive
        if wanted is None:
            return None, None
        state = next((s.state for s in steps.of_scan(tx, scan.id) if s.asset == wanted.asset), None)
        made = products.latest(tx, scan.id, wanted.asset)
        return state, made.document if made else None

    def _purged(self, tx: Connection, scan: Scan) -> datetime | None:
        """When the copy that the catalogue calls the one on central disk was deleted: that of the source folder. What
        goes from the beamline's own disk changes nothing about it."""
        central = self.spec.copies[0].place if self.spec.copies else self.spec.scans.watch
        return scans.pruned_at(tx, scan.id, central)

    def _analyses(self) -> set[str]:
        return {a.asset for a in self.spec.analyses}

    def _facts(self, tx: Connection, scan: Scan, owner: str) -> documents.RawFacts:
        files = scans.files_of(tx, [scan.id])[scan.id]
        known = products.latest(tx, scan.id, description.PRODUCT)
        metadata = dict(known.document.get("metadata", {})) if known else {}
        if known and known.document.get("error"):
            metadata["description_error"] = str(known.document["error"]["reason"])
        for name, value in notices.said_of(tx, self.spec.id, [f.path for f in files], "metadata").items():
            metadata[f"notice_{name}" if name in metadata else name] = value
        if scan.proposal_from:
            metadata["proposal_from"] = scan.proposal_from
        copies = []
        for name in [self.spec.scans.watch, *(c.place for c in self.spec.copies)]:
            proven = scans.evidence_in(tx, scan.id, name)
            if proven:
                proofs = [e["at"] for group in proven.values() for e in group if not _only_seen(e)]
                last = max(proofs, default=None)
                pruned = scans.pruned_at(tx, scan.id, name)
                copies.append(documents.CopyFacts(name, self._where(name, scan), last, pruned))
        _, archive = self._archive(tx, scan)
        if archive is not None and self.spec.archive is not None:
            at = datetime.fromisoformat(str(archive["verified"]["at"]))
            copies.append(documents.CopyFacts(self.spec.archive.place, str(archive["archive"]), at))
        catalog = self.catalog
        return documents.RawFacts(
            beamline=self.spec.id,
            beamline_name=self.spec.name,
            facility_path=self.spec.creation_location,
            technique=self.spec.technique,
            key=scan.key,
            short_hash=scan.hash,
            principal_investigator=scan.investigator or catalog.unknown_investigator,
            owner=scan.investigator or catalog.unknown_investigator,
            contact_email=catalog.contact_email,
            owner_group=owner,
            access_groups=[*catalog.access_groups, *_groups_of(scan, catalog)],
            source_folder=self._where(self.spec.copies[0].place, scan, folder=True),
            created=max(f.mtime for f in files),
            proposal=scan.proposal or catalog.unknown_proposal,
            files=[documents.FileFacts(f.path, f.bytes, f.mtime, f.sha256) for f in files],
            metadata=metadata,
            copies=copies,
        )

    def _where(self, place_name: str, scan: Scan, folder: bool = False) -> str:
        """The path of the copy as people at the facility know it, else as the collection shows it."""
        place = self.facilities.place(self.spec.id, place_name)
        base = place.paths.get(self.catalog.facility) or (place.globus.base if place.globus else place.mount or "")
        if place_name != self.spec.scans.watch:
            base = joined(base, scan.folder)
        return base if folder else joined(base, scan.path)

    def _result(self, product: Product) -> documents.ResultFacts:
        document = product.document
        values = {k: v for k, v in document.get("values", {}).items() if k in VALUES}
        qc = {f"qc_{name}": e.get("verdict") for name, e in document.get("qc", {}).items() if isinstance(e, Mapping)}
        return documents.ResultFacts(
            analysis=self.spec.analysis(product.asset).program,
            label=product.label,
            revision=product.revision,
            source_folder=(product.path or "").rpartition("/")[0],
            created=product.made_at,
            parameters=document.get("parameters", {}),
            values=values,
            units=UNITS,
            q=[math.nan if q is None else q for q in document.get("values", {}).get("q_per_angstrom", [])],
            metadata=qc,
            software={k: str(v) for k, v in document.get("versions", {}).items()},
        )

    def metadata(self, tx: Connection, scan: Scan) -> dict[str, Any]:
        product = products.latest(tx, scan.id, self.asset.name)
        known = products.latest(tx, scan.id, description.PRODUCT)
        out: dict[str, Any] = {}
        for entry in product.document.get("entries", []) if product else []:
            name = "raw data set" if entry["type"] == "raw" else "result " + " ".join(entry["pid"].split("/")[3:])
            out[name] = link(entry.get("url"), entry["pid"])
        if known is not None:
            if known.document.get("error"):
                out["metadata error"] = str(known.document["error"]["reason"])
            out["metadata"] = metadata_table(known.document.get("metadata", {}))
        out["entered"] = stamp(product.made_at) if product else None
        return {k: v for k, v in out.items() if v is not None}


def metadata_table(metadata: Mapping[str, Any]) -> Any:
    """What als-describe found in the file, a row each; None when it found nothing."""
    records = []
    for name, entry in documents.entries(metadata).items():
        value = entry["value"]
        cells = {"name": name, "value": f"{value:.6g}" if isinstance(value, float) else str(value)}
        records.append(dg.TableRecord({**cells, "unit": entry["unit"]}))
    if not records:
        return None
    return dg.MetadataValue.table(
        records, dg.TableSchema([dg.TableColumn(n, "string") for n in ("name", "value", "unit")])
    )


def _groups_of(scan: Scan, catalog: Catalog) -> list[str]:
    """That may read an entry for the sake of its proposal; the beamline's staff may when the proposal owns it."""
    return [] if scan.proposal is None else [catalog.owner_group, scan.proposal, *(scan.groups or [])]


def _only_seen(evidence: Mapping[str, Any]) -> bool:
    """A listing tells of no other copy than there was, and proves nothing of its content."""
    return str(evidence["method"]).endswith("listing")


def _attempt(pair: tuple[Step, Scan]) -> int:
    return pair[0].attempt


def _describer(spec: Spec, catalog: Catalog, services: Mapping[str, Any], facilities: Facilities) -> Describer | None:
    if catalog.describe_at is None:
        return None
    place = facilities.place(spec.id, catalog.describe_at)
    work = facilities.work(catalog.facility, spec.id)
    return Describer(catalog, catalog.describe_at, place, services[catalog.facility], work)
