"""May a copy be deleted? Every reason of the Never list against it, one by one, from a case that has none."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from beamlines.policy.deletable import (
    Facts,
    File,
    Hold,
    Kind,
    Look,
    NoLook,
    Other,
    Proof,
    Reason,
    Seen,
    firm,
    reasons,
)
from beamlines.spec import Prune

NOW = datetime(2026, 11, 20, 10, 0, tzinfo=UTC)
DAY = timedelta(days=1)
WRITTEN = NOW - 41 * DAY
RULE = Prune(place="dtn", after_days=30, needs=["cfs", "hpss"], evidence_days=180)
NAMES = ("a.h5", "a_roi.h5")
SHA = {"a.h5": "a" * 64, "a_roi.h5": "b" * 64}
FILES = [File(name, 5, WRITTEN, SHA[name]) for name in NAMES]


def proof(method: str, days: float = 40, **more: Any) -> Proof:
    return Proof(**{"method": method, "bytes": 5, "mtime": WRITTEN, "at": NOW - days * DAY, **more})


CFS = Other(
    "verified",
    {name: [proof("globus-checksum"), proof("sha256", mtime=None, digest=SHA[name])] for name in NAMES},
    look=Look(NOW, {name: Seen(5, WRITTEN) for name in NAMES}),
)
HPSS = Other(
    "verified",
    {name: [proof("htar-crc", mtime=None, digest=SHA[name])] for name in NAMES},
    look=Look(NOW - DAY, {name: Seen(5, None, SHA[name]) for name in NAMES}, lasts=2 * DAY),
)
CLEAR = Facts(
    where="bl1/dtn", state="present", files=FILES, noticed_at=NOW - 40 * DAY, armed=True,
    others={"cfs": CFS, "hpss": HPSS}, survivors=["cfs", "hpss"],
    own=Look(NOW, {name: Seen(5, WRITTEN) for name in NAMES}),
)  # fmt: skip


def why(facts: Facts, rule: Prune | None = RULE, now: datetime = NOW) -> list[Reason]:
    return reasons(rule, facts, now, DAY)


def other(facts: Facts, place: str, **changes: Any) -> Facts:
    return replace(facts, others={**facts.others, place: replace(facts.others[place], **changes)})


def seen(place: str, name: str, **changes: Any) -> Facts:
    """`name` is in `place` otherwise than it was proven; gone=True: not at all."""
    look = CLEAR.others[place].look
    assert isinstance(look, Look)
    files = dict(look.files)
    one = files.pop(name)
    if not changes.pop("gone", False):
        files[name] = replace(one, **changes)
    return other(CLEAR, place, look=replace(look, files=files))


def proven(place: str, name: str, *proofs: Proof) -> Facts:
    return other(CLEAR, place, proofs={**CLEAR.others[place].proofs, name: list(proofs)})


def own(name: str, **changes: Any) -> Facts:
    assert isinstance(CLEAR.own, Look)
    files = dict(CLEAR.own.files)
    one = files.pop(name)
    if not changes.pop("gone", False):
        files[name] = replace(one, **changes)
    return replace(CLEAR, own=replace(CLEAR.own, files=files))


def test_a_copy_that_everything_is_proven_for_may_go() -> None:
    assert why(CLEAR) == []


AGAINST: dict[str, tuple[Facts, Kind, str]] = {
    "too young": (replace(CLEAR, noticed_at=NOW - 29.9 * DAY), Kind.RULE, "stays for 30 days"),
    "noticed in the future": (replace(CLEAR, noticed_at=NOW + 90 * DAY), Kind.RULE, "noticed 0.0 days ago"),
    "the place is not armed": (replace(CLEAR, armed=False), Kind.DISARMED, "bl1/dtn is not armed"),
    "held": (
        replace(CLEAR, holds=[Hold(NOW + DAY, "kim", "thesis")]),
        Kind.RULE,
        "held until 2026-11-21 10:00 UTC by kim: thesis",
    ),
    "a person is asked": (replace(CLEAR, question="which one?"), Kind.RULE, "a person is asked about it: which one?"),
    "export-controlled": (replace(CLEAR, restricted="export control: …"), Kind.RULE, "it is export-controlled"),
    "another system is in charge": (replace(CLEAR, observed_only=True), Kind.RULE, "mode observe"),
    "a step is not done": (
        replace(CLEAR, undone={"xpcs_result": "failed"}),
        Kind.RULE,
        "xpcs_result is failed, not done",
    ),
    "a task is at work": (
        replace(CLEAR, tasks=["globus task 7 (raw_at_cfs)"]),
        Kind.RULE,
        "globus task 7 (raw_at_cfs) is at work",
    ),
    "a file of two scans": (
        replace(CLEAR, shared=[("a_roi.h5", "a.hdf5")]),
        Kind.RULE,
        "a_roi.h5 belongs to the scan a.hdf5 as well",
    ),
    "the copy is gone already": (replace(CLEAR, state="pruned"), Kind.RULE, "its copy in bl1/dtn is pruned"),
    "it has no files": (replace(CLEAR, files=[]), Kind.RULE, "knows no files of it"),
    "the last durable copy": (
        replace(CLEAR, survivors=[]),
        Kind.RULE,
        "no verified copy would be left in a durable place",
    ),
    "no copy there": (replace(CLEAR, others={"hpss": HPSS}), Kind.RULE, "its copy in cfs is missing, not verified"),
    "copied, not verified": (
        other(CLEAR, "cfs", state="present"),
        Kind.RULE,
        "its copy in cfs is present, not verified",
    ),
    "lost": (other(CLEAR, "hpss", state="lost"), Kind.RULE, "its copy in hpss is lost, not verified"),
    "the other copy is going, too": (other(CLEAR, "cfs", leaving=True), Kind.RULE, "cfs is about to be deleted, too"),
    "a file without proof": (proven("cfs", "a_roi.h5"), Kind.RULE, "nothing proves a_roi.h5 in cfs"),
    "only listed": (proven("cfs", "a.h5", proof("listing")), Kind.RULE, "nothing proves a.h5 in cfs"),
    "only read there": (
        proven("cfs", "a.h5", proof("sha256", digest=SHA["a.h5"])),
        Kind.RULE,
        "nothing proves a.h5 in cfs",
    ),
    "only taken over": (proven("cfs", "a.h5", proof("adopted-sha256")), Kind.RULE, "nothing proves a.h5 in cfs"),
    "proven too long ago": (
        proven("cfs", "a.h5", proof("globus-checksum", days=181)),
        Kind.RULE,
        "too long ago to count",
    ),
    "proven with another size": (
        proven("cfs", "a.h5", proof("globus-checksum", bytes=4)),
        Kind.DIFFERS,
        "was proven with 4 bytes, not 5",
    ),
    "read with two digests": (
        proven("hpss", "a.h5", proof("htar-crc", mtime=None, digest="c" * 64)),
        Kind.DIFFERS,
        "more than one SHA-256",
    ),
    "empty there now": (seen("cfs", "a.h5", bytes=0), Kind.DIFFERS, "a.h5 has 0 bytes in cfs, not 5"),
    "longer there now": (seen("cfs", "a_roi.h5", bytes=6), Kind.DIFFERS, "a_roi.h5 has 6 bytes in cfs, not 5"),
    "a folder there now": (seen("cfs", "a.h5", bytes=-1), Kind.DIFFERS, "a.h5 has -1 bytes in cfs"),
    "written since": (seen("cfs", "a.h5", mtime=NOW), Kind.DIFFERS, "a.h5 was written in cfs after it had been proven"),
    "not there now": (seen("cfs", "a.h5", gone=True), Kind.DIFFERS, "a.h5 is not in cfs any more"),
    "not in the manifest": (seen("hpss", "a.h5", gone=True), Kind.DIFFERS, "a.h5 is not in hpss any more"),
    "another digest on tape": (
        seen("hpss", "a.h5", sha256="d" * 64),
        Kind.DIFFERS,
        "a.h5 is in hpss with another SHA-256",
    ),
    "an archive that is not whole": (
        other(CLEAR, "hpss", look=replace(HPSS.look, problem="X.tar.idx is missing on tape")),
        Kind.DIFFERS,
        "its copy in hpss is not whole: X.tar.idx is missing on tape",
    ),
    "nobody could look": (
        other(CLEAR, "cfs", look=NoLook("it could not be looked at: 502")),
        Kind.UNKNOWN,
        "cfs: it could not be looked at: 502",
    ),
    "looked at too long ago": (
        other(CLEAR, "hpss", look=replace(HPSS.look, at=NOW - 2.1 * DAY)),
        Kind.UNKNOWN,
        "hpss: the look of",
    ),
    "the copy itself was not looked at": (replace(CLEAR, own=NoLook("502")), Kind.UNKNOWN, "bl1/dtn: 502"),
    "looked at itself too long ago": (
        replace(CLEAR, own=replace(CLEAR.own, at=NOW - DAY)),
        Kind.UNKNOWN,
        "the last look is too long ago",
    ),
    "itself not there": (own("a.h5", gone=True), Kind.OWN, "a.h5 is not in bl1/dtn any more"),
    "itself of another size": (own("a.h5", bytes=6), Kind.OWN, "a.h5 in bl1/dtn is not the file that was noticed"),
    "itself of another time": (
        own("a_roi.h5", mtime=NOW),
        Kind.OWN,
        "a_roi.h5 in bl1/dtn is not the file that was noticed",
    ),
}


@pytest.mark.parametrize("case", AGAINST)
def test_each_reason_alone_keeps_the_copy(case: str) -> None:
    facts, kind, words = AGAINST[case]
    found = why(facts)
    assert {reason.kind for reason in found} == {kind}, found
    assert any(words in reason.words for reason in found), found


def test_what_todays_spec_does_not_prune_stays() -> None:
    assert [reason.words for reason in why(CLEAR, None)] == ["today's spec does not prune bl1/dtn"]


def test_all_reasons_are_told_not_only_the_first() -> None:
    facts = replace(other(CLEAR, "cfs", state="present"), armed=False, question="?", noticed_at=NOW)
    assert len(why(facts)) == 4


def test_a_hold_that_is_over_keeps_nothing() -> None:
    assert why(replace(CLEAR, holds=[Hold(NOW, "kim", "thesis")])) == []


def test_age_is_counted_by_our_clock_and_a_files_own_time_does_not_count() -> None:
    old_file = [replace(file, mtime=NOW - 4000 * DAY) for file in FILES]
    facts = replace(CLEAR, files=old_file, noticed_at=NOW - DAY)
    assert any("stays for 30 days" in reason.words for reason in why(facts))


def test_a_shorter_and_a_longer_retention_hold_at_once() -> None:
    """defect 14: what is due follows from today's rule, not from a plan that was made when the file came."""
    assert why(CLEAR, RULE.model_copy(update={"after_days": 39})) == []
    assert len(why(CLEAR, RULE.model_copy(update={"after_days": 41}))) == 1


