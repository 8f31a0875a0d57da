"""`xpcs_result`: multi-tau correlation of a scan by `als-xpcs` in a Slurm job, submitted through the Superfacility API.

The program leaves result.hdf (opens in pyXpcsViewer), summary.json and plots in the results folder at the facility;
the small ones are fetched into the ledger, so that Dagster's pages show numbers and the g2 plot.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

import dagster as dg
from sqlalchemy.engine import Connection

from als_assets import jobs, quality
from als_assets.family import ByTask, Done, NotDone, Outcome, Rests, Work
from als_assets.transfers import link
from beamlines.policy.grouping import PRIMARY
from beamlines.spec import Asset, Spec
from resources.errors import NotFound, Refused
from resources.facilities import Place
from resources.facilities import Work as Folders
from resources.ledger import Ledger, notices, products, scans, tasks
from resources.ledger.scans import Scan
from resources.ledger.steps import Step
from resources.ledger.tasks import Task
from resources.storage import joined

PREVIEWS = {"g2": "g2.png", "scattering": "scattering.png"}
INLINE_BYTES = 50_000  # a larger plot would swell Dagster's event log
MOST_PREVIEW_BYTES = 300_000
COLUMNS = {  # of a result's numbers per q, as a table shows them
    "q_per_angstrom": "q (1/Å)", "tau_s": "tau (s)", "tau_s_err": "± (s)", "contrast": "contrast",
    "contrast_err": "±", "baseline": "baseline", "chi_squared": "reduced χ²",
}  # fmt: skip
ADVICE = {
    2: "correct the parameters of this analysis in the beamline's defs.yaml.",
    3: "compare the file with the detector's copy; if that one is whole, copy the scan again, then this partition.",
    4: "check the ROI or q-map against the detector's shape, then materialize this partition again.",
    6: "correct the paths of this beamline's layout (see `als-describe`), then materialize this partition again.",
    7: "raise the memory of the job in the beamline's defs.yaml.",
}


class XpcsFamily:
    """The XPCS results of a beamline."""

    def __init__(self, spec: Spec, asset: Asset, ledger: Ledger, compute: Any, place: Place, folders: Folders) -> None:
        if asset.analysis is None:
            raise ValueError(f"{asset.name} is not an analysis")
        self.spec, self.asset, self.analysis = spec, asset, asset.analysis
        self.ledger, self.compute, self.folders = ledger, compute, folders
        self.root = place.paths[self.analysis.facility]

    def begin(self, due: Sequence[tuple[Step, Scan]], rests: Rests) -> list[Work]:
        """One job per scan, so that a scan that fails or takes long holds no other."""
        return [ByTask("xpcs", self.compute, [scan], step.attempt, self._request(step, scan)) for step, scan in due]

    def _request(self, step: Step, scan: Scan) -> Callable[[str], Mapping[str, Any]]:
        with self.ledger.read() as tx:
            files = {f.role: f.path for f in scans.files_of(tx, [scan.id])[scan.id]}
            said = notices.said_of(tx, self.spec.id, files.values(), "parameters")
        folder = self._folder(scan, step.revision)
        argv = [
            "als-xpcs",
            "corr",
            joined(self.root, scan.folder, files[PRIMARY]),
            "--out",
            joined(folder, "result.hdf"),
        ]
        if "roi" in files:
            argv += ["--roi", joined(self.root, scan.folder, files["roi"])]
        layout = self.analysis.layout
        argv += ["--layout", layout if isinstance(layout, str) else json.dumps(layout)]
        argv += ["--summary", joined(folder, "summary.json"), "--plots", folder, "--overwrite"]
        for name, value in {**self.analysis.parameters, **said}.items():  # what came with a notice is of this scan
            argv += [f"--{name}"] if value is True else [f"--{name}", str(value)]

        def request(key: str) -> Mapping[str, Any]:
            command = jobs.Command(scan.hash, argv)
            return jobs.request(self.folders, key, self.analysis.directives, [command])

        return request

    def _folder(self, scan: Scan, revision: int) -> str:
        """Where a revision's files are, as jobs see it: never shared with another revision."""
        return joined(self.folders.results, scan.folder, scan.path, f"{self.asset.name}-r{revision}")

    def collect(self, task: Task, pairs: Sequence[tuple[Step, Scan]]) -> dict[int, Outcome]:
        ended = jobs.outcome(self.compute, task)
        return {scan.id: self._outcome(task, step, scan, ended[scan.hash]) for step, scan in pairs}

    def _outcome(self, task: Task, step: Step, scan: Scan, ended: jobs.Ended) -> Outcome:
        job = f" in job {task.external_id}" if task.external_id else ""
        where = f"{scan.key}: {self.asset.name} at {self.compute.service}{job}"
        if not ended.ok:
            code = "" if ended.exit is None else f" (exit {ended.exit})"
            return NotDone(
                f"{where} failed{code}: {ended.message.rstrip('.') or 'it did not say why'}.",
                ADVICE.get(ended.exit or 0, f"read the job's output in {task.request['job']['attempt_dir']}."),
                jobs.transient(ended, task),
            )
        folder = self._folder(scan, step.revision)
        try:
            summary = jobs.read_json(self.compute.read(joined(folder, "summary.json"), jobs.MOST_BYTES))
        except NotFound:
            return NotDone(
                f"{where} ended well, but left no summary.json in {folder}.",
                "see whether the file system had trouble, then materialize this partition again.",
            )
        pngs: dict[str, bytes] = {}
        for name, file in PREVIEWS.items():
            try:
                png = self.compute.read(joined(folder, file), MOST_PREVIEW_BYTES)
            except (NotFound, Refused):  # a plot is a convenience; the numbers are there
                continue
            pngs[name] = png

        def write(tx: Connection, now: datetime) -> None:
            path = joined(folder, "result.hdf")
            products.keep(tx, scan.id, self.asset.name, "", step.revision, task.id, path, summary, pngs, now)

        return Done(write)

    def act(self, step: Step, scan: Scan) -> Outcome:
        raise AssertionError("analyses are made by tasks")

    def metadata(self, tx: Connection, scan: Scan) -> dict[str, Any]:
        product = products.latest(tx, scan.id, self.asset.name)
        if product is None:
            return {}
        document, values = product.document, product.document.get("values", {})
        pngs = products.pngs(tx, product.id)
        out = quality.in_short(self.asset, document.get("qc", {}))
        out |= {"result": dg.MetadataValue.path(product.path or ""), "revision": product.revision}
        if "g2" in pngs and len(pngs["g2"]) <= INLINE_BYTES:
            out["g2 plot"] = dg.MetadataValue.md(
                f"![g2](data:image/png;base64,{base64.b64encode(pngs['g2']).decode()})"
            )
        out |= numbers(values)
        table = g2_table(values)
        if table is not None:
            out["fit per q"] = table
        verdicts = quality.table(document.get("qc", {}))
        if verdicts is not None:
            out["quality of each"] = verdicts
        done = [t for t in tasks.of_scan(tx, scan.id) if t.id == product.task_id]
        if done:
            out["Slurm job"] = link(self.compute.url(str(done[0].external_id)), str(done[0].external_id))
            if done[0].submitted_at and done[0].ended_at:
                out["job time (s)"] = round((done[0].ended_at - done[0].submitted_at).total_seconds(), 1)
            if done[0].script and len(done[0].script) <= INLINE_BYTES:
                out["batch script"] = dg.MetadataValue.md(f"````bash\n{done[0].script}````")
        out["parameters"] = dg.MetadataValue.json(document.get("parameters", {}))
        out["versions"] = dg.MetadataValue.json(document.get("versions", {}))
        return out


def numbers(values: Mapping[str, Any]) -> dict[str, Any]:
    """Single numbers that Dagster can plot over the partitions: the middle of the q bins."""
    out: dict[str, Any] = {}
    for name, label in (("tau_s", "tau, median over q (s)"), ("contrast", "contrast, median over q")):
        finite = sorted(v for v in values.get(name, []) if isinstance(v, int | float))
        if finite:
            out[label] = float(f"{finite[len(finite) // 2]:.5g}")
    if values.get("q_per_angstrom"):
        out["q bins"] = len(values["q_per_angstrom"])
    return out


def g2_table(values: Mapping[str, Any]) -> Any:
    there = {name: heading for name, heading in COLUMNS.items() if values.get(name)}
    if not there:
        return None
    records = []
    for i in range(max(len(values[name]) for name in there)):
        cells = {there[n]: values[n][i] if i < len(values[n]) else None for n in there}
        records.append(dg.TableRecord({n: "" if v is None else f"{v:.4g}" for n, v in cells.items()}))
    return dg.MetadataValue.table(records, dg.TableSchema([dg.TableColumn(name, "string") for name in there.values()]))
