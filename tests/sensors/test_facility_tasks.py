"""Tasks in flight are followed in bulk; what a killed run left unsent is sent."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pytest

from resources.errors import CredentialProblem, Unavailable
from resources.ledger import leases, steps, tasks
from resources.tasks import TaskState, TaskStatus, TaskSystem
from sensors import facility_tasks
from tests.sensors.conftest import PACE


class Service:
    system = service = "globus"
    same_key_same_task = True

    def __init__(self) -> None:
        self.states: dict[str, TaskState] = {}
        self.calls: list[str] = []
        self.trouble: Exception | None = None

    def _call(self, name: str) -> None:
        self.calls.append(name)
        if self.trouble:
            raise self.trouble

    def script(self, key: str, request: Any) -> None:
        return None

    def new_key(self, proposed: str) -> str:
        self._call("new_key")
        return proposed

    def submit(self, key: str, request: Mapping[str, Any]) -> str:
        self._call("submit")
        self.states.setdefault(key, TaskState.RUNNING)
        return key

    def find(self, key: str) -> list[TaskStatus]:
        return []

    def poll(self, ids: Iterable[str]) -> dict[str, TaskStatus]:
        self._call("poll")
        return {i: TaskStatus(i, self.states[i], "X") for i in ids if i in self.states}

    def cancel(self, task_id: str) -> None: ...

    def url(self, task_id: str) -> str | None:
        return None


def _is_a_task_system(service: Service) -> TaskSystem:
    return service


@pytest.fixture
def service() -> Service:
    return Service()


def watch(beamline: Any, service: Service) -> str:
    return facility_tasks.watch(beamline.ledger, service, PACE)


def intend(beamline: Any, *paths: str) -> None:
    for scan_id, path in zip(beamline.notice(*paths), paths, strict=True):
        with beamline.ledger.write() as tx:
            tasks.intend(
                tx, beamline.now, beamline="bl1", asset="raw_at_cfs", purpose="copy", system="globus",
                service="globus", proposed_key=path, request={}, attempt=1, scan_ids=[scan_id],
            )  # fmt: skip


def test_a_service_without_tasks_is_not_asked(beamline: Any, service: Service) -> None:
    assert watch(beamline, service) == "no task in flight" and service.calls == []


def test_an_intent_belongs_to_its_run_for_a_while_and_is_submitted_by_the_sensor_after_that(
    beamline: Any, service: Service
) -> None:
    intend(beamline, "a.h5")
    beamline.wait(90)
    watch(beamline, service)
    assert service.calls == []
    beamline.wait(1)
    watch(beamline, service)
    assert service.calls == ["new_key", "submit"]
    watch(beamline, service)
    assert service.calls[2:] == ["poll"]


def test_all_tasks_are_followed_in_one_call_and_what_has_ended_is_due_for_collection(
    beamline: Any, service: Service
) -> None:
    intend(beamline, "a.h5", "b.h5", "c.h5")
    beamline.wait(91)
    watch(beamline, service)
    service.calls.clear()
    service.states |= {"a.h5": TaskState.SUCCEEDED, "b.h5": TaskState.FAILED}
    assert watch(beamline, service) == "3 tasks in flight, 2 of them have ended"
    assert service.calls == ["poll"]
    assert [beamline.steps(key)["raw_at_cfs"].state for key in ("a.h5", "b.h5", "c.h5")] == [
        steps.LANDED, steps.LANDED, steps.IN_FLIGHT,
    ]  # fmt: skip
    with beamline.ledger.read() as tx:
        assert steps.due(tx, "bl1", "raw_at_cfs", beamline.now, beamline.now, 10) == ["a.h5", "b.h5"]


def test_a_tick_submits_no_more_than_it_has_time_for(beamline: Any, service: Service) -> None:
    intend(beamline, *[f"{n:02}.h5" for n in range(25)])
    beamline.wait(91)
    watch(beamline, service)
    assert service.calls.count("submit") == facility_tasks.MOST_SUBMISSIONS
    watch(beamline, service)
    assert service.calls.count("submit") == 25


@pytest.mark.parametrize("error", [Unavailable("globus", "502"), CredentialProblem("globus", "expired")])
def test_a_service_in_trouble_rests_and_is_said_to(beamline: Any, service: Service, error: Exception) -> None:
    intend(beamline, "a.h5")
    beamline.wait(91)
    service.trouble = error
    assert watch(beamline, service) == str(error)
    asked = len(service.calls)
    assert "globus rests until" in watch(beamline, service) and len(service.calls) == asked
    service.trouble = None
    beamline.wait(30)
    watch(beamline, service)
    assert watch(beamline, service) == "1 tasks in flight, 0 of them have ended"
    with beamline.ledger.read() as tx:
        assert leases.all_pauses(tx) == []
    assert beamline.steps()["raw_at_cfs"].attempt == 1


def test_tasks_of_other_services_are_left_to_their_sensors(beamline: Any, service: Service) -> None:
    intend(beamline, "a.h5")
    beamline.wait(91)
    service.service = "nersc"
    assert watch(beamline, service) == "no task in flight"


def test_watching_twice_changes_nothing(beamline: Any, service: Service) -> None:
    intend(beamline, "a.h5")
    beamline.wait(91)
    watch(beamline, service)
    service.states["a.h5"] = TaskState.SUCCEEDED
    watch(beamline, service)
    before = beamline.steps()
    assert watch(beamline, service) == "no task in flight" and beamline.steps() == before
