"""The rule by which a transfer that only goes on trying is ended: a file's trouble, and nothing else that moves."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from beamlines.policy.stalled import MOST_DAMAGED, Progress, hopeless, progress

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
STALL = timedelta(minutes=10)


def seen(minutes: float, files: int = 0) -> Progress:
    return Progress(files, 1000, 0, NOW - timedelta(minutes=minutes))


@pytest.mark.parametrize("code", ["PERMISSION_DENIED", "FILE_NOT_FOUND", "FILE_SIZE_CHANGED", "VERIFY_CHECKSUM"])
def test_a_file_s_trouble_is_given_up_once_nothing_has_moved_for_the_stall_time(code: str) -> None:
    assert hopeless(code, seen(10), 50, 3, NOW, STALL)
    assert not hopeless(code, seen(9), 50, 3, NOW, STALL)


def test_a_task_without_trouble_is_never_given_up_however_long_it_takes() -> None:
    assert not hopeless("", seen(10_000), 50, 0, NOW, STALL)


def test_an_endpoint_that_is_down_as_a_whole_is_left_to_globus() -> None:
    assert not hopeless("CONNECT_FAILED", seen(10_000, files=0), 50, 9999, NOW, STALL)


def test_an_endpoint_that_served_other_files_of_the_task_gets_four_times_as_long() -> None:
    assert not hopeless("ENDPOINT_ERROR", seen(39, files=30), 50, 5, NOW, STALL)
    assert hopeless("ENDPOINT_ERROR", seen(40, files=30), 50, 5, NOW, STALL)


def test_a_file_that_arrives_damaged_again_and_again_moves_bytes_and_is_given_up_all_the_same() -> None:
    assert hopeless("VERIFY_CHECKSUM", seen(0), 1, MOST_DAMAGED, NOW, STALL)
    assert not hopeless("CONNECTION_RESET", seen(0), 1, 10 * MOST_DAMAGED, NOW, STALL)


def test_a_large_file_that_is_still_coming_keeps_its_task_alive() -> None:
    before = seen(30)
    assert progress(before, 0, 5000, 3, NOW) == Progress(0, 5000, 0, NOW)
    assert progress(before, 0, 900, 3, NOW) is before, "sent again from the start: that is no progress"
    assert progress(before, 1, 900, 3, NOW) == Progress(1, 1000, 3, NOW)
