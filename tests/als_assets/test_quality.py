"""Quality verdicts of an analysis as asset checks."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg

from als import platform
from als_assets import quality
from resources.ledger.products import Product

SPEC = platform.spec_of("bl7011")
XPCS = SPEC.asset("xpcs_result")


def product(**qc: Any) -> Product:
    return Product(1, 1, "xpcs_result", "", 1, None, None, {"qc": qc}, datetime(2026, 11, 20, tzinfo=UTC))


def verdict(word: str, **more: Any) -> dict[str, Any]:
    return {"value": 0.5, "threshold": {"warn": 0.1, "fail": 0.9}, "verdict": word, "explanation": "why", **more}


def test_each_verdict_becomes_a_check_of_its_partition() -> None:
    found = quality.evaluations(SPEC, XPCS, "a.h5", product(baseline=verdict("pass"), hot_pixels=verdict("fail")))
    assert {(e.check_name, e.passed, e.partition) for e in found} == {
        ("baseline", True, "a.h5"),
        ("hot_pixels", False, "a.h5"),
    }
    assert {e.asset_key for e in found} == {dg.AssetKey(["bl7011", "xpcs_result"])}


def test_a_warning_is_no_error() -> None:
    warned, failed = quality.evaluations(
        SPEC, XPCS, "a.h5", product(baseline=verdict("warn"), saturation=verdict("fail"))
    )
    assert (warned.passed, warned.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert (failed.passed, failed.severity) == (False, dg.AssetCheckSeverity.ERROR)


def test_a_verdict_without_a_number_and_one_that_is_not_declared_spoil_nothing() -> None:
    found = quality.evaluations(
        SPEC, XPCS, "a.h5", product(baseline=verdict("pass", value=None), new_one=verdict("fail"))
    )
    assert [e.check_name for e in found] == ["baseline"]
    assert quality.evaluations(SPEC, XPCS, "a.h5", None) == []


def test_an_asset_that_nothing_judges_has_no_checks() -> None:
    assert quality.declared(SPEC.asset("raw_at_cfs")) == {}


def test_what_did_not_pass_says_what_to_do_and_reads_without_json() -> None:
    passed, failed = quality.evaluations(
        SPEC, XPCS, "a.h5", product(baseline=verdict("pass"), beam_drift=verdict("fail", value=0.123456789))
    )
    assert passed.description == "why"
    assert failed.description is not None and failed.description.startswith(
        "why. Cause, and what to do: beam or sample moved"
    )
    shown = {name: entry.value for name, entry in failed.metadata.items()}
    assert shown == {"value": 0.12346, "verdict": "fail", "threshold": "warn above 0.1, fail above 0.9"}


def test_a_result_shows_its_verdicts_with_the_worst_first() -> None:
    qc = {"baseline": verdict("pass"), "new_one": verdict("odd", threshold=None), "hot_pixels": verdict("warn"),
          "saturation": verdict("fail", value=None), "no entry": 3}  # fmt: skip
    told = quality.in_short(XPCS, qc)
    assert told["quality"] == "1 pass, 1 warn, 1 fail, 1 odd"
    advice = told["quality: what to do"].value
    assert advice.index("**saturation** (fail): why. Cause, and what to do: attenuate") < advice.index(
        "**hot_pixels** (warn)"
    )
    assert "baseline" not in advice
    rows = [record.data for record in quality.table(qc).records]
    assert [row["check"] for row in rows] == ["new_one", "saturation", "hot_pixels", "baseline"]
    assert rows[1] == {
        "verdict": "fail", "check": "saturation", "value": "", "warn above": "0.1", "fail above": "0.9",
    }  # fmt: skip
    assert "quality: what to do" not in quality.in_short(XPCS, {"baseline": verdict("pass")})
    assert quality.in_short(XPCS, {}) == {} and quality.table({}) is None


def test_every_verdict_of_the_program_is_declared_with_advice() -> None:
    from als_analysis.xpcs import qc

    given = set(re.findall(r'"(\w+)": _judged|checks\["(\w+)"\]', Path(qc.__file__).read_text()))
    names = {one or other for one, other in given}
    assert names and names == set(quality.XPCS)


def test_a_verdict_names_the_result_that_it_is_about() -> None:
    """Or Dagster's page of the check shows the partition as one that nobody has judged."""
    check = dg.AssetCheckKey(dg.AssetKey(["bl7011", "xpcs_result"]), "baseline")
    with dg.DagsterInstance.ephemeral() as instance:
        for key in ("a.h5", "b.h5"):
            instance.report_runless_asset_event(dg.AssetMaterialization(check.asset_key, partition=key))
            found = quality.evaluations(SPEC, XPCS, key, product(baseline=verdict("pass")))
            (aimed,) = quality.on_latest(found, instance)
            instance.report_runless_asset_event(aimed)
        infos = instance.event_log_storage.get_asset_check_partition_info([check])
        assert {(info.partition_key, info.is_current) for info in infos} == {("a.h5", True), ("b.h5", True)}
        unheard = quality.evaluations(SPEC, XPCS, "c.h5", product(baseline=verdict("pass")))
        assert quality.on_latest(unheard, instance)[0].target_materialization_data is None
