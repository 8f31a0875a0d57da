"""A backup of the ledger every night: the job `ledger_backup` and its schedule."""

# Annotations are not postponed here: Dagster reads that of `context` as a class.

import dagster as dg

from resources.ledger import backup
from sensors.schedules import ZONE

NAME = "ledger_backup"
WHEN = "30 3 * * *"


def backup_job() -> dg.JobDefinition:
    @dg.op(name=f"{NAME}__make", required_resource_keys={"ledger"})
    def make(context: dg.OpExecutionContext) -> None:
        ledger = context.resources.ledger.open()
        made = backup.make(ledger.url, ledger.facilities, backup.folder())
        context.log.info(f"{made.path}: {made.bytes} bytes, checked")

    @dg.job(name=NAME, executor_def=dg.in_process_executor, description="One backup of the ledger, made and checked.")
    def job() -> None:
        make()

    return job


def backup_schedule() -> dg.ScheduleDefinition:
    return dg.ScheduleDefinition(
        name=NAME,
        job_name=NAME,
        cron_schedule=WHEN,
        execution_timezone=ZONE,
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description="A backup of the ledger every night; so many stay, and `als ledger restore` takes one.",
    )
