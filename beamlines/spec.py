"""What a beamline wants done with its scans, as data: the attributes of `beamlines/<id>/defs.yaml`.

A spec names places and facilities but holds no addresses: those are in the facility file, so that the sandbox and
production share every spec. `Spec.assets()` turns a spec into the plan that everything else follows.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import date
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

NAME = re.compile(r"[a-z][a-z0-9_]{0,40}")
OWNER = re.compile(r"team:\S+|[^@\s]+@[^@\s]+\.[^@\s]+")


def _name(value: str) -> str:
    if not NAME.fullmatch(value):
        raise ValueError(f"{value!r} must be lower-case letters, digits and _ (it names assets, jobs and folders)")
    return value


def _glob(value: str) -> str:
    if not value or value.startswith("/") or ".." in value.split("/"):
        raise ValueError(f"{value!r} must be a pattern relative to the watched place, like '**/*.h5'")
    return value


def _owner(value: str) -> str:
    if not OWNER.fullmatch(value):
        raise ValueError(f"{value!r} must be an e-mail address or 'team:…'")
    return value


Name = Annotated[str, AfterValidator(_name)]
Glob = Annotated[str, AfterValidator(_glob)]
Owner = Annotated[str, AfterValidator(_owner)]


class Part(BaseModel):
    """A block of a spec: a key that it does not know is a mistake, not a wish."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ScanFiles(Part):
    """Which files under the watched place make a scan."""

    watch: Name = Field(description="the place at which the detector writes")
    files: list[Glob] = Field(
        min_length=1, description="glob patterns, relative to the place, of the file that makes a scan"
    )
    companions: dict[Name, str] = Field(
        default_factory=dict, description="role -> name beside the scan's file, with {stem}: '{stem}_roi.h5'"
    )
    required: list[str] = Field(default_factory=list, description="companion roles that an analysis cannot do without")
    ignore: list[Glob] = Field(default_factory=lambda: ["**/.*", "**/*.tmp", "**/*.part"])
    max_depth: int = Field(default=8, ge=0, le=32)

    @field_validator("companions")
    @classmethod
    def _templates(cls, value: dict[str, str]) -> dict[str, str]:
        for role, template in value.items():
            if role == "data":
                raise ValueError("companion 'data': this role is that of the scan's own file")
            if template.count("{stem}") != 1 or template == "{stem}" or "/" in template:
                raise ValueError(
                    f"companion {role!r}: {template!r} must be a name with {{stem}} in it once, and no '/'"
                )
        return value

    @model_validator(mode="after")
    def _required_are_companions(self) -> ScanFiles:
        unknown = sorted(set(self.required) - set(self.companions))
        if unknown:
            raise ValueError(f"required names {unknown}, which are not among the companions {sorted(self.companions)}")
        for role, template in self.companions.items():
            ending = template.removeprefix("{stem}")
            if ending.startswith(".") and ending.count(".") == 1 and any(glob.endswith(ending) for glob in self.files):
                raise ValueError(f"companions: {role!r}: {template!r} is the name of the scan's own file")
        return self


class Copy(Part):
    """A verified copy of every scan in another place."""

    place: Name
    source: Name
    encrypt: bool = True


class Archive(Part):
    """Every scan on tape, one archive per scan, made and verified by `als-archive` in a job at a facility."""

    asset: Name = "archived_at_hpss"
    place: Name = Field(default="hpss", description="the place on tape")
    source: Name = Field(description="the place whose copy is archived")
    facility: str = Field(default="nersc", description="the task service that runs the job")
    directives: dict[str, str] = Field(default_factory=dict, description="Slurm: qos xfer, constraint, time, mem …")


class Analysis(Part):
    """A program that runs on every scan at a compute facility."""

    asset: Name
    program: Literal["xpcs"]
    place: str = Field(description="the place whose copy the program reads")
    facility: str = Field(default="nersc", description="the task service that runs it")
    when: Literal["always", "pattern", "on_request"] = "always"
    pattern: Glob | None = None
    layout: str | dict[str, Any] = Field(description="a layout that als-analysis knows by name, or one in full")
    parameters: dict[str, Any] = Field(default_factory=dict)
    directives: dict[str, str] = Field(default_factory=dict, description="Slurm: qos, constraint, time, nodes …")

    @model_validator(mode="after")
    def _pattern_is_given(self) -> Analysis:
        if self.when == "pattern" and not self.pattern:
            raise ValueError(f"analysis {self.asset!r}: when: pattern needs a pattern")
        if self.pattern and self.when != "pattern":
            raise ValueError(f"analysis {self.asset!r}: a pattern is for when: pattern, but it says when: {self.when}")
        return self


