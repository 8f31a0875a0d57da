"""The tables. Migrations in `migrations/` bring a database to this state; a test compares the two."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa


class UtcDateTime(sa.types.TypeDecorator[datetime]):
    """A moment in UTC. Refuses naive datetimes; what it returns is aware, on SQLite too."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Any) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"{value!r} has no time zone; the ledger keeps aware UTC times only")
        value = value.astimezone(UTC)
        return value.replace(tzinfo=None) if dialect.name == "sqlite" else value

    def process_result_value(self, value: datetime | None, dialect: Any) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Words(sa.types.TypeDecorator[str]):
    """What a service or a person said. What no database stores (NUL, half of a surrogate pair) is kept as an escape:
    a strange character in a reason must not keep a step from being settled."""

    impl = sa.Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Any) -> str | None:
        if value is None:
            return None
        return value.replace("\0", "\\x00").encode("utf-8", "backslashreplace").decode("utf-8")


metadata = sa.MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)
Text, Int, Big, Json = sa.Text, sa.Integer, sa.BigInteger().with_variant(sa.Integer, "sqlite"), sa.JSON

stamp = sa.Table(
    "stamp",
    metadata,
    sa.Column("facilities", Text, primary_key=True, comment="the facilities that this ledger belongs to"),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("restored_at", UtcDateTime, comment="from a backup: what was asked for after that is not in here"),
)

scans = sa.Table(
    "scans",
    metadata,
    sa.Column("id", Big, primary_key=True),
    sa.Column("beamline", Text, nullable=False),
    sa.Column("key", Text, nullable=False, comment="the Dagster partition key"),
    sa.Column("hash", Text, nullable=False, comment="names the scan in job names and pids"),
    sa.Column("path", Text, nullable=False, comment="of the scan's first file, relative to the watched root"),
    sa.Column("proposal", Text),
    sa.Column("proposal_from", Text, comment="who or what gave the proposal: pattern, schedule, notified, a person"),
    sa.Column("investigator", Text, comment="of the proposal; null when it is not known"),
    sa.Column("groups", Json, comment="that may read the catalogue entry besides those of the beamline; null: none"),
    sa.Column(
        "restricted", Words, comment="export control: why nothing of it may leave the beamline; null when it may"
    ),
    sa.Column("unrestricted", Words, comment="who decided that export control does not hold it, and why; null: nobody"),
    sa.Column("missing", Json, nullable=False, default=list, comment="required companions that did not come"),
    sa.Column("question", Words, comment="what a person has to decide; null when there is nothing"),
    sa.Column("noticed_at", UtcDateTime, nullable=False),
    sa.Column("announced_at", UtcDateTime, comment="when Dagster was seen to have the partition"),
    sa.Column("retired_at", UtcDateTime, comment="when it was taken out of Dagster's partitions; its record stays"),
    sa.Column("changed_at", UtcDateTime, nullable=False),
    sa.UniqueConstraint("beamline", "key"),
)
sa.Index("ix_scans_beamline_changed_at", scans.c.beamline, scans.c.changed_at)
sa.Index(
    "ix_scans_question",
    scans.c.beamline,
    scans.c.id,
    sqlite_where=scans.c.question.is_not(None),
    postgresql_where=scans.c.question.is_not(None),
)
sa.Index("ix_scans_hash", scans.c.hash, unique=True)
sa.Index(
    "ix_scans_unannounced",
    scans.c.beamline,
    scans.c.id,
    sqlite_where=scans.c.announced_at.is_(None),
    postgresql_where=scans.c.announced_at.is_(None),
)
sa.Index(
    "ix_scans_unassigned",
    scans.c.beamline,
    scans.c.id,
    sqlite_where=scans.c.proposal.is_(None),
    postgresql_where=scans.c.proposal.is_(None),
)

files = sa.Table(
    "files",
    metadata,
    sa.Column("id", Big, primary_key=True),
    sa.Column("scan_id", Big, sa.ForeignKey("scans.id"), nullable=False),
    sa.Column("role", Text, nullable=False),
    sa.Column("path", Text, nullable=False, comment="relative to the watched root"),
    sa.Column("bytes", Big, nullable=False),
    sa.Column("mtime", UtcDateTime, nullable=False),
    sa.Column("sha256", Text, comment="of the bytes as first read at a facility; null until then"),
    sa.UniqueConstraint("scan_id", "path"),
)
sa.Index("ix_files_path", files.c.path)

