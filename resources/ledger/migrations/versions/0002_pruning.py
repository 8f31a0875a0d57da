"""What pruning, proposals, notices and alerts keep; the script of a job; when a scan was retired."""

import sqlalchemy as sa
from alembic import op

from resources.ledger import schema

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.create_table(
        "armings",
        sa.Column("beamline", sa.Text(), nullable=False),
        sa.Column("place", sa.Text(), nullable=False, comment="in which copies may be deleted; no row: none may"),
        sa.Column("who", sa.Text(), nullable=False),
        sa.Column("why", schema.Words(), nullable=False),
        sa.Column("at", schema.UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("beamline", "place", name=op.f("pk_armings")),
    )
    op.create_table(
        "notices",
        sa.Column("beamline", sa.Text(), nullable=False),
        sa.Column("path", sa.Text(), nullable=False, comment="of a file, relative to the watched root"),
        sa.Column("who", sa.Text(), nullable=False),
        sa.Column("at", schema.UtcDateTime(), nullable=False),
        sa.Column("complete", sa.Boolean(), nullable=False, comment="the writer says that it is finished"),
        sa.Column("restricted", sa.Boolean(), nullable=False, comment="export-controlled, as the writer says"),
        sa.Column("proposal", sa.Text(), nullable=True),
        sa.Column("document", sa.JSON(), nullable=False, comment="metadata and parameters that came with it"),
        sa.Column(
            "scan_id",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            nullable=True,
            comment="the scan that has taken it up; null: it waits",
        ),
        sa.ForeignKeyConstraint(["scan_id"], ["scans.id"], name=op.f("fk_notices_scan_id")),
        sa.PrimaryKeyConstraint("beamline", "path", name=op.f("pk_notices")),
    )
    op.create_index(
        "ix_notices_waiting",
        "notices",
        ["beamline", "path"],
        unique=False,
        sqlite_where=sa.text("scan_id IS NULL"),
        postgresql_where=sa.text("scan_id IS NULL"),
    )
    op.create_table(
        "watches",
        sa.Column("beamline", sa.Text(), nullable=False),
        sa.Column(
            "began_at",
            schema.UtcDateTime(),
            nullable=False,
            comment="end of the first whole listing of the watched place",
        ),
        sa.PrimaryKeyConstraint("beamline", name=op.f("pk_watches")),
    )
    op.create_table(
        "alerts",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("key", sa.Text(), nullable=False, comment="what it is about; one open alert for each"),
        sa.Column("beamline", sa.Text(), nullable=True),
        sa.Column("scan_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=True),
        sa.Column("message", schema.Words(), nullable=False),
        sa.Column("raised_at", schema.UtcDateTime(), nullable=False),
        sa.Column("seen_at", schema.UtcDateTime(), nullable=False, comment="when it was last found to be so"),
        sa.Column("sent_at", schema.UtcDateTime(), nullable=True),
        sa.Column("cleared_at", schema.UtcDateTime(), nullable=True),
        sa.Column("clearing_sent_at", schema.UtcDateTime(), nullable=True),
        sa.ForeignKeyConstraint(["scan_id"], ["scans.id"], name=op.f("fk_alerts_scan_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_alerts")),
    )
    op.create_index(
        "ix_alerts_open",
        "alerts",
        ["key"],
        unique=True,
        sqlite_where=sa.text("cleared_at IS NULL"),
        postgresql_where=sa.text("cleared_at IS NULL"),
    )
    op.create_table(
        "holds",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("scan_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("until", schema.UtcDateTime(), nullable=False),
        sa.Column("who", sa.Text(), nullable=False),
        sa.Column("why", schema.Words(), nullable=False),
        sa.Column("placed_at", schema.UtcDateTime(), nullable=False),
        sa.Column("released_at", schema.UtcDateTime(), nullable=True),
        sa.Column("released_by", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["scan_id"], ["scans.id"], name=op.f("fk_holds_scan_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_holds")),
    )
    op.create_index(
        "ix_holds_unreleased",
        "holds",
        ["scan_id"],
        unique=False,
        sqlite_where=sa.text("released_at IS NULL"),
        postgresql_where=sa.text("released_at IS NULL"),
    )
    op.create_table(
        "removals",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("copy_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("beamline", sa.Text(), nullable=False),
        sa.Column("place", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False, comment="see removals.py"),
        sa.Column("live", sa.Boolean(), nullable=False),
        sa.Column(
            "trash", sa.Text(), nullable=False, comment="folder that its files are moved to, relative to the place"
        ),
        sa.Column("who", sa.Text(), nullable=False),
        sa.Column("why", schema.Words(), nullable=False),
        sa.Column("task_id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=True),
        sa.Column("intended_at", schema.UtcDateTime(), nullable=False),
        sa.Column("trashed_at", schema.UtcDateTime(), nullable=True),
        sa.Column("ended_at", schema.UtcDateTime(), nullable=True),
        sa.Column("note", schema.Words(), nullable=True, comment="why it was put back, or is stuck"),
        sa.Column(
            "reported_at", schema.UtcDateTime(), nullable=True, comment="when Dagster was told that the copy is gone"
        ),
        sa.ForeignKeyConstraint(["copy_id"], ["copies.id"], name=op.f("fk_removals_copy_id")),
        sa.ForeignKeyConstraint(["task_id"], ["tasks.id"], name=op.f("fk_removals_task_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_removals")),
    )
    op.create_index(
        "ix_removals_live",
        "removals",
        ["copy_id"],
        unique=True,
        sqlite_where=sa.text("live IS 1"),
        postgresql_where=sa.text("live IS true"),
    )
    op.create_index(
        "ix_removals_live_place",
        "removals",
        ["beamline", "place", "id"],
        unique=False,
        sqlite_where=sa.text("live IS 1"),
        postgresql_where=sa.text("live IS true"),
    )
    op.create_index(
        "ix_removals_unreported",
        "removals",
        ["beamline", "id"],
        unique=False,
        sqlite_where=sa.text("state = 'deleted' AND reported_at IS NULL"),
        postgresql_where=sa.text("state = 'deleted' AND reported_at IS NULL"),
    )
    op.create_index("ix_files_path", "files", ["path"], unique=False)
    op.create_index("ix_copies_place", "copies", ["place", "state", "scan_id"], unique=False)
    op.add_column(
        "scans",
        sa.Column(
            "proposal_from",
            sa.Text(),
            nullable=True,
            comment="who or what gave the proposal: pattern, schedule, notified, a person",
        ),
    )
    op.add_column(
        "scans",
        sa.Column("investigator", sa.Text(), nullable=True, comment="of the proposal; null when it is not known"),
    )
    op.add_column(
        "scans",
        sa.Column(
            "groups",
            sa.JSON(),
            nullable=True,
            comment="that may read the catalogue entry besides those of the beamline; null: none",
        ),
    )
    op.add_column(
        "scans",
        sa.Column(
            "restricted",
            schema.Words(),
            nullable=True,
            comment="export control: why nothing of it may leave the beamline; null when it may",
        ),
    )
    op.add_column(
        "scans",
        sa.Column(
            "unrestricted",
            schema.Words(),
            nullable=True,
            comment="who decided that export control does not hold it, and why; null: nobody",
        ),
    )
    op.add_column(
        "scans",
        sa.Column(
            "retired_at",
            schema.UtcDateTime(),
            nullable=True,
            comment="when it was taken out of Dagster's partitions; its record stays",
        ),
    )
    op.add_column(
        "stamp",
        sa.Column(
            "restored_at",
            schema.UtcDateTime(),
            nullable=True,
            comment="from a backup: what was asked for after that is not in here",
        ),
    )
    op.create_index(
        "ix_scans_question",
        "scans",
        ["beamline", "id"],
        unique=False,
        sqlite_where=sa.text("question IS NOT NULL"),
        postgresql_where=sa.text("question IS NOT NULL"),
    )
    op.add_column(
        "pauses",
        sa.Column(
            "person", sa.Boolean(), nullable=True, comment="a credential is no good: it does not pass by waiting"
        ),
    )
    op.create_index(
        "ix_scans_unassigned",
        "scans",
        ["beamline", "id"],
        unique=False,
        sqlite_where=sa.text("proposal IS NULL"),
        postgresql_where=sa.text("proposal IS NULL"),
    )
    op.add_column(
        "tasks",
        sa.Column(
            "script",
            schema.Words(),
            nullable=True,
            comment="the batch script as it was submitted; null for what has none",
        ),
    )
    # ### end Alembic commands ###