def test_another_place_that_the_rule_does_not_demand_has_no_say() -> None:
    rule = RULE.model_copy(update={"needs": ["cfs"]})
    assert why(other(CLEAR, "hpss", state="lost"), rule) == []


def test_in_the_trash_a_file_may_be_deleted_already_but_none_may_be_another() -> None:
    assert why(replace(own("a.h5", gone=True), in_trash=True)) == []
    assert [r.kind for r in why(replace(own("a.h5", bytes=6), in_trash=True))] == [Kind.OWN]


def test_what_could_not_be_asked_is_no_firm_reason() -> None:
    found = why(replace(CLEAR, own=NoLook("502"), armed=False))
    assert {reason.kind for reason in found} == {Kind.DISARMED, Kind.UNKNOWN}
    assert [reason.kind for reason in firm(found)] == [Kind.DISARMED]


def test_the_latest_comparison_counts_and_an_older_one_is_no_excuse() -> None:
    again = proven("cfs", "a.h5", proof("globus-checksum", days=181), proof("globus-checksum", days=1))
    assert why(again) == []
    worse = proven("cfs", "a.h5", proof("globus-checksum", days=9), proof("globus-checksum", days=1, bytes=4))
    assert {r.kind for r in why(worse)} == {Kind.DIFFERS}