sightings = sa.Table(
    "sightings",
    metadata,
    sa.Column("beamline", Text, primary_key=True),
    sa.Column("path", Text, primary_key=True),
    sa.Column("bytes", Big, nullable=False),
    sa.Column("mtime", UtcDateTime, nullable=False),
    sa.Column("first_seen", UtcDateTime, nullable=False),
    sa.Column("unchanged_since", UtcDateTime, nullable=False, comment="by our clock"),
    sa.Column("scan_id", Big, sa.ForeignKey("scans.id"), comment="the scan that it has become part of"),
)

refusals = sa.Table(
    "refusals",
    metadata,
    sa.Column("beamline", Text, primary_key=True),
    sa.Column("name", Text, primary_key=True, comment="of the file, as an ASCII literal: it may be no valid text"),
    sa.Column("why", Words, nullable=False, comment="why it cannot become a scan"),
    sa.Column("first_seen", UtcDateTime, nullable=False),
)

copies = sa.Table(
    "copies",
    metadata,
    sa.Column("id", Big, primary_key=True),
    sa.Column("scan_id", Big, sa.ForeignKey("scans.id"), nullable=False),
    sa.Column("place", Text, nullable=False),
    sa.Column("root", Text, nullable=False, default="", comment="folder of the copy, relative to the place"),
    sa.Column("state", Text, nullable=False, comment="present | verified | pruned | lost"),
    sa.Column("verified_at", UtcDateTime),
    sa.Column("pruned_at", UtcDateTime),
    sa.UniqueConstraint("scan_id", "place"),
)
sa.Index("ix_copies_place", copies.c.place, copies.c.state, copies.c.scan_id)

evidence = sa.Table(
    "evidence",
    metadata,
    sa.Column("id", Big, primary_key=True),
    sa.Column("copy_id", Big, sa.ForeignKey("copies.id"), nullable=False),
    sa.Column("file_id", Big, sa.ForeignKey("files.id"), nullable=False),
    sa.Column("method", Text, nullable=False, comment="listing | globus-checksum | sha256 | …"),
    sa.Column("digest", Text, comment="SHA-256 of the bytes as read in this place; null when they were not read"),
    sa.Column("bytes", Big, nullable=False),
    sa.Column("mtime", UtcDateTime),
    sa.Column("at", UtcDateTime, nullable=False),
    sa.Column("task_id", Big, sa.ForeignKey("tasks.id")),
    sa.UniqueConstraint("copy_id", "file_id", "method"),
)

steps = sa.Table(
    "steps",
    metadata,
    sa.Column("scan_id", Big, sa.ForeignKey("scans.id"), primary_key=True),
    sa.Column("asset", Text, primary_key=True),
    sa.Column("beamline", Text, nullable=False),
    sa.Column("state", Text, nullable=False, comment="see steps.py"),
    sa.Column("attempt", Int, nullable=False, default=1),
    sa.Column("revision", Int, nullable=False, default=1),
    sa.Column("next_try", UtcDateTime, comment="due: not before; working: held until; failed: shown again from"),
    sa.Column("why", Words),
    sa.Column("task_id", Big, sa.ForeignKey("tasks.id"), comment="the live or landed task"),
    sa.Column("asked_by", Text, comment="the run of a person that asked for it to be done again"),
    sa.Column("dirty", sa.Boolean, nullable=False, default=False, comment="changed again while being done"),
    sa.Column("done_at", UtcDateTime),
    sa.Column("reported_at", UtcDateTime, comment="when Dagster was told of the present done or failed state"),
    sa.Column("changed_at", UtcDateTime, nullable=False),
)
sa.Index("ix_steps_due", steps.c.beamline, steps.c.asset, steps.c.state, steps.c.next_try)
sa.Index("ix_steps_task_id", steps.c.task_id)
sa.Index(
    "ix_steps_unreported",
    steps.c.beamline,
    steps.c.asset,
    steps.c.state,
    steps.c.done_at,
    sqlite_where=steps.c.reported_at.is_(None),
    postgresql_where=steps.c.reported_at.is_(None),
)

