"""Places through their Globus view: what is walked, what is left out and why, and what an answer is."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest

from resources.errors import NotFound, Refused, Unavailable
from resources.facilities import Place, View
from resources.storage import Storage, joined

NOW = datetime(2026, 11, 20, 10, 0, tzinfo=UTC)


@dataclass
class Entry:
    name: str
    type: str = "file"
    bytes: int = 5
    mtime: datetime = NOW


class Globus:
    """Folder on the collection -> its entries, or what listing it raises."""

    def __init__(self, folders: dict[str, list[Entry] | Exception]) -> None:
        self.folders = folders
        self.asked: list[str] = []

    def ls(self, collection: str, path: str) -> list[Entry]:
        assert collection == "c"
        self.asked.append(path)
        found = self.folders.get(path, NotFound("globus", f"{path} is not there"))
        if isinstance(found, Exception):
            raise found
        return found


def storage(folders: dict[str, Any], base: str = "/bl1") -> Storage:
    return Storage(Globus(folders), "bl1/dtn", Place(globus=View(collection="c", base=base)))


def walk(folders: dict[str, Any], depth: int = 8) -> tuple[list[str], dict[str, str]]:
    found = list(storage(folders).walk(depth))
    files = [one.path for one in found if one.file is not None]
    return sorted(files), {one.path: one.left_out for one in found if one.left_out}


@pytest.mark.parametrize(
    ("parts", "path"),
    [
        (("/a", "b"), "/a/b"), (("/a/", "/b"), "/a/b"), (("/", "b"), "/b"), (("/a", ""), "/a"), (("/",), "/"),
        (("/a", "b", "c"), "/a/b/c"), (("", "b"), "b"), (("",), ""),
    ],
)  # fmt: skip
def test_paths_are_joined_with_one_slash(parts: tuple[str, ...], path: str) -> None:
    assert joined(*parts) == path


def test_every_file_below_a_place_is_found_with_its_path_relative_to_it() -> None:
    folders = {"/bl1": [Entry("d", "dir"), Entry("a.h5", bytes=7)], "/bl1/d": [Entry("e", "dir"), Entry("b.h5")],
               "/bl1/d/e": [Entry("c.h5")]}  # fmt: skip
    found = {one.path: one.file for one in storage(folders).walk(8)}
    assert sorted(found) == ["a.h5", "d/b.h5", "d/e/c.h5"]
    assert found["a.h5"] is not None and (found["a.h5"].bytes, found["a.h5"].mtime) == (7, NOW)


def test_hidden_entries_are_not_looked_at() -> None:
    assert walk({"/bl1": [Entry(".als-place"), Entry(".als-trash", "dir")]}) == ([], {})


def test_links_are_not_followed_but_told() -> None:
    assert walk({"/bl1": [Entry("l", "link"), Entry("pipe", "other")]})[1] == {
        "l": "it is a link, and links are not followed",
        "pipe": "it is neither a file nor a folder",
    }


def test_what_is_too_deep_is_told_and_not_listed() -> None:
    folders = {"/bl1": [Entry("d", "dir")], "/bl1/d": [Entry("e", "dir"), Entry("a.h5")]}
    assert walk(folders, depth=1) == (["d/a.h5"], {"d/e": "the folder is deeper than 1"})
    assert walk(folders, depth=0) == ([], {"d": "the folder is deeper than 0"})


@pytest.mark.parametrize("name", ["x/../../etc", "../up", "a/b", "/etc"])
def test_a_name_that_leads_elsewhere_is_never_listed(name: str) -> None:
    place = storage({"/bl1": [Entry(name, "dir"), Entry(name), Entry(""), Entry("..", "dir")]})
    assert [one.file for one in place.walk(8) if one.file] == []
    assert place.globus.asked == ["/bl1"]


def test_a_place_that_is_not_there_is_no_empty_place() -> None:
    with pytest.raises(NotFound):
        walk({})


def test_a_folder_that_went_away_between_two_listings_is_no_trouble() -> None:
    assert walk({"/bl1": [Entry("gone", "dir"), Entry("a.h5")]})[0] == ["a.h5"]


@pytest.mark.parametrize("error", [Unavailable("globus", "502"), Refused("globus", "no permission")])
def test_a_folder_that_cannot_be_listed_is_trouble(error: Exception) -> None:
    with pytest.raises(type(error)):
        walk({"/bl1": [Entry("d", "dir")], "/bl1/d": error})


def test_a_place_without_end_is_cut_and_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resources.storage.MOST_ENTRIES", 2)
    files, left_out = walk({"/bl1": [Entry("a"), Entry("b"), Entry("c")]})
    assert files == ["a", "b"] and left_out == {"c": "there are more than 2 entries"}


def test_sizes_are_asked_for_folder_by_folder_and_what_is_missing_is_left_out() -> None:
    place = storage(
        {"/bl1": [Entry("a.h5", bytes=1), Entry("x.h5")], "/bl1/d": [Entry("b.h5", bytes=2), Entry("c", "dir")]}
    )
    found = place.sizes(["a.h5", "d/b.h5", "d/c", "d/missing.h5", "gone/e.h5"])
    assert {path: one.bytes for path, one in found.items()} == {"a.h5": 1, "d/b.h5": 2, "d/c": -1}
    assert sorted(place.globus.asked) == ["/bl1", "/bl1/d", "/bl1/gone"]


def test_no_size_is_told_when_a_folder_is_not_answered_for() -> None:
    with pytest.raises(Unavailable):
        storage({"/bl1": [Entry("a.h5")], "/bl1/d": Unavailable("globus", "502")}).sizes(["a.h5", "d/b.h5"])


def test_paths_are_below_the_base_of_the_view() -> None:
    assert storage({}, base="/").absolute("d/a.h5") == "/d/a.h5"
    assert storage({}, base="/als/raw/").absolute("d/a.h5") == "/als/raw/d/a.h5"


def test_a_place_that_globus_does_not_see_is_refused_by_name() -> None:
    with pytest.raises(Refused, match="bl1/hpss has no Globus view"):
        Storage(Globus({}), "bl1/hpss", Place(mount="/mnt"))
