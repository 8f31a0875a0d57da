"""Analyses by Slurm jobs: every way in which a job can end, and what the scan's page says about it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from resources import once
from resources.errors import CredentialProblem
from sandbox import jobs as slurm


def xpcs_tasks(rig: Any, key: str) -> list[Any]:
    return rig.tasks(key, "xpcs_result")


@pytest.mark.parametrize("kind", ["node_fail", "preempted"])
@pytest.mark.parametrize("delay", [0, 0.3])
def test_a_lost_node_or_a_preemption_is_tried_again(rig: Any, kind: str, delay: float) -> None:
    (key,) = rig.copied()
    rig.stand_in('case "$SLURM_JOB_ID" in *1) exec sleep 60;; esac' if delay else "")  # until it is ended: the first
    rig.sandbox.fault("sfapi", kind, delay=delay)
    ran = rig.run("xpcs_result")
    assert ran.keys == [key]
    assert [(t.attempt, t.state) for t in xpcs_tasks(rig, key)] == [(1, "failed"), (2, "succeeded")]
    folders = {t.request["job"]["attempt_dir"] for t in xpcs_tasks(rig, key)}
    assert len(folders) == 2, "an attempt never shares its folder with another"


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("time_limit", "ran into its time limit"),
        ("out_of_memory", "needed more memory"),
    ],
)
@pytest.mark.parametrize("when", ["before", "after"])
def test_what_would_come_again_fails_at_once_with_slurm_s_reason(rig: Any, kind: str, words: str, when: str) -> None:
    """ "after": the program was stopped by Slurm's signal and said so in its outcome."""
    (key,) = rig.copied()
    rig.stand_in("exit 75" if when == "after" else "")
    rig.sandbox.fault("sfapi", kind, when=when)
    ran = rig.run("xpcs_result")
    assert words in ran.failed[key] and "What to do:" in ran.failed[key]
    assert ran.failed[key].startswith(f"{key}: xpcs_result at nersc in job 33")
    assert len(xpcs_tasks(rig, key)) == 1


def test_a_job_that_really_meets_its_time_limit_is_not_tried_again(rig: Any) -> None:
    (key,) = rig.copied()
    rig.stand_in("exec sleep 30")
    slurm.configure(rig.sandbox.box, kill_wait_s=0.1)
    engine = rig.engine("xpcs_result")
    engine.family.analysis = engine.family.analysis.model_copy(
        update={"directives": {**engine.family.analysis.directives, "time": "00:00:01"}}
    )
    ran = rig.run("xpcs_result", engine=engine)
    assert "ran into its time limit" in ran.failed[key]
    assert len(xpcs_tasks(rig, key)) == 1


def test_a_job_that_ends_well_without_an_outcome_is_tried_again(rig: Any) -> None:
    (key,) = rig.copied()
    rig.attempts_allowed(2)
    program = rig.folder / "forgetful"
    program.write_text("#!/bin/sh\ncat >/dev/null\nexit 0\n")
    program.chmod(0o755)
    rig._program(str(program))
    ran = rig.run("xpcs_result")
    assert "ended as COMPLETED without an outcome. (attempt 2 of 2)" in ran.failed[key]


def test_an_unreadable_file_is_the_program_s_verdict_and_no_retry_helps(rig: Any) -> None:
    (key,) = rig.copied()
    rig.stand_in('echo "$file: cut off at byte 96" >&2; exit 3')
    ran = rig.run("xpcs_result")
    why = ran.failed[key]
    assert f"{key}: xpcs_result at nersc in job" in why and "failed (exit 3)" in why
    assert "day/s000.h5: cut off at byte 96" in why and "What to do: compare the file" in why
    assert len(xpcs_tasks(rig, key)) == 1


def test_a_program_that_says_nothing_is_said_to_have_said_nothing(rig: Any) -> None:
    (key,) = rig.copied()
    rig.stand_in("exit 1")
    assert "(exit 1): it did not say why." in rig.run("xpcs_result").failed[key]


def test_numbers_that_are_not_finite_are_kept_as_missing(rig: Any) -> None:
    (key,) = rig.copied()
    rig.stand_in('mkdir -p "$plots"; echo \'{"values": {"tau_s": [NaN, Infinity, 1.0]}}\' > "$summary"; exit 0')
    assert rig.run("xpcs_result").keys == [key]
    assert rig.document(key)["products"][0]["values"]["tau_s"] == [None, None, 1.0]


def test_a_plot_that_is_too_large_is_left_out(rig: Any) -> None:
    (key,) = rig.copied()
    rig.stand_in(
        'mkdir -p "$plots"; head -c 400000 /dev/zero > "$plots/g2.png"; head -c 9 /dev/zero > "$plots/scattering.png"'
    )
    assert rig.run("xpcs_result").keys == [key]


def test_a_lost_ledger_adopts_what_was_done_and_does_nothing_twice(rig: Any) -> None:
    """Attempt 1 was stopped, attempt 2 worked: a new ledger proposes the same keys and meets the claims."""
    keys = rig.copied(2)
    mark = rig.folder / "stopped-once"
    rig.stand_in(f"mkdir {mark} 2>/dev/null && exit 75")
    rig.run("xpcs_result")
    before = {k: rig.document(k)["products"] for k in keys}
    executions = rig.sandbox.executions("sfapi")
    rig.forget()
    assert sorted(rig.notice(*keys)) == sorted(keys)
    for key in keys:
        rig.settle_by_hand(key, "raw_at_cfs")
    assert sorted(rig.run("xpcs_result").keys) == keys
    assert {k: rig.document(k)["products"] for k in keys} == before
    assert rig.sandbox.executions("sfapi") == executions