tasks = sa.Table(
    "tasks",
    metadata,
    sa.Column("id", Big, primary_key=True),
    sa.Column("beamline", Text, nullable=False),
    sa.Column("asset", Text, nullable=False),
    sa.Column("purpose", Text, nullable=False, comment="what the asset asked for: copy, analyse, describe"),
    sa.Column("system", Text, nullable=False, comment="globus | sfapi | compute"),
    sa.Column("service", Text, nullable=False),
    sa.Column("proposed_key", Text, nullable=False, unique=True, comment="computed from what is asked, for whom"),
    sa.Column("key", Text, unique=True, comment="the idempotency key; null until the service gave one"),
    sa.Column("external_id", Text),
    sa.Column("request", Json, nullable=False),
    sa.Column("script", Words, comment="the batch script as it was submitted; null for what has none"),
    sa.Column("attempt", Int, nullable=False),
    sa.Column(
        "state", Text, nullable=False, comment="intended | queued | running | paused | succeeded | failed | cancelled"
    ),
    sa.Column("live", sa.Boolean, nullable=False),
    sa.Column("native", Words),
    sa.Column("reason", Words),
    sa.Column("code", Words),
    sa.Column("transient", sa.Boolean),
    sa.Column("detail", Json),
    sa.Column("created_at", UtcDateTime, nullable=False),
    sa.Column("tried_at", UtcDateTime, comment="when a submission was last sent; its answer may have been lost"),
    sa.Column("submitted_at", UtcDateTime),
    sa.Column("polled_at", UtcDateTime),
    sa.Column("unknown_since", UtcDateTime, comment="since when its service does not know it"),
    sa.Column("ended_at", UtcDateTime),
)
sa.Index(
    "ix_tasks_live",
    tasks.c.service,
    tasks.c.id,
    sqlite_where=tasks.c.live.is_(True),
    postgresql_where=tasks.c.live.is_(True),
)

task_scans = sa.Table(
    "task_scans",
    metadata,
    sa.Column("task_id", Big, sa.ForeignKey("tasks.id"), primary_key=True),
    sa.Column("scan_id", Big, sa.ForeignKey("scans.id"), primary_key=True),
)
sa.Index("ix_task_scans_scan_id", task_scans.c.scan_id)

products = sa.Table(
    "products",
    metadata,
    sa.Column("id", Big, primary_key=True),
    sa.Column("scan_id", Big, sa.ForeignKey("scans.id"), nullable=False),
    sa.Column("asset", Text, nullable=False),
    sa.Column("label", Text, nullable=False, default=""),
    sa.Column("revision", Int, nullable=False),
    sa.Column("task_id", Big, sa.ForeignKey("tasks.id")),
    sa.Column("path", Text, comment="as jobs at the facility see it"),
    sa.Column("document", Json, nullable=False, comment="parameters, values, qc, versions"),
    sa.Column("made_at", UtcDateTime, nullable=False),
    sa.UniqueConstraint("scan_id", "asset", "label", "revision"),
)

previews = sa.Table(
    "previews",
    metadata,
    sa.Column("product_id", Big, sa.ForeignKey("products.id"), primary_key=True),
    sa.Column("name", Text, primary_key=True),
    sa.Column("png", sa.LargeBinary, nullable=False),
)

leases = sa.Table(
    "leases",
    metadata,
    sa.Column("name", Text, primary_key=True),
    sa.Column("holder", Text, nullable=False),
    sa.Column("expires_at", UtcDateTime, nullable=False),
    sa.Column("idle_runs", Int, nullable=False, default=0, comment="holders in a row that made no progress"),
    sa.Column("not_before", UtcDateTime, comment="earliest next request, after runs without progress"),
)

pauses = sa.Table(
    "pauses",
    metadata,
    sa.Column("service", Text, primary_key=True),
    sa.Column("until", UtcDateTime, nullable=False),
    sa.Column("since", UtcDateTime, nullable=False),
    sa.Column("failures", Int, nullable=False),
    sa.Column("reason", Words, nullable=False),
    sa.Column("code", Words),
    sa.Column("over", sa.Boolean, nullable=False, comment="the service has answered since"),
    sa.Column("person", sa.Boolean, comment="a credential is no good: it does not pass by waiting"),
)

history = sa.Table(
    "history",
    metadata,
    sa.Column("id", Big, primary_key=True),
    sa.Column("at", UtcDateTime, nullable=False),
    sa.Column("who", Text, nullable=False),
    sa.Column("what", Text, nullable=False),
    sa.Column("beamline", Text),
    sa.Column("scan_id", Big, sa.ForeignKey("scans.id")),
    sa.Column("asset", Text),
    sa.Column("why", Words),
    sa.Column("details", Json),
)
sa.Index("ix_history_scan_id", history.c.scan_id, history.c.id)

holds = sa.Table(
    "holds",
    metadata,
    sa.Column("id", Big, primary_key=True),
    sa.Column("scan_id", Big, sa.ForeignKey("scans.id"), nullable=False),
    sa.Column("until", UtcDateTime, nullable=False),
    sa.Column("who", Text, nullable=False),
    sa.Column("why", Words, nullable=False),
    sa.Column("placed_at", UtcDateTime, nullable=False),
    sa.Column("released_at", UtcDateTime),
    sa.Column("released_by", Text),
)
sa.Index(
    "ix_holds_unreleased",
    holds.c.scan_id,
    sqlite_where=holds.c.released_at.is_(None),
    postgresql_where=holds.c.released_at.is_(None),
)

