"""Submitting exactly once: a service that really keeps tasks, and a platform that is killed at every point."""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from beamlines.policy.grouping import Group
from resources import once
from resources.errors import CredentialProblem, NotFound, Refused, Unavailable
from resources.ledger import Ledger, flow, history, leases, scans, steps, tasks
from resources.ledger.scans import Listed
from resources.ledger.tasks import Task
from resources.once import Patience
from resources.tasks import TaskState, TaskStatus, TaskSystem
from tests.conftest import PATIENCE_S
from tests.ledger.conftest import spec_of

FORK = multiprocessing.get_context("fork")
PATIENCE = Patience(lookup_s=60, unknown_s=7200, pause_first_s=30, pause_most_s=1800)
NOW = datetime(2026, 11, 20, 10, 0, tzinfo=UTC)
ASSET = "raw_at_cfs"


class Service:
    """A facility that keeps its tasks in a folder, so that several processes may ask it.

    A service that knows keys answers a repeated one with its first task. Any other starts another execution, of which
    all but the first to claim the key end at once as duplicates, as jobs under als-job do.

    Attributes:
        trouble: call -> what it raises, or does, before or after it has taken effect: {"submit": ("after", error)}.
        hidden: `find` does not show what was submitted within so many executions from the end (caches lag).
    """

    system = "fake"
    service = "facility"

    def __init__(self, folder: Path, knows_keys: bool) -> None:
        self.folder = folder
        self.same_key_same_task = knows_keys
        self.trouble: dict[str, tuple[str, Exception | Callable[[], None]]] = {}
        self.hidden = 0
        self.calls: list[str] = []
        folder.mkdir(exist_ok=True)

    def _trouble(self, call: str, when: str) -> None:
        at, what = self.trouble.get(call, ("", None))
        if at == when and isinstance(what, Exception):
            raise what
        if at == when and callable(what):
            what()

    def _all(self) -> list[dict[str, Any]]:
        files = sorted(self.folder.glob("task-*"), key=lambda f: int(f.name[5:]))
        return [json.loads(f.read_text()) for f in files if f.read_text()]

    def script(self, key: str, request: Any) -> None:
        return None

    def new_key(self, proposed: str) -> str:
        self.calls.append("new_key")
        self._trouble("new_key", "before")
        key = f"{proposed}-{os.getpid()}-{time.monotonic_ns()}" if self.same_key_same_task else proposed
        self._trouble("new_key", "after")
        return key

    def submit(self, key: str, request: Mapping[str, Any]) -> str:
        self.calls.append("submit")
        self._trouble("submit", "before")
        task_id = self._known(key) if self.same_key_same_task else None
        if task_id is None:
            task_id = self._begin(key)
        self._trouble("submit", "after")
        return task_id

    def _known(self, key: str) -> str | None:
        """Atomically: the task of this key, or None after the key was taken for a new one."""
        try:
            os.close(os.open(self.folder / f"key-{key}", os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            until = time.monotonic() + PATIENCE_S
            while not (found := [t["id"] for t in self._all() if t["key"] == key]):
                assert time.monotonic() < until
            return str(found[0])
        return None

    def _begin(self, key: str) -> str:
        number = 1
        while True:
            try:
                handle = os.open(self.folder / f"task-{number}", os.O_CREAT | os.O_EXCL | os.O_WRONLY)
                break
            except FileExistsError:
                number += 1
        try:
            (self.folder / f"claim-{key}").mkdir()
            duplicate = False
        except FileExistsError:
            duplicate = True
        document = {
            "id": str(number),
            "key": key,
            "duplicate": duplicate,
            "state": "failed" if duplicate else "running",
        }
        os.write(handle, json.dumps(document).encode())
        os.close(handle)
        return str(number)

    def _status(self, task: dict[str, Any]) -> TaskStatus:
        return TaskStatus(task["id"], TaskState(task["state"]), task["state"].upper(), duplicate=task["duplicate"])

    def find(self, key: str) -> list[TaskStatus]:
        self.calls.append("find")
        self._trouble("find", "before")
        known = self._all()
        return [self._status(t) for t in known[: len(known) - self.hidden] if t["key"] == key]

    def poll(self, ids: Iterable[str]) -> dict[str, TaskStatus]:
        self.calls.append("poll")
        self._trouble("poll", "before")
        return {t["id"]: self._status(t) for t in self._all() if t["id"] in set(ids)}

    def cancel(self, task_id: str) -> None:
        self.end(task_id, "cancelled")

    def url(self, task_id: str) -> str | None:
        return None

    def end(self, task_id: str, state: str = "succeeded") -> None:
        file = self.folder / f"task-{task_id}"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"state": state}))

    def forget(self, task_id: str) -> None:
        (self.folder / f"task-{task_id}").unlink()

    @property
    def effective(self) -> int:
        """How many executions really did something."""
        return sum(not task["duplicate"] for task in self._all())