class Catalog(Part):
    """How scans of this beamline are entered in SciCat."""

    owner_group: str
    access_groups: list[str] = Field(default_factory=list)
    contact_email: str
    unknown_proposal: str = "unassigned"
    unknown_investigator: str = "unknown"
    layout: str | dict[str, Any] | None = Field(default=None, description="how als-describe reads the files' metadata")
    describe_at: str | None = Field(default=None, description="the place whose copy als-describe reads")
    facility: str = "nersc"
    directives: dict[str, str] = Field(default_factory=dict)


class Proposals(Part):
    """How it is known to which proposal a scan belongs. What a notice or a person says comes first, then the schedule,
    then the path; a scan about which none of them says anything has no proposal, and staff see that."""

    path: str | None = Field(default=None, description="regular expression on the path with a group (?P<proposal>…)")
    schedule: str | None = Field(
        default=None, description="CSV file: beamline, start, end, proposal, investigator, groups; `als check` reads it"
    )

    @field_validator("path")
    @classmethod
    def _names_a_proposal(cls, value: str | None) -> str | None:
        if value is not None:
            try:
                groups = re.compile(value).groupindex
            except re.error as error:
                raise ValueError(f"path: {value!r} is no regular expression: {error}") from None
            if "proposal" not in groups:
                raise ValueError(f"path: {value!r} needs a group (?P<proposal>…)")
        return value


class ExportControl(Part):
    """Which scans are export-controlled: nothing of them leaves the beamline, and staff see that and why."""

    paths: list[Glob] = Field(default_factory=list, description="patterns of paths")
    proposals: list[str] = Field(default_factory=list)
    unknown_proposal: Literal["allow", "hold"] = Field(
        default="allow", description="hold: a scan without a proposal stays at the beamline until one is assigned"
    )


class Prune(Part):
    """When the copy in a place may be deleted. That also takes that the place is armed, nobody holds the scan, and the
    copies in `needs` are proven at that moment: see policy/deletable.py."""

    place: Name
    after_days: float = Field(gt=0, description="at least so long after the scan was noticed")
    needs: list[Name] = Field(min_length=1, description="places whose verified copies are demanded")
    evidence_days: float = Field(default=180, gt=0, description="proof of the copies in `needs` must not be older")


class Retry(Part):
    """How often a failed step is tried again, and how soon."""

    attempts: int = Field(default=5, ge=1, le=50)
    first_s: float = Field(default=30.0, gt=0)
    most_s: float = Field(default=1800.0, gt=0)

    @model_validator(mode="after")
    def _in_order(self) -> Retry:
        if self.most_s < self.first_s:
            raise ValueError(f"retry: most_s ({self.most_s:g}) is less than first_s ({self.first_s:g})")
        return self


class Kind(StrEnum):
    NOTICED = "noticed"
    COPY = "copy"
    ARCHIVE = "archive"
    ANALYSIS = "analysis"
    CATALOG = "catalog"


class Asset(Part):
    """One asset of a beamline, as the plan has it.

    `upstream` is lineage; `needs` are the assets without which the step is not due (a catalogue entry has lineage
    from the analyses but waits only for the first verified copy).
    """

    name: str
    kind: Kind
    upstream: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    copy_to: Copy | None = None
    archive: Archive | None = None
    analysis: Analysis | None = None


