"""Tokens and keys that end: a token is renewed unnoticed, a key pauses its service with what to renew."""

from __future__ import annotations

import json
from typing import Any

from sandbox import sfapi_auth


def test_a_globus_token_that_expired_or_was_revoked_is_renewed(rig: Any, goes_on: Any) -> None:
    (key,) = rig.noticed()
    rig.sandbox.fault("transfer", "token_revoked", count=1)
    goes_on("raw_at_cfs", key)


def test_a_nersc_token_that_expired_is_renewed_and_no_second_job_made(rig: Any, goes_on: Any) -> None:
    (key,) = rig.copied()
    rig.services["nersc"].poll(["1"])
    sfapi_auth.revoke_tokens(rig.sandbox.box)
    goes_on("xpcs_result", key)


def test_a_catalogue_token_that_expired_is_renewed_and_nothing_entered_twice(rig: Any, goes_on: Any) -> None:
    (key,) = rig.copied()
    rig.run("catalog_entry")
    with rig.sandbox.box.transaction() as docs:
        docs.db.execute("update docs set doc = json_set(doc, '$.expires', 0) where kind = 'scicat_token'")
    rig.ask("catalog_entry", key)
    goes_on("catalog_entry", key)
    (entry,) = rig.document(key)["catalog"]
    assert len(rig.services["scicat"]._blocks(entry["pid"])) == 1


def test_a_globus_secret_that_expired_pauses_with_the_variable_to_renew(
    rig: Any, goes_on: Any, rests: Any, over: Any
) -> None:
    (key,) = rig.noticed()
    rig.sandbox.fault("auth", "invalid_client", count=-1)
    rig.sandbox.fault("transfer", "token_revoked", count=-1)
    reason, shown = rests("globus", "raw_at_cfs")
    assert "Globus Auth refused the client of" in reason and "no restart is needed" in reason
    assert "waits for globus until" in shown and "give it a new secret" in shown
    over("globus", "raw_at_cfs", key)
    goes_on("raw_at_cfs", key)


def test_a_missing_consent_pauses_with_the_scope_that_is_wanted(rig: Any, goes_on: Any, rests: Any, over: Any) -> None:
    (key,) = rig.noticed()
    rig.sandbox.fault("transfer", "consent_required", count=-1)
    reason, shown = rests("globus", "raw_at_cfs")
    assert "lacks a consent for" in reason and "data_access" in reason and "lacks a consent for" in shown
    over("globus", "raw_at_cfs", key)
    goes_on("raw_at_cfs", key)


def test_a_nersc_key_that_expired_pauses_with_the_file_to_replace(
    rig: Any, goes_on: Any, rests: Any, over: Any
) -> None:
    (key,) = rig.copied()
    file = rig.sandbox.dir / "sfapi_key.json"
    good = file.read_text()
    file.write_text(json.dumps({**json.loads(good), "client_id": "x" * 13}))
    file.chmod(0o600)
    reason, shown = rests("nersc", "xpcs_result")
    assert "does not accept the key in" in reason and "make a new one in Iris" in reason
    assert "waits for nersc" in shown and "make a new one in Iris" in shown
    file.write_text(good)
    over("nersc", "xpcs_result", key)
    goes_on("xpcs_result", key)


def test_a_catalogue_password_that_changed_pauses_and_does_not_show_it(
    rig: Any, goes_on: Any, rests: Any, over: Any, monkeypatch: Any
) -> None:
    (key,) = rig.copied()
    rig.sandbox.fault("scicat", "status", route="POST */auth/login", code=401, count=-1)
    reason, shown = rests("scicat", "catalog_entry")
    assert "does not accept the account" in reason and "with its password" in reason
    assert rig.sandbox.credentials()["scicat"]["password"] not in reason + shown
    over("scicat", "catalog_entry", key)
    goes_on("catalog_entry", key)
