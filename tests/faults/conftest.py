"""The rig of tests/ensure, for faults that have no other home there."""

from __future__ import annotations

from typing import Any

import pytest

from tests.ensure.conftest import Rig, rig, simulated  # noqa: F401  (fixtures)


@pytest.fixture
def goes_on(rig: Rig) -> Any:  # noqa: F811
    """goes_on(asset, key): the step ends done, in its first attempt, and everything was done once."""

    def goes_on(asset: str, key: str) -> None:
        ran = rig.run(asset)
        assert ran.keys == [key] and not ran.failed
        assert rig.step(key, asset).attempt == 1
        assert {t.attempt for t in rig.tasks(key, asset)} <= {1}
        rig.executed_once()

    return goes_on


@pytest.fixture
def rests(rig: Rig) -> Any:  # noqa: F811
    """rests(service, asset): an automatic run ends with the service at rest; returns (its reason, what the scan's page
    says). After `over()` everybody asks it again."""

    def rests(service: str, asset: str) -> tuple[str, str]:
        rig.pace(pause_first_s=60, pause_most_s=60)
        (key,) = rig.keys()
        rig.until(lambda: rig.run(asset, patient=False) and rig.pause_of(service))
        pause, shown = rig.pause_of(service), rig.document(key)["assets"][asset]
        assert pause is not None
        assert shown["state"] in ("waiting", "in_flight"), shown
        return pause.reason, str(shown["why"] or "")

    return rests


@pytest.fixture
def over(rig: Rig) -> Any:  # noqa: F811
    """The service answers again: what rested is over, and the step is not put off any longer."""
    from resources import once

    def over(service: str, asset: str, key: str) -> None:
        rig.sandbox.box.clear_faults()
        once.answered(rig.ledger, service)
        if rig.step(key, asset).state == "due":
            rig.ask(asset, key)
        rig.pace(pause_first_s=0.2, pause_most_s=0.5)

    return over
