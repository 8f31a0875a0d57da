"""Quality verdicts of an analysis as asset checks."""

from __future__ import annotations

from datetime import UTC, datetime
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