def test_an_outage_puts_submission_off_uses_up_no_attempt_and_says_why(rig: Any) -> None:
    (key,) = rig.copied()
    rig.sandbox.fault("sfapi", "outage", text="maintenance of the cooling plant", count=-1)
    rig.pace(pause_first_s=60, pause_most_s=60)
    rig.run("xpcs_result", patient=False)
    assert "maintenance of the cooling plant" in rig.pause_of("nersc").reason
    shown = rig.document(key)["assets"]["xpcs_result"]
    assert shown["state"] == "waiting" and "maintenance of the cooling plant" in shown["why"] and shown["until"]
    rig.sandbox.box.clear_faults()
    once.answered(rig.ledger, "nersc")
    assert rig.run("xpcs_result").keys == [key]
    assert [t.attempt for t in xpcs_tasks(rig, key)] == [1]
    assert set(rig.sandbox.executions("sfapi").values()) == {1}


def test_a_full_queue_puts_submission_off_and_uses_up_no_attempt(rig: Any) -> None:
    (key,) = rig.copied()
    text = "sbatch: error: QOSMaxSubmitJobPerUserLimit"
    rig.sandbox.fault("sfapi", "refused", text=text, count=2)
    assert rig.run("xpcs_result").keys == [key]
    assert [t.attempt for t in xpcs_tasks(rig, key)] == [1]


def test_a_refused_job_fails_at_once_in_sbatch_s_words(rig: Any) -> None:
    (key,) = rig.copied()
    rig.sandbox.fault("sfapi", "refused", text="sbatch: error: Invalid qos specification", count=-1)
    ran = rig.run("xpcs_result")
    assert "Invalid qos specification" in ran.failed[key] and "job None" not in ran.failed[key]
    assert len(xpcs_tasks(rig, key)) == 1


def test_an_expired_key_pauses_with_the_reason_and_goes_on_when_it_is_renewed(rig: Any) -> None:
    (key,) = rig.copied()
    file = rig.sandbox.dir / "sfapi_key.json"
    good = file.read_text()
    file.write_text(json.dumps({**json.loads(good), "client_id": "x" * 13}))
    file.chmod(0o600)
    rig.pace(pause_first_s=60, pause_most_s=60)
    rig.run("xpcs_result", patient=False)
    assert "does not accept the key in" in rig.pause_of("nersc").reason
    file.write_text(good)
    once.answered(rig.ledger, "nersc")
    assert rig.run("xpcs_result").keys == [key]
    assert [t.attempt for t in xpcs_tasks(rig, key)] == [1]


def test_a_credential_that_fails_while_results_are_read_puts_them_off(rig: Any) -> None:
    (key,) = rig.copied()
    engine = rig.engine("xpcs_result")
    real, fails = engine.family.collect, [1]

    def collect(task: Any, pairs: Any) -> Any:
        if fails:
            fails.pop()
            raise CredentialProblem("nersc", "the key has expired")
        return real(task, pairs)

    engine.family.collect = collect
    assert rig.run("xpcs_result", engine=engine).keys == [key]
    assert len(xpcs_tasks(rig, key)) == 1


def test_asked_again_makes_a_new_revision_in_a_folder_of_its_own(rig: Any) -> None:
    (key,) = rig.copied()
    rig.run("xpcs_result")
    assert rig.ask("xpcs_result", key, "run-7") == 1
    assert rig.ask("xpcs_result", key, "run-7") == 0, "asking twice is asking once"
    rig.run("xpcs_result")
    rig.ask("xpcs_result", key, "run-7")
    assert rig.step(key, "xpcs_result").state == "done"
    assert [p["revision"] for p in rig.document(key)["products"]] == [1, 2]
    assert (rig.results / key / "xpcs_result-r1/summary.json").exists()
    assert (rig.results / key / "xpcs_result-r2/summary.json").exists()


def waiting_job(rig: Any, asset: str) -> str:
    """A job of the asset that waits in the queue; returns its id."""
    rig.sandbox.fault("sfapi", "pending_forever", count=1)
    (key,) = rig.keys()
    rig.until(lambda: rig.run(asset, patient=False) and rig.tasks(key, asset)[0].external_id)
    return str(rig.tasks(key, asset)[0].external_id)


def test_a_job_that_a_person_cancelled_is_not_submitted_again(rig: Any) -> None:
    (key,) = rig.copied()
    rig.services["nersc"].cancel(waiting_job(rig, "xpcs_result"))
    ran = rig.run("xpcs_result")
    assert "the job was cancelled by user id" in ran.failed[key]
    assert len(xpcs_tasks(rig, key)) == 1


def test_the_catalogue_job_that_a_person_cancelled_does_not_keep_the_scan_out(rig: Any) -> None:
    (key,) = rig.copied()
    rig.services["nersc"].cancel(waiting_job(rig, "catalog_entry"))
    ran = rig.run("catalog_entry")
    assert ran.keys == [key]
    assert "was cancelled" in rig.document(key)["assets"]["catalog_entry"]["why"]