def _is_a_task_system(service: Service) -> TaskSystem:
    return service


class World:
    """A ledger with scans, a service, and a clock that stands still until a test moves it."""

    def __init__(self, folder: Path, knows_keys: bool) -> None:
        self.url = f"sqlite:///{folder / 'ledger.db'}"
        self.folder, self.knows_keys = folder, knows_keys
        self.now = NOW
        self.service = Service(folder / "service", knows_keys)
        self.ledger = self.open()
        self.spec = spec_of()

    def open(self) -> Ledger:
        ledger = Ledger(self.url, "sandbox")
        ledger.now = lambda: self.now  # type: ignore[method-assign]
        return ledger

    def scan(self, path: str = "a.h5") -> int:
        with self.ledger.write() as tx:
            seen = scans.see(tx, "bl1", [Listed(path, 5, NOW)], self.now)
            scan_id = scans.register(tx, "bl1", "dtn", Group(path, {"data": path}), seen, self.now)
            flow.advance(tx, self.spec, [scan_id], self.now)
        return scan_id

    def intend(self, *scan_ids: int, key: str = "als-bl1-copy-0123") -> int:
        ids = scan_ids or (self.scan(),)
        with self.ledger.write() as tx:
            return tasks.intend(
                tx, self.now, beamline="bl1", asset=ASSET, purpose="copy", system="fake", service="facility",
                proposed_key=key, request={"what": "this"}, attempt=1, scan_ids=ids,
            )  # fmt: skip

    def task(self, task_id: int = 1) -> Task:
        with self.ledger.read() as tx:
            return tasks.get(tx, task_id)

    def submit(self, task_id: int = 1) -> None:
        once.submit(self.ledger, self.service, self.task(task_id), PATIENCE)

    def poll(self) -> int:
        with self.ledger.read() as tx:
            live = tasks.live(tx, "facility")
        return once.poll(self.ledger, self.service, live, PATIENCE)

    def wait(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    def until_it_runs(self) -> Task:
        """What the sensor does tick for tick: submit what is not there yet, poll."""
        for _ in range(10):
            try:
                if self.task().external_id is None:
                    self.submit()
                self.poll()
            except (Unavailable, CredentialProblem):
                pass
            task = self.task()
            if (task.external_id and task.native == "RUNNING") or not task.live:
                return task
            self.wait(61)
        return self.task()

    def step(self) -> steps.Step:
        with self.ledger.read() as tx:
            return steps.of_keys(tx, "bl1", ASSET, ["a.h5"])[0]

    def paused(self) -> leases.Pause | None:
        with self.ledger.read() as tx:
            return leases.paused(tx, "facility", self.now)

    def said(self) -> list[str]:
        import sqlalchemy as sa

        from resources.ledger import schema

        with self.ledger.read() as tx:
            return list(tx.execute(sa.select(schema.history.c.what).order_by(schema.history.c.id)).scalars())


@pytest.fixture(params=[True, False], ids=["service knows keys", "service is searched"])
def world(request: pytest.FixtureRequest, tmp_path: Path, sqlite_template: Path) -> Iterator[World]:
    (tmp_path / "ledger.db").write_bytes(sqlite_template.read_bytes())
    made = World(tmp_path, request.param)
    yield made
    made.ledger.close()


searched = pytest.mark.parametrize("world", [False], indirect=True, ids=["service is searched"])


def test_a_task_is_submitted_once_and_followed_to_its_end(world: World) -> None:
    world.intend()
    assert world.step().state == steps.IN_FLIGHT
    world.submit()
    task = world.task()
    assert (task.external_id, task.state, task.submitted_at) == ("1", "queued", NOW)
    world.submit()
    assert world.service.calls == ["new_key", "submit"], "what is there is not submitted again"
    assert world.poll() == 0 and world.task().state == "running"
    world.service.end("1")
    assert world.poll() == 1 and world.poll() == 0
    assert (world.task().live, world.task().ended_at, world.step().state) == (False, NOW, steps.LANDED)
    assert world.service.effective == 1


# killed at every point, then again


class Killed(BaseException):
    """Nothing catches it, like nothing catches a kill."""


def crash(world: World, point: str) -> None:
    """Let the next submission die at a point of the docstring of resources/once.py."""
    real_keep, real_trying, real_submitted = tasks.keep_key, tasks.trying, tasks.submitted

    def die(*arguments: Any) -> Any:
        raise Killed(point)

    def die_after_commit(real: Any) -> Any:
        def then(tx: Any, *arguments: Any) -> Any:
            real(tx, *arguments)
            tx.commit()
            raise Killed(point)

        return then

    if point == "2 before":
        world.service.trouble["new_key"] = ("after", lambda: die())
    elif point == "2 after":
        tasks.keep_key = die_after_commit(real_keep)
    elif point == "3 before":
        tasks.trying = die
    elif point == "3 after":
        tasks.trying = die_after_commit(real_trying)
    elif point == "4 before":
        world.service.trouble["submit"] = ("before", lambda: die())
    elif point == "4 after":
        world.service.trouble["submit"] = ("after", lambda: die())
    elif point == "5 before":
        tasks.submitted = die
    elif point == "5 after":
        tasks.submitted = die_after_commit(real_submitted)


POINTS = ["2 before", "2 after", "3 before", "3 after", "4 before", "4 after", "5 before", "5 after"]


def dies(world: World, point: str) -> None:
    ledger = world.open()
    try:
        crash(world, point)
        once.submit(ledger, world.service, world.task(), PATIENCE)
    finally:
        os._exit(9)


@pytest.mark.parametrize("point", POINTS)
def test_a_process_that_dies_anywhere_leaves_at_most_one_effective_execution(world: World, point: str) -> None:
    world.intend()
    world.ledger.engine.dispose()
    process = FORK.Process(target=dies, args=(world, point))
    process.start()
    process.join(PATIENCE_S)
    assert process.exitcode == 9
    task = world.until_it_runs()
    assert task.state == "running" and task.external_id
    assert world.service.effective == 1
    world.service.end(task.external_id)
    assert world.poll() == 1 and world.step().state == steps.LANDED


@pytest.mark.parametrize("point", POINTS)
def test_dying_twice_at_the_same_point_is_no_different(
    world: World, point: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.intend()
    for _ in range(2):
        with monkeypatch.context() as patches:
            for name in ("keep_key", "trying", "submitted"):
                patches.setattr(tasks, name, getattr(tasks, name))  # put back afterwards
            crash(world, point)
            try:
                world.submit()
            except Killed:
                pass
        world.service.trouble.clear()
        world.wait(61)
    assert world.until_it_runs().state == "running"
    assert world.service.effective == 1


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_lost_answer_to_a_submission_has_at_most_one_effect(world: World, when: str) -> None:
    world.intend()
    world.service.trouble["submit"] = (when, Unavailable("facility", "no answer within 20 s", "TIMEOUT"))
    with pytest.raises(Unavailable):
        world.submit()
    assert (world.task().tried_at, world.task().external_id, world.task().live) == (NOW, None, True)
    assert world.paused() is not None
    world.service.trouble.clear()
    assert world.until_it_runs().state == "running"
    assert world.service.effective == 1
    assert world.paused() is None and world.said() == ["pause", "resume"]


@searched
def test_a_submission_that_may_have_worked_is_looked_for_as_long_as_caches_may_lag(world: World) -> None:
    world.intend()
    world.service.trouble["submit"] = ("after", Unavailable("facility", "no answer"))
    with pytest.raises(Unavailable):
        world.submit()
    world.service.trouble.clear()
    world.service.hidden = 1
    for _ in range(3):
        world.wait(15)
        world.submit()
    assert world.service.calls.count("submit") == 1, "it may be there without being listed"
    world.service.hidden = 0
    world.submit()
    assert world.task().external_id == "1" and world.service.calls.count("submit") == 1


@searched
def test_one_that_shows_up_after_a_second_was_sent_is_the_one_that_counts(world: World) -> None:
    world.intend()
    world.service.trouble["submit"] = ("after", Unavailable("facility", "no answer"))
    with pytest.raises(Unavailable):
        world.submit()
    world.service.trouble.clear()
    world.service.hidden = 1
    world.wait(61)
    world.submit()
    assert world.task().external_id == "2", "the second one, which ends at once as a duplicate"
    world.service.hidden = 0
    assert world.poll() == 0 and world.task().external_id == "1"
    assert world.poll() == 0 and world.task().state == "running"
    assert world.service.effective == 1


def races(world: World, start: float) -> None:
    ledger = world.open()
    time.sleep(max(0.0, start - time.time()))
    try:
        once.submit(ledger, world.service, world.task(), PATIENCE)
    finally:
        os._exit(0)


def test_processes_that_submit_at_once_have_one_effect(world: World) -> None:
    world.intend()
    world.ledger.engine.dispose()
    start = time.time() + 0.3
    processes = [FORK.Process(target=races, args=(world, start)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(PATIENCE_S)
        assert process.exitcode == 0
    assert world.until_it_runs().state == "running"
    assert world.service.effective == 1


def test_one_that_is_overtaken_while_it_fetches_a_key_submits_nothing(world: World) -> None:
    world.intend()

    def overtaken() -> None:
        world.service.trouble.clear()
        world.submit()

    world.service.trouble["new_key"] = ("after", overtaken)
    world.submit()
    assert world.service.calls.count("submit") == 1 and world.task().external_id == "1"


def test_of_two_that_fetch_a_key_at_once_both_use_the_one_that_was_kept_first(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.intend()

    def overtaken() -> None:
        world.service.trouble.clear()
        with monkeypatch.context() as patches:
            patches.setattr(tasks, "trying", tasks.trying)  # put back afterwards
            crash(world, "3 before")
            with pytest.raises(Killed):
                world.submit()

    world.service.trouble["new_key"] = ("after", overtaken)
    world.submit()
    assert world.service._all()[0]["key"] == world.task().key


def test_a_run_that_read_the_task_long_ago_submits_nothing_again(world: World) -> None:
    world.intend()
    old = world.task()
    world.submit()
    world.service.end("1")
    world.poll()
    once.submit(world.ledger, world.service, old, PATIENCE)
    assert world.service.calls.count("submit") == 1


# what the service says


@pytest.mark.parametrize("error", [Refused("facility", "no such QOS", "SBATCH"), NotFound("facility", "no endpoint")])
@pytest.mark.parametrize("call", ["new_key", "submit"])
def test_a_refusal_ends_the_task_with_the_reason_and_without_another_attempt(
    world: World, call: str, error: Exception
) -> None:
    world.intend()
    world.service.trouble[call] = ("before", error)
    world.submit()
    task = world.task()
    assert (task.live, task.state, task.native, task.transient) == (False, "failed", "REFUSED", False)
    assert task.reason == error.reason and world.step().state == steps.LANDED  # type: ignore[attr-defined]
    assert world.paused() is None


def test_a_service_that_refuses_what_it_took_before_is_followed(world: World) -> None:
    """Its answer was lost, and now it says "such a task is there already", or the permission is gone."""
    world.intend()
    world.service.trouble["submit"] = ("after", Unavailable("facility", "no answer"))
    with pytest.raises(Unavailable):
        world.submit()
    world.service.trouble["submit"] = ("before", Refused("facility", "there is one already"))
    world.wait(61)
    world.submit()
    assert (world.task().live, world.task().external_id) == (True, "1")


def test_a_refusal_does_not_end_what_another_process_has_brought_there(world: World) -> None:
    world.intend()

    def meanwhile() -> None:
        with world.ledger.write() as tx:
            tasks.submitted(tx, 1, "77", NOW)
        raise Refused("facility", "busy")

    world.service.trouble["submit"] = ("before", meanwhile)
    world.submit()
    assert (world.task().live, world.task().external_id) == (True, "77")


@pytest.mark.parametrize(
    "error", [CredentialProblem("facility", "the key has expired"), Unavailable("facility", "502")]
)
@pytest.mark.parametrize("call", ["new_key", "submit", "poll"])
def test_trouble_that_is_not_the_task_s_fault_pauses_the_service_and_uses_up_nothing(
    world: World, call: str, error: Exception
) -> None:
    world.intend()
    if call == "poll":
        world.submit()
    world.service.trouble[call] = ("before", error)
    with pytest.raises(type(error)):
        world.poll() if call == "poll" else world.submit()
    rest = world.paused()
    assert rest is not None and rest.until == NOW + timedelta(seconds=30) and rest.reason in str(error)
    assert world.task().live and world.step().attempt == 1 and world.step().state == steps.IN_FLIGHT
    assert world.said() == ["pause"]


def test_a_service_that_says_when_to_come_back_is_left_alone_until_then(world: World) -> None:
    error = Unavailable("facility", "too many requests", "429", retry_after_s=400)
    assert once.pause(world.ledger, error, PATIENCE).until == NOW + timedelta(seconds=400)


def test_a_service_that_was_not_asked_has_not_answered(world: World) -> None:
    world.intend()
    world.submit()
    once.pause(world.ledger, Unavailable("facility", "down"), PATIENCE)
    world.submit()  # there is nothing to do
    assert once.poll(world.ledger, world.service, [], PATIENCE) == 0
    assert world.paused() is not None


def test_polling_many_is_one_call(world: World) -> None:
    for n in range(30):
        task_id = world.intend(world.scan(f"{n}.h5"), key=f"k{n}")
        world.submit(task_id)
    world.service.calls.clear()
    for n in (3, 4):
        world.service.end(str(n), "failed")
    assert world.poll() == 2
    assert world.service.calls == ["poll"]


def test_a_task_that_the_service_does_not_know_is_never_submitted_again(world: World) -> None:
    world.intend()
    world.submit()
    world.service.forget("1")
    world.wait(60)
    assert world.poll() == 0 and world.task().unknown_since == world.now and world.task().live
    world.wait(7199)
    assert world.poll() == 0 and world.task().live
    world.wait(1)
    assert world.poll() == 1
    task = world.task()
    assert (task.state, task.native, task.transient, task.code) == ("failed", "UNKNOWN", False, "UNKNOWN")
    assert "has not known fake task 1 since 2026-11-20 10:01 UTC" in (task.reason or "")
    assert world.service.calls.count("submit") == 1


def test_a_task_that_is_known_again_starts_from_the_beginning(world: World) -> None:
    world.intend()
    world.submit()
    file = world.service.folder / "task-1"
    text = file.read_text()
    file.unlink()
    world.poll()
    file.write_text(text)
    world.wait(8000)
    assert world.poll() == 0 and world.task().unknown_since is None


@searched
def test_a_duplicate_whose_winner_is_not_listed_yet_is_waited_with(world: World) -> None:
    """Concluding from it that the work is done, or failed, would start a second one beside the first."""
    world.intend()
    world.service.submit("als-bl1-copy-0123", {})  # by an earlier life of the ledger
    world.submit()
    assert world.task().external_id == "2"
    real, world.service.find = world.service.find, lambda key: []  # type: ignore[method-assign]
    assert world.poll() == 0 and world.task().live
    world.wait(59)
    assert world.poll() == 0 and world.task().live
    world.service.find = real  # type: ignore[method-assign]
    assert world.poll() == 0 and world.task().external_id == "1" and world.task().live


@searched
def test_a_duplicate_whose_winner_nobody_remembers_lands_and_the_directory_holds_the_outcome(world: World) -> None:
    world.intend()
    world.service.submit("als-bl1-copy-0123", {})
    world.submit()
    world.service.forget("1")
    assert world.poll() == 0
    world.wait(60)
    assert world.poll() == 1 and world.step().state == steps.LANDED


def test_history_says_when_a_service_rested_and_when_it_answered_again(world: World) -> None:
    for n in range(3):
        once.pause(world.ledger, Unavailable("facility", f"502 {n}"), PATIENCE)
        world.wait(500)
    once.answered(world.ledger, "facility")
    once.answered(world.ledger, "facility")
    assert world.said() == ["pause", "resume"]
    assert history is not None
