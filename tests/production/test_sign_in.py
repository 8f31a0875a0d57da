"""NERSC's sign-in wants fewer requests, or a proxy answers in its place: a rest, and no word against the key."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from resources import sfapi_session
from resources.errors import Unavailable

LIMITED = {"kind": "status", "code": 429, "body": {"error": "rate_limited"}, "headers": {"Retry-After": "7"}}
BUSY = [{"kind": "429", "retry_after": 7}, LIMITED, {**LIMITED, "body": "<html>slow down"}]


@pytest.fixture
def signed_out(rig: Any) -> Any:
    sfapi_session._sign_ins.clear()
    return rig


@pytest.mark.parametrize("fault", BUSY, ids=["JSON", "an OAuth error", "a page"])
def test_too_many_sign_ins_are_told_as_that_with_how_long_to_wait(signed_out: Any, fault: dict[str, Any]) -> None:
    signed_out.sandbox.fault("sfapi", **fault, route="POST /token")
    with pytest.raises(Unavailable) as told:
        signed_out.services["nersc"].poll(["1"])
    assert "NERSC's API asks for fewer requests (asked to sign in)" in told.value.reason
    assert "What to do: nothing" in told.value.reason
    assert (told.value.service, told.value.code, told.value.retry_after_s) == ("nersc", "HTTP 429", 7.0)
    assert signed_out.services["nersc"].poll(["1"]) == {}


def test_a_page_in_place_of_a_token_is_an_outage_and_no_bad_key(signed_out: Any) -> None:
    signed_out.sandbox.fault("sfapi", "status", route="POST /token", code=200, body="<html>please wait")
    with pytest.raises(Unavailable, match="not JSON \\(asked to sign in\\)"):
        signed_out.services["nersc"].poll(["1"])


def test_the_analysis_rests_with_the_reason_and_no_attempt_is_used_up(signed_out: Any) -> None:
    rig = signed_out
    (key,) = rig.copied()
    sfapi_session._sign_ins.clear()
    fault = {**LIMITED, "headers": {"Retry-After": "3600"}}
    rig.sandbox.fault("sfapi", **fault, route="POST /token", count=-1)
    assert not rig.run("xpcs_result", patient=False).failed
    step = rig.step(key, "xpcs_result")
    assert step.state in ("due", "working", "in_flight") and step.attempt == 1
    shown = rig.document(key)
    assert shown["state"] == "waiting" and "asks for fewer requests" in shown["why"], shown["why"]
    pause = rig.pause_of("nersc")
    assert pause is not None and not pause.person
    assert timedelta(seconds=3500) < pause.until - rig.ledger.now() <= timedelta(seconds=3600)
    rig.sandbox.box.clear_faults()
    before = rig.sandbox.requests().get("sfapi POST /token", 0)
    rig.run("xpcs_result", patient=False)
    assert rig.sandbox.requests().get("sfapi POST /token", 0) == before, "it is not asked while it rests"