armings = sa.Table(
    "armings",
    metadata,
    sa.Column("beamline", Text, primary_key=True),
    sa.Column("place", Text, primary_key=True, comment="in which copies may be deleted; no row: none may"),
    sa.Column("who", Text, nullable=False),
    sa.Column("why", Words, nullable=False),
    sa.Column("at", UtcDateTime, nullable=False),
)

removals = sa.Table(
    "removals",
    metadata,
    sa.Column("id", Big, primary_key=True),
    sa.Column("copy_id", Big, sa.ForeignKey("copies.id"), nullable=False),
    sa.Column("beamline", Text, nullable=False),
    sa.Column("place", Text, nullable=False),
    sa.Column("state", Text, nullable=False, comment="see removals.py"),
    sa.Column("live", sa.Boolean, nullable=False),
    sa.Column("trash", Text, nullable=False, comment="folder that its files are moved to, relative to the place"),
    sa.Column("who", Text, nullable=False),
    sa.Column("why", Words, nullable=False),
    sa.Column("task_id", Big, sa.ForeignKey("tasks.id")),
    sa.Column("intended_at", UtcDateTime, nullable=False),
    sa.Column("trashed_at", UtcDateTime),
    sa.Column("ended_at", UtcDateTime),
    sa.Column("note", Words, comment="why it was put back, or is stuck"),
    sa.Column("reported_at", UtcDateTime, comment="when Dagster was told that the copy is gone"),
)
sa.Index(
    "ix_removals_live",
    removals.c.copy_id,
    unique=True,
    sqlite_where=removals.c.live.is_(True),
    postgresql_where=removals.c.live.is_(True),
)
sa.Index(
    "ix_removals_live_place",
    removals.c.beamline,
    removals.c.place,
    removals.c.id,
    sqlite_where=removals.c.live.is_(True),
    postgresql_where=removals.c.live.is_(True),
)
sa.Index(
    "ix_removals_unreported",
    removals.c.beamline,
    removals.c.id,
    sqlite_where=(removals.c.state == "deleted") & removals.c.reported_at.is_(None),
    postgresql_where=(removals.c.state == "deleted") & removals.c.reported_at.is_(None),
)

alerts = sa.Table(
    "alerts",
    metadata,
    sa.Column("id", Big, primary_key=True),
    sa.Column("key", Text, nullable=False, comment="what it is about; one open alert for each"),
    sa.Column("beamline", Text),
    sa.Column("scan_id", Big, sa.ForeignKey("scans.id")),
    sa.Column("message", Words, nullable=False),
    sa.Column("raised_at", UtcDateTime, nullable=False),
    sa.Column("seen_at", UtcDateTime, nullable=False, comment="when it was last found to be so"),
    sa.Column("sent_at", UtcDateTime),
    sa.Column("cleared_at", UtcDateTime),
    sa.Column("clearing_sent_at", UtcDateTime),
)
sa.Index(
    "ix_alerts_open",
    alerts.c.key,
    unique=True,
    sqlite_where=alerts.c.cleared_at.is_(None),
    postgresql_where=alerts.c.cleared_at.is_(None),
)

notices = sa.Table(
    "notices",
    metadata,
    sa.Column("beamline", Text, primary_key=True),
    sa.Column("path", Text, primary_key=True, comment="of a file, relative to the watched root"),
    sa.Column("who", Text, nullable=False),
    sa.Column("at", UtcDateTime, nullable=False),
    sa.Column("complete", sa.Boolean, nullable=False, comment="the writer says that it is finished"),
    sa.Column("restricted", sa.Boolean, nullable=False, comment="export-controlled, as the writer says"),
    sa.Column("proposal", Text),
    sa.Column("document", Json, nullable=False, comment="metadata and parameters that came with it"),
    sa.Column("scan_id", Big, sa.ForeignKey("scans.id"), comment="the scan that has taken it up; null: it waits"),
)
sa.Index(
    "ix_notices_waiting",
    notices.c.beamline,
    notices.c.path,
    sqlite_where=notices.c.scan_id.is_(None),
    postgresql_where=notices.c.scan_id.is_(None),
)

watches = sa.Table(
    "watches",
    metadata,
    sa.Column("beamline", Text, primary_key=True),
    sa.Column("began_at", UtcDateTime, nullable=False, comment="end of the first whole listing of the watched place"),
)
