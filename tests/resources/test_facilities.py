"""The facility file: which one is in use, and what is said about a mistake in it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from resources import facilities
from resources.facilities import FacilityFileError, Pace, load

SMALL: dict[str, Any] = {
    "name": "mine",
    "services": {"scicat": {"kind": "scicat", "base_url": "${MY_URL}/api/v3", "frontend_url": "${MY_FRONT:-http://x}"}},
    "places": {
        "bl1": {"dtn": {"globus": {"collection": "c", "base": "/bl1"}}, "cfs": {"mount": "/mnt", "durable": True}}
    },
    "work": {"nersc": {"bl1": {"attempts": "/a", "results": "/r"}}},
}


def file(tmp_path: Path, **more: Any) -> str:
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({**SMALL, **more}))
    return str(path)


def test_the_sandbox_is_in_use_unless_somebody_says_otherwise() -> None:
    assert load(environment={}).name == "sandbox"
    assert load(environment={"ALS_FACILITIES": "sandbox"}).name == "sandbox"


def test_the_sandbox_loads_without_being_up_and_has_all_its_services() -> None:
    assert set(load("sandbox", {}).services) == {"globus", "nersc", "scicat"}


def test_a_file_may_be_named_by_its_path(tmp_path: Path) -> None:
    path = file(tmp_path)
    assert load(environment={"ALS_FACILITIES": path, "MY_URL": "http://here"}).name == "mine"


def test_variables_are_filled_in_with_their_defaults(tmp_path: Path) -> None:
    found = load(file(tmp_path), {"MY_URL": "http://here"}).settings("scicat")
    assert (found["base_url"], found["frontend_url"]) == ("http://here/api/v3", "http://x")
    found = load(file(tmp_path), {"MY_URL": "u", "MY_FRONT": "http://there"}).settings("scicat")
    assert found["frontend_url"] == "http://there"


@pytest.mark.parametrize("environment", [{}, {"MY_URL": ""}])
def test_a_variable_that_is_not_set_is_named(tmp_path: Path, environment: dict[str, str]) -> None:
    with pytest.raises(FacilityFileError, match="needs the environment variable MY_URL, which is not set"):
        load(file(tmp_path), environment)


def test_a_missing_variable_comes_with_what_the_file_says_to_do(tmp_path: Path) -> None:
    with pytest.raises(FacilityFileError, match=r"MY_URL, which is not set\. Start it first\."):
        load(file(tmp_path, if_missing="Start it first."), {})


def test_the_variables_that_a_file_keeps_in_the_state_folder_are_taken_over_unless_others_are_meant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = {"MY_URL": "http://kept", "MY_SECRET": "s"}
    (tmp_path / "kept.json").write_text(json.dumps(kept))
    monkeypatch.setenv("ALS_FACILITIES", file(tmp_path, variables_in="kept.json"))
    monkeypatch.setenv("ALS_STATE", str(tmp_path))
    for name in kept:
        monkeypatch.setenv(name, "")  # whatever happens, it is as before afterwards
        monkeypatch.delenv(name)
    facilities.adopt()
    assert load().settings("scicat")["base_url"] == "http://kept/api/v3" and os.environ["MY_SECRET"] == "s"
    monkeypatch.setenv("MY_URL", "http://mine")
    monkeypatch.delenv("MY_SECRET")
    facilities.adopt()
    assert os.environ["MY_URL"] == "http://mine" and "MY_SECRET" not in os.environ  # never half of each


def test_facilities_that_nobody_knows_are_told_with_those_that_are_shipped() -> None:
    with pytest.raises(FacilityFileError, match=r"facilities 'nowhere': No such file.*'production', 'sandbox'"):
        load("nowhere", {})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "the file as a whole"),
        ("[1, 2]", "the file as a whole"),
        ("name: [", "mine.yaml"),
        ("name: x\nservices: {}\nplaces: {}\nnonsense: 1\n", "nonsense"),
        ("name: x\nservices: {}\n", "places: Field required"),
        ("name: x\nservices: {}\nplaces: {b: {d: {globus: {base: /}}}}\n", "places.b.d.globus.collection"),
        ("name: x\nservices: {}\nplaces: {b: {d: {globus: {collection: c, base: b}}}}\n", "places.b.d.globus.base"),
        ("name: x\nservices: {}\nplaces: {}\npace: {retry_speed: 0}\n", "pace.retry_speed"),
        ("name: x\nservices: {}\nplaces: {}\npace: {tick: 3}\n", "pace.tick"),
    ],
)
def test_a_mistake_is_told_with_file_and_field(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(FacilityFileError) as wrong:
        load(str(path), {})
    assert words in str(wrong.value) and "mine.yaml" in str(wrong.value)


def test_a_file_that_is_no_text_is_told(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(FacilityFileError, match="not UTF-8"):
        load(str(path), {})


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"kind": "gopher"}, "kind 'gopher' is not one of"),
        ({}, "kind None is not one of"),
        ({"kind": "globus", "transfer_uri": "http://x"}, "services.s.transfer_uri: not known; a globus has"),
        ({"kind": "globus", "service": "x"}, "services.s.service: not known"),
        ({"kind": "globus", "transfer_url": 7}, "services.s.transfer_url: Input should be a valid string"),
    ],
)
def test_a_mistake_in_a_service_is_told_with_its_field(tmp_path: Path, settings: Any, words: str) -> None:
    at = load(file(tmp_path, services={"s": settings}), {})
    with pytest.raises(FacilityFileError) as wrong:
        _ = at.services
    assert words in str(wrong.value)


def test_a_service_is_made_once_and_knows_its_name(tmp_path: Path) -> None:
    at = load("sandbox", {})
    assert at.services["nersc"] is at.services["nersc"] and at.services["nersc"].service == "nersc"


def test_what_a_beamline_has_not_is_told_with_what_it_has(tmp_path: Path) -> None:
    at = load(file(tmp_path), {"MY_URL": "u"})
    assert at.place("bl1", "cfs").durable and at.work("nersc", "bl1").results == "/r"
    with pytest.raises(FacilityFileError, match=r"no place 'hpss' for beamline 'bl1'; it has \['cfs', 'dtn'\]"):
        at.place("bl1", "hpss")
    with pytest.raises(FacilityFileError, match="says nothing under work: alcf: bl1"):
        at.work("alcf", "bl1")
    with pytest.raises(FacilityFileError, match="no service 'alcf'"):
        at.settings("alcf")


def test_the_pace_of_production_is_slower_than_the_sandbox_s_in_everything() -> None:
    sandbox, production = load("sandbox", {}).pace, Pace()
    quicker = set(Pace.model_fields) - {"retry_speed"}
    assert all(getattr(sandbox, name) <= getattr(production, name) for name in quicker)
    assert sandbox.span("settle_s").total_seconds() == sandbox.settle_s
    assert sandbox.patience.lookup_s == sandbox.lookup_s


def test_a_shipped_file_holds_no_secret() -> None:
    for path in facilities.HERE.glob("*.yaml"):
        text = path.read_text().lower()
        assert not any(word in text for word in ("secret:", "password:", "token:", "private_key", "begin "))
