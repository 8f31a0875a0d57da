"""How long a service asks to wait."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from resources.errors import retry_after


@pytest.mark.parametrize(("text", "seconds"), [("7", 7.0), (" 120 ", 120.0), ("1.5", 1.5), ("9" * 400, 86400.0)])
def test_a_number_is_seconds_and_at_most_a_day(text: str, seconds: float) -> None:
    assert retry_after(text) == seconds


def test_a_date_is_waited_for() -> None:
    coming = datetime.now(UTC) + timedelta(minutes=10)
    for text in (format_datetime(coming, usegmt=True), coming.strftime("%a, %d %b %Y %H:%M:%S -0000")):
        found = retry_after(text)
        assert found is not None and 590 < found <= 600
    assert retry_after(format_datetime(coming + timedelta(days=400), usegmt=True)) == 86400.0


@pytest.mark.parametrize(
    "text",
    [None, "", "0", "-5", "soon", "inf", "nan", "1e9", "٣", "Wed, 21 Oct 2015 07:28:00 GMT", "Wed, 99 Foo 20151 x"],
)
def test_what_says_nothing_is_no_reason_to_wait(text: str | None) -> None:
    assert retry_after(text) is None