class Spec(Part):
    """A beamline. See `beamlines/bl7011/defs.yaml` for one in full."""

    id: Name = Field(description="short name: asset prefix, partitions, jobs")
    name: str = Field(description="as people say it: 7.0.1.1")
    title: str
    technique: str
    creation_location: str = Field(description="SciCat's creationLocation, /LBNL/ALS/7.0.1.1")
    owners: list[Owner] = Field(description="e-mail addresses or 'team:…' shown on every asset")
    mode: Literal["observe", "copy", "full"] = "full"
    since: date | None = Field(default=None, description="scans whose files are older are left alone")
    scans: ScanFiles
    copies: list[Copy]
    archive: Archive | None = None
    analyses: list[Analysis] = Field(default_factory=list)
    catalog: Catalog | None = None
    proposals: Proposals = Field(default_factory=Proposals)
    export_control: ExportControl = Field(default_factory=ExportControl)
    prunes: list[Prune] = Field(default_factory=list)
    retry: Retry = Field(default_factory=Retry)

    @model_validator(mode="after")
    def _places_exist(self) -> Spec:
        known = {self.scans.watch}
        for copy in self.copies:
            if copy.source not in known:
                raise ValueError(f"copy to {copy.place!r}: source {copy.source!r} is not one of {sorted(known)}")
            if copy.place in known:
                raise ValueError(f"copy to {copy.place!r}: the place is named twice")
            known.add(copy.place)
        if self.archive and self.archive.place in known:
            raise ValueError(f"archive: the place {self.archive.place!r} is named twice")
        wanted = [(f"analysis {a.asset!r}", a.place) for a in self.analyses]
        if self.archive:
            wanted.append(("archive", self.archive.source))
        if self.catalog and self.catalog.describe_at:
            wanted.append(("catalog.describe_at", self.catalog.describe_at))
        for who, place in wanted:
            if place not in known:
                raise ValueError(f"{who}: place {place!r} is not one of {sorted(known)}")
        if self.archive:
            known.add(self.archive.place)
        for prune in self.prunes:
            for place in (prune.place, *prune.needs):
                if place not in known:
                    raise ValueError(f"prunes: place {place!r} is not one of {sorted(known)}")
            if prune.place in prune.needs:
                raise ValueError(f"prunes: {prune.place}: its own copy cannot be the one that lets it go")
        pruned = [prune.place for prune in self.prunes]
        if len(pruned) != len(set(pruned)):
            raise ValueError("prunes: a place is there twice")
        names = [asset.name for asset in self._plan()]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"analyses: the asset {twice[0]!r} is there twice")
        return self

    @property
    def noticed(self) -> str:
        return f"raw_at_{self.scans.watch}"

    def prune(self, place: str) -> Prune | None:
        """The rule by which copies in a place may be deleted; None: none may."""
        return next((rule for rule in self.prunes if rule.place == place), None)

    def assets(self) -> list[Asset]:
        """The assets in the order in which they come to be; those that `mode` leaves out are not there."""
        copied = [Kind.NOTICED, Kind.COPY, Kind.ARCHIVE]
        wanted = {"observe": [Kind.NOTICED], "copy": copied, "full": list(Kind)}[self.mode]
        return [asset for asset in self._plan() if asset.kind in wanted]

    def _plan(self) -> list[Asset]:
        out = [Asset(name=self.noticed, kind=Kind.NOTICED)]
        for copy in self.copies:
            source = f"raw_at_{copy.source}"
            out.append(
                Asset(name=f"raw_at_{copy.place}", kind=Kind.COPY, upstream=(source,), needs=(source,), copy_to=copy)
            )
        if self.archive:
            source = f"raw_at_{self.archive.source}"
            name = self.archive.asset
            out.append(Asset(name=name, kind=Kind.ARCHIVE, upstream=(source,), needs=(source,), archive=self.archive))
        for analysis in self.analyses:
            source = f"raw_at_{analysis.place}"
            out.append(
                Asset(name=analysis.asset, kind=Kind.ANALYSIS, upstream=(source,), needs=(source,), analysis=analysis)
            )
        if self.catalog:
            first = f"raw_at_{self.copies[0].place}" if self.copies else self.noticed
            archived = (self.archive.asset,) if self.archive else ()
            lineage = (*archived, *(a.asset for a in self.analyses)) or (first,)
            out.append(Asset(name="catalog_entry", kind=Kind.CATALOG, upstream=lineage, needs=(first,)))
        return out

    def asset(self, name: str) -> Asset:
        for asset in self.assets():
            if asset.name == name:
                return asset
        raise KeyError(f"beamline {self.id} has no asset {name!r}; it has {[a.name for a in self.assets()]}")

    def analysis(self, asset: str) -> Analysis:
        found = self.asset(asset).analysis
        if found is None:
            raise KeyError(f"{asset!r} of beamline {self.id} is not an analysis")
        return found


def spec_from_attributes(attributes: Mapping[str, Any]) -> Spec:
    """The spec in the `attributes` of a defs.yaml; raises pydantic's ValidationError."""
    return Spec.model_validate(dict(attributes))
