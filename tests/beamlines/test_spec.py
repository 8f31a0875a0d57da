"""A beamline's spec: what it plans, and which field a mistake is in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from beamlines.spec import Spec, spec_from_attributes
from tests.ledger.conftest import spec_of

BL7011 = Path(__file__).parents[2] / "beamlines" / "bl7011" / "defs.yaml"


def attributes() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(BL7011.read_text())["attributes"]
    return found


def plan(spec: Spec) -> dict[str, tuple[tuple[str, ...], tuple[str, ...]]]:
    return {asset.name: (asset.upstream, asset.needs) for asset in spec.assets()}


def test_a_spec_plans_its_assets_in_the_order_in_which_they_come_to_be() -> None:
    assert plan(spec_of()) == {
        "raw_at_dtn": ((), ()),
        "raw_at_cfs": (("raw_at_dtn",), ("raw_at_dtn",)),
        "xpcs_result": (("raw_at_cfs",), ("raw_at_cfs",)),
        "catalog_entry": (("xpcs_result",), ("raw_at_cfs",)),
    }


@pytest.mark.parametrize(
    ("mode", "assets"),
    [
        ("observe", ["raw_at_dtn"]),
        ("copy", ["raw_at_dtn", "raw_at_cfs"]),
        ("full", ["raw_at_dtn", "raw_at_cfs", "xpcs_result", "catalog_entry"]),
    ],
)
def test_the_mode_says_how_far_the_platform_goes(mode: str, assets: list[str]) -> None:
    assert list(plan(spec_of(mode=mode))) == assets


def test_a_copy_may_be_made_from_a_copy() -> None:
    spec = spec_of(copies=[{"place": "cfs", "source": "dtn"}, {"place": "alcf", "source": "cfs"}])
    assert spec.asset("raw_at_alcf").needs == ("raw_at_cfs",)
    assert spec.asset("catalog_entry").needs == ("raw_at_cfs",), "the first copy is enough"


def test_a_beamline_without_copies_or_analyses_catalogues_what_it_noticed() -> None:
    spec = spec_of(copies=[], analyses=[])
    assert plan(spec)["catalog_entry"] == (("raw_at_dtn",), ("raw_at_dtn",))


def test_an_asset_that_is_not_there_is_named_with_those_that_are() -> None:
    with pytest.raises(KeyError, match=r"no asset 'nope'.*raw_at_cfs"):
        spec_of().asset("nope")
    with pytest.raises(KeyError, match="not an analysis"):
        spec_of().analysis("raw_at_cfs")


def test_the_spec_of_bl7011_is_valid() -> None:
    assert spec_from_attributes(attributes()).noticed == "raw_at_dtn"


def put(path: str, value: Any) -> dict[str, Any]:
    """The attributes of 7.0.1.1 with another value at `path`."""
    found = attributes()
    at: Any = found
    *way, last = path.split(".")
    for part in way:
        at = at[int(part)] if part.isdigit() else at[part]
    at[last] = value
    return found


@pytest.mark.parametrize(
    ("path", "value", "field", "words"),
    [
        ("id", "7.0.1.1", "id", "lower-case letters"),
        ("catalogue", {}, "catalogue", "not permitted"),
        ("mode", "half", "mode", "'observe', 'copy' or 'full'"),
        ("since", "yesterday", "since", "date"),
        ("owners", ["nobody"], "owners.0", "e-mail address or 'team:"),
        ("owners", ["team:"], "owners.0", "e-mail address or 'team:"),
        ("scans.watch", "The DTN", "scans.watch", "lower-case letters"),
        ("scans.files", [], "scans.files", "at least 1"),
        ("scans.files", ["/data/*.h5"], "scans.files.0", "relative to the watched place"),
        ("scans.ignore", ["../x"], "scans.ignore.0", "relative to the watched place"),
        ("scans.filles", ["*.h5"], "scans.filles", "not permitted"),
        ("scans.max_depth", -1, "scans.max_depth", "greater than or equal to 0"),
        ("scans.companions", {"roi": "roi.h5"}, "scans.companions", "'roi.h5' must be a name with {stem}"),
        ("scans.companions", {"roi": "d/{stem}.h5"}, "scans.companions", "no '/'"),
        ("scans.companions", {"roi": "{stem}_{stem}.h5"}, "scans.companions", "once"),
        ("scans.companions", {"roi": "{stem}.h5"}, "scans", "'roi': '{stem}.h5' is the name of the scan's own file"),
        ("scans.companions", {"data": "{stem}_x.h5"}, "scans.companions", "the scan's own file"),
        ("scans.required", ["mask"], "scans", "required names ['mask']"),
        ("copies.0.place", "CFS", "copies.0.place", "lower-case letters"),
        ("copies.0.source", "tape", "", "copy to 'cfs': source 'tape' is not one of ['dtn']"),
        ("copies.0.place", "dtn", "", "copy to 'dtn': the place is named twice"),
        ("analyses.0.place", "tape", "", "analysis 'xpcs_result': place 'tape' is not one of"),
        ("analyses.0.asset", "XPCS", "analyses.0.asset", "lower-case letters"),
        ("analyses.0.asset", "raw_at_cfs", "", "analyses: the asset 'raw_at_cfs' is there twice"),
        ("analyses.0.asset", "catalog_entry", "", "analyses: the asset 'catalog_entry' is there twice"),
        ("analyses.0.program", "ptyco", "analyses.0.program", "xpcs"),
        ("analyses.0.when", "never", "analyses.0.when", "'always', 'pattern' or 'on_request'"),
        ("analyses.0.when", "pattern", "analyses.0", "when: pattern needs a pattern"),
        ("analyses.0.pattern", "good/*", "analyses.0", "a pattern is for when: pattern"),
        ("analyses.0.directives", {"nodes": 1}, "analyses.0.directives.nodes", "valid string"),
        ("catalog.describe_at", "tape", "", "catalog.describe_at: place 'tape' is not one of"),
        ("catalog.owner", "me", "catalog.owner", "not permitted"),
        ("retry", {"attempts": 0}, "retry.attempts", "greater than or equal to 1"),
        ("retry", {"first_s": 60, "most_s": 30}, "retry", "most_s (30) is less than first_s (60)"),
    ],
)
def test_a_mistake_is_told_with_the_field_that_it_is_in(path: str, value: Any, field: str, words: str) -> None:
    with pytest.raises(ValidationError) as wrong:
        spec_from_attributes(put(path, value))
    found = [(".".join(str(part) for part in error["loc"]), error["msg"]) for error in wrong.value.errors()]
    assert any(where.startswith(field) and words in said for where, said in found), found


@pytest.mark.parametrize("mode", ["observe", "copy", "full"])
def test_a_mistake_in_what_the_mode_leaves_out_is_told_too(mode: str) -> None:
    twice = attributes() | {"mode": mode, "analyses": attributes()["analyses"] * 2}
    with pytest.raises(ValidationError, match="'xpcs_result' is there twice"):
        spec_from_attributes(twice)


@pytest.mark.parametrize("field", ["id", "title", "owners", "scans", "copies", "technique", "creation_location"])
def test_what_is_missing_is_named(field: str) -> None:
    without = {k: v for k, v in attributes().items() if k != field}
    with pytest.raises(ValidationError) as wrong:
        spec_from_attributes(without)
    assert [error["loc"] for error in wrong.value.errors()] == [(field,)]
