"""Keys: one to one with paths, of a safe alphabet, whatever people and detectors call their files."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beamlines.policy.names import MOST_KEY, hash_of, key_of, path_of, refusal

SAFE = re.compile(r"[A-Za-z0-9._/=-]+")
component = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="/"), min_size=1, max_size=30)
paths = st.lists(component, min_size=1, max_size=4).map("/".join).filter(lambda path: refusal(path) is None)


def is_safe(key: str) -> bool:
    parts = key.split("/")
    return (
        SAFE.fullmatch(key) is not None
        and ".." not in key
        and not key.endswith(".")
        and all(part and part[0] not in "-." for part in parts)
    )


@settings(max_examples=400, deadline=None)
@given(paths)
def test_a_key_stands_for_exactly_its_path(path: str) -> None:
    assert path_of(key_of(path)) == path
    assert is_safe(key_of(path))


@settings(max_examples=400, deadline=None)
@given(paths, paths)
def test_two_paths_never_share_a_key(one: str, other: str) -> None:
    assert (key_of(one) == key_of(other)) == (one == other)


@pytest.mark.parametrize(
    ("path", "key"),
    [
        ("2026/11/scan_001.h5", "2026/11/scan_001.h5"),
        ("a b.h5", "a=20b.h5"),
        ('it\'s "so".h5', "it=27s=20=22so=22.h5"),
        ("$(rm -rf x)`.h5", "=24=28rm=20-rf=20x=29=60.h5"),
        ("-rf.h5", "=2Drf.h5"),
        ("day/--help", "day/=2D-help"),
        ("a...b.h5", "a.=2E=2Eb.h5"),
        ("a.", "a=2E"),
        ("..hidden", "=2E=2Ehidden"),
        ("a=20b.h5", "a=3D20b.h5"),
        ("café.h5", "caf=C3=A9.h5"),
        ("cafe\u0301.h5", "cafe=CC=81.h5"),
        ("100%&?#;|<>.h5", "100=25=26=3F=23=3B=7C=3C=3E.h5"),
        ("a\\b.h5", "a=5Cb.h5"),
    ],
)
def test_hostile_names_get_harmless_keys(path: str, key: str) -> None:
    assert key_of(path) == key
    assert path_of(key) == path
    assert is_safe(key)


@pytest.mark.parametrize("name", ["x" * 255, "é" * 127, "日" * 85, "🙂" * 63])
def test_a_name_as_long_as_a_file_system_allows_is_accepted(name: str) -> None:
    assert len(name.encode()) <= 255
    assert path_of(key_of(f"2026/{name}")) == f"2026/{name}"


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("", "empty"),
        ("a\nb.h5", "control character"),
        ("a\tb.h5", "control character"),
        ("a\x7fb.h5", "control character"),
        ("a\0b.h5", "control character"),
        ("bad\udcff.h5", "not valid UTF-8"),
        ("day/\ufffdlatin1 é.h5", "not valid UTF-8"),
        ("../a.h5", "outside"),
        ("a/../../b.h5", "outside"),
        ("/etc/passwd", "outside"),
        ("a//b.h5", "outside"),
        ("./a.h5", "outside"),
        ("a/", "outside"),
        ("a/.", "outside"),
        ("/".join(["x" * 200] * 11), "too long"),
        ("日" * 250, "too long"),
    ],
)
def test_what_cannot_be_a_key_is_refused_with_the_reason(path: str, words: str) -> None:
    assert words in (refusal(path) or "")
    with pytest.raises(ValueError, match=words):
        key_of(path)


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=MOST_KEY))
def test_every_name_is_either_refused_or_gets_a_key_that_can_be_indexed(path: str) -> None:
    assert refusal(path) is not None or len(key_of(path)) <= MOST_KEY


def test_the_short_name_depends_on_beamline_and_key() -> None:
    assert re.fullmatch(r"[0-9a-f]{16}", hash_of("bl1", "a.h5"))
    assert len({hash_of("bl1", "a.h5"), hash_of("bl1", "b.h5"), hash_of("bl2", "a.h5"), hash_of("bl", "1a.h5")}) == 4
