"""Every fault that the platform must live with, and the tests that inject it: of its outcome, and of its message.

A name here is "file::test", below tests/. A fault without a test, or a test that is no longer there, fails.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]
LASTS = "faults/test_transfers.py::test_trouble_that_lasts_fails_the_scan_with_its_reason_and_what_to_do"
COPY = "ensure/test_transfers.py::"
DEATHS = "ensure/test_deaths.py::"
PASSES = f"{COPY}test_trouble_that_passes_is_left_to_globus"
HELD = f"{COPY}test_a_held_transfer_uses_up_no_attempt_and_goes_on"
BLOCK = "faults/test_transfers.py::test_one_bad_file_in_a_block_of_fifty_holds_no_other"
RESTS = "faults/test_services.py::test_a_service_that_cannot_now_rests_with_its_reason_and_the_step_goes_on"
LOST = "ensure/test_lost_answers.py::"
NODES = "ensure/test_jobs.py::test_a_lost_node_or_a_preemption_is_tried_again"
AGAIN = "ensure/test_jobs.py::test_what_would_come_again_fails_at_once_with_slurm_s_reason"
TAPE = "ensure/test_archive.py::"
KEYS = "faults/test_credentials.py::"

FAULTS: dict[str, list[str]] = {
    "transfer FAILED": [f"{COPY}test_a_failed_task_is_tried_again_and_its_reason_can_be_read_meanwhile"],
    "transfer INACTIVE": [HELD],
    "transfer PAUSED": [HELD],
    "checksum mismatch that passes": [PASSES],
    "checksum mismatch that stays": [LASTS, BLOCK],
    "quota": [LASTS, f"{TAPE}test_a_full_quota_on_tape_is_for_a_person"],
    "disk full": [PASSES, LASTS],
    "permission": [LASTS, f"{COPY}test_an_unreadable_file_fails_alone_and_the_rest_of_its_block_arrives"],
    "FILE_SIZE_CHANGED": [PASSES, LASTS, BLOCK],
    "429": [RESTS],
    "503": [RESTS, f"{LOST}test_a_service_that_is_down_for_a_moment_uses_up_no_attempt"],
    "timeout": [RESTS],
    "lost answer of Globus": [f"{LOST}test_a_transfer_whose_submission_was_not_answered"],
    "lost answer of NERSC": [f"{LOST}test_a_job_whose_submission_was_not_answered"],
    "lost answer of the catalogue": [f"{LOST}test_a_catalogue_that_does_not_answer_holds_everything_once"],
    "lost answers of all, by a dead server": [f"{DEATHS}test_a_server_that_dies_at_every_call_is_waited_for"],
    "expired token": [
        f"{KEYS}test_a_globus_token_that_expired_or_was_revoked_is_renewed",
        f"{KEYS}test_a_nersc_token_that_expired_is_renewed_and_no_second_job_made",
        f"{KEYS}test_a_catalogue_token_that_expired_is_renewed_and_nothing_entered_twice",
    ],
    "expired key": [
        f"{KEYS}test_a_globus_secret_that_expired_pauses_with_the_variable_to_renew",
        f"{KEYS}test_a_nersc_key_that_expired_pauses_with_the_file_to_replace",
        f"{KEYS}test_a_catalogue_password_that_changed_pauses_and_does_not_show_it",
    ],
    "consent required": [f"{KEYS}test_a_missing_consent_pauses_with_the_scope_that_is_wanted"],
    "queue full": ["ensure/test_jobs.py::test_a_full_queue_puts_submission_off_and_uses_up_no_attempt"],
    "outage": ["ensure/test_jobs.py::test_an_outage_puts_submission_off_uses_up_no_attempt_and_says_why"],
    "job not found": [
        f"{LOST}test_a_job_that_is_not_to_be_seen_for_a_while_is_waited_for",
        "faults/test_services.py::test_a_job_that_nersc_has_forgotten_counts_by_what_it_left",
        "faults/test_services.py::test_a_forgotten_job_that_left_nothing_is_for_a_person_and_not_sent_again",
    ],
    "NODE_FAIL": [NODES],
    "PREEMPTED": [NODES],
    "TIMEOUT": [AGAIN, "ensure/test_jobs.py::test_a_job_that_really_meets_its_time_limit_is_not_tried_again"],
    "OUT_OF_MEMORY": [AGAIN],
    "refused qos": [
        "faults/test_services.py::test_a_qos_that_may_not_be_used_fails_at_once_in_slurm_s_words",
        "ensure/test_jobs.py::test_a_refused_job_fails_at_once_in_sbatch_s_words",
    ],
    "HPSS down": [
        f"{TAPE}test_a_maintenance_of_hpss_uses_up_no_attempt_and_one_job_tries_whether_it_is_back",
        f"{TAPE}test_an_announced_maintenance_of_hpss_is_waited_for_without_a_job",
        f"{TAPE}test_hpss_that_asks_to_be_tried_again_is_tried_again_a_few_times",
    ],
    "members left out (exit 70)": [
        f"{TAPE}test_members_that_htar_left_out_are_named_and_stored_under_another_name",
        f"{TAPE}test_members_that_are_always_left_out_turn_the_partition_red_and_the_message_names_them",
    ],
    "corrupt archive": [f"{TAPE}test_a_corrupt_archive_does_not_count_and_is_made_anew"],
    "catalogue down": [
        RESTS,
        "faults/test_services.py::test_a_catalogue_that_is_down_for_long_holds_the_entry_and_nothing_else",
    ],
    "catalogue refuses": ["ensure/test_catalogue.py::test_a_refusal_of_the_catalogue_fails_the_scan_in_its_words"],
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_every_fault_has_a_test_that_injects_it(fault: str) -> None:
    assert FAULTS[fault]
    for name in FAULTS[fault]:
        file, _, test = name.partition("::")
        tree = ast.parse((TESTS / file).read_text())
        found = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
        assert test in found, f"{name} is not there"
        source = ast.unparse(found[test])
        assert "fault(" in source or "configure(" in source or KEYS in name or "directives" in source, (
            f"{name} injects nothing"
        )
