"""A copy on tape is looked at by a job before another copy goes in its reliance, and again before the deletion."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest

from als_assets.pruning import State
from beamlines.spec import Archive
from resources.ledger import products, scans, schema, tasks
from sandbox import hpss
from tests.pruning.conftest import RULE, only_copies

in_ci = pytest.mark.services  # a second or two of jobs each; `make test` has the first of each kind
ARCHIVE = Archive(source="cfs", directives={"qos": "xfer", "constraint": "cron", "time": "60", "mem": "2G"})


@pytest.fixture
def archived(disk: Any) -> Any:
    """`disk.key`: copied to NERSC, archived, old enough."""
    rule = RULE.model_copy(update={"needs": ["cfs", "hpss"]})
    disk.rig.spec = only_copies(disk.rig.spec, archive=ARCHIVE.model_dump(), prunes=[rule])
    (disk.key,) = disk.scans()
    assert not disk.rig.run("archived_at_hpss").failed
    with disk.ledger.read() as tx:
        product = products.latest(tx, disk.rig.found(disk.key).id, "archived_at_hpss")
    disk.archive = product.path
    return disk


def looks(disk: Any) -> list[tasks.Task]:
    return [task for task in disk.rig.tasks(disk.key) if task.purpose == "look"]


def look_ages(disk: Any) -> None:
    """The looks that were taken are two days old; one counts for a day."""
    answers = list(disk.rig.attempts.rglob("verify.json"))
    assert answers
    for path in answers:
        document = json.loads(path.read_text())
        at = datetime.fromisoformat(document["at"]) - timedelta(days=2)
        path.write_text(json.dumps({**document, "at": at.isoformat()}))


def on_tape(disk: Any, ending: str = "") -> Any:
    return hpss.hpss_path(disk.rig.sandbox.box, disk.archive + ending)


def test_the_archive_is_looked_at_by_a_job_and_what_it_saw_is_kept_as_evidence(archived: Any) -> None:
    (item,) = archived.plan().items.values()
    assert item.state is State.WOULD_GO and looks(archived) == [], "a dry run asks for no job, and says so"
    assert [reason.words for reason in item.reasons] == ["hpss: nobody has looked at its archive yet"]
    report = archived.prune()
    assert not report.troubles and archived.state(archived.key) == "in_trash"
    (look,) = looks(archived)
    (command,) = look.request["job"]["commands"]
    assert command["argv"] == ["als-archive", "verify", "--level", "listing"]
    assert look.request["directives"]["qos"] == "xfer"
    document = archived.rig.document(archived.key)
    assert {copy["verified_by"] for copy in document["copies"] if copy["place"] == "hpss"} == {"htar-crc"}
    with archived.ledger.read() as tx:
        seen = scans.evidence_in(tx, archived.rig.found(archived.key).id, "hpss")
    assert all({row["method"] for row in rows} == {"htar-crc", "listing"} for rows in seen.values())

    archived.trash_is_over()
    archived.prune()
    assert archived.copy(archived.key) == "pruned" and len(looks(archived)) == 1, "the look still counts"


@in_ci
def test_one_job_looks_at_the_archives_of_many_scans(archived: Any) -> None:
    more = archived.scans(2, folder="more")
    archived.rig.run("archived_at_hpss")
    archived.prune()
    assert all(archived.state(key) == "in_trash" for key in [archived.key, *more])
    assert len({look.id for look in looks(archived)}) == 1
    assert len(looks(archived)[0].request["job"]["commands"]) == 3


def test_a_look_that_is_too_old_is_taken_again_before_the_deletion(archived: Any) -> None:
    archived.prune()
    look_ages(archived)
    archived.trash_is_over()
    archived.rig.until(lambda: archived.prune() and archived.copy(archived.key) == "pruned")
    assert len(looks(archived)) == 2


DAMAGE: dict[str, tuple[Callable[[Any], Any], str]] = {
    "the manifest is gone": (lambda disk: on_tape(disk, ".manifest.json").unlink(), "manifest.json is missing on tape"),
    "the archive is gone": (lambda disk: on_tape(disk).unlink(), "is missing on tape"),
}


@pytest.mark.parametrize("case", ["the manifest is gone", pytest.param("the archive is gone", marks=in_ci)])
def test_an_archive_that_is_not_whole_keeps_the_copy_and_a_person_is_asked(archived: Any, case: str) -> None:
    damage, words = DAMAGE[case]
    damage(archived)
    report = archived.prune()
    (item,) = report.items.values()
    assert item.state is State.STAYS and any(words in reason.words for reason in item.reasons), item
    assert archived.there(archived.key) and archived.removal(archived.key) is None
    assert words in archived.question(archived.key)


@in_ci
def test_a_manifest_of_other_content_keeps_the_copy(archived: Any) -> None:
    archived.change(schema.evidence, schema.evidence.c.method == "htar-crc", digest="f" * 64)
    archived.change(schema.files, schema.files.c.sha256.is_not(None), sha256="f" * 64)
    archived.prune()
    assert archived.there(archived.key)
    assert "is in hpss with another SHA-256 than was proven" in archived.question(archived.key)


@in_ci
def test_what_is_in_the_trash_comes_back_when_its_archive_has_gone(archived: Any) -> None:
    archived.prune()
    assert archived.state(archived.key) == "in_trash"
    on_tape(archived).unlink()
    look_ages(archived)
    archived.trash_is_over()
    archived.prune_until_over(archived.key)
    assert archived.state(archived.key) == "put_back" and archived.there(archived.key)


def test_while_hpss_is_down_nothing_goes_and_nobody_is_asked(archived: Any) -> None:
    archived.rig.sandbox.fault("hpss", "down", count=-1)
    report = archived.prune()
    (item,) = report.items.values()
    assert item.state is State.STAYS and {reason.kind for reason in item.reasons} == {"unknown"}
    assert "could not be looked at in job" in item.reasons[0].words and archived.question(archived.key) is None
    assert len(looks(archived)) == 1, "one try in a run"
    archived.rig.sandbox.box.clear_faults()
    archived.prune()
    assert archived.state(archived.key) == "in_trash"


@in_ci
def test_a_look_whose_job_failed_is_no_look(archived: Any) -> None:
    archived.rig.sandbox.fault("sfapi", "node_fail", count=1)
    report = archived.prune()
    (item,) = report.items.values()
    assert {reason.kind for reason in item.reasons} == {"unknown"} and "node failed" in item.reasons[0].words, item
    assert archived.there(archived.key) and archived.question(archived.key) is None
    archived.prune()
    assert archived.state(archived.key) == "in_trash"


def test_a_look_that_is_still_waiting_in_the_queue_lets_nothing_go(archived: Any) -> None:
    archived.rig.sandbox.fault("sfapi", "pending_forever", count=1)
    archived.rig.pace(grace_s=0.2)
    report = archived.prune()
    (item,) = report.items.values()
    assert item.state is State.STAYS and "its archive is being looked at, by job" in item.reasons[0].words
    assert len(looks(archived)) == 1
    archived.prune()
    assert len(looks(archived)) == 1, "the one that waits is waited for"


@in_ci
def test_an_answer_of_long_ago_that_a_restored_ledger_finds_is_no_look(archived: Any) -> None:
    """The job's own time counts, not when this ledger learnt of it."""
    archived.prune()
    real = archived.ledger.now
    archived.ledger.now = lambda: real() + timedelta(days=3)
    archived.trash_is_over()
    archived.rig.pace(grace_s=3)
    archived.prune()
    assert archived.state(archived.key) == "in_trash" and archived.deletions() == 0
