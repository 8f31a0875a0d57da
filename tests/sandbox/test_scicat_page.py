"""The page about one dataset, for people who follow a link."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from sandbox import scicat
from sandbox.box import Box
from sandbox.scicat_datasets import Account, Datasets

ADMIN = Account("admin", "admin@als.test", ("admin",))


class Browser:
    def __init__(self, app: Starlette) -> None:
        self.app = app

    def get(self, path: str) -> httpx.Response:
        async def fetch() -> httpx.Response:
            async with httpx.AsyncClient(transport=httpx.ASGITransport(self.app), base_url="http://sandbox") as client:
                return await client.get(path)

        return asyncio.run(fetch())


@pytest.fixture
def browser(tmp_path: Path) -> Browser:
    box = Box(tmp_path)
    entry = {
        "pid": "als/bl7011/1f", "type": "raw", "datasetName": "<script>s1", "ownerGroup": "7.0.1.1", "owner": "o",
        "contactEmail": "a@als.test", "creationTime": "2026-02-14T18:00:00Z", "creationLocation": "/LBNL/ALS/7.0.1.1",
        "principalInvestigator": "PI", "sourceFolder": "/d",
        "scientificMetadata": {"energy": {"value": 850, "unit": "eV"}},
    }  # fmt: skip
    Datasets(box).create(ADMIN, entry)
    file = {"path": "s1.h5", "size": 10, "time": "2026-02-14T18:00:00Z"}
    Datasets(box).add_block(ADMIN, "origdatablocks", "als/bl7011/1f", {"size": 10, "dataFileList": [file]})
    return Browser(Starlette(routes=[Mount("/scicat", routes=scicat.pages(box))]))


def test_a_dataset_has_a_page_with_its_metadata_and_files(browser: Browser) -> None:
    page = browser.get("/scicat/datasets/als%2Fbl7011%2F1f")
    assert page.status_code == 200
    assert all(words in page.text for words in ("850 eV", "s1.h5", "/LBNL/ALS/7.0.1.1", "&lt;script&gt;s1"))
    assert "<script>" not in page.text


def test_the_list_of_datasets_links_to_each(browser: Browser) -> None:
    assert "/scicat/datasets/als%2Fbl7011%2F1f" in browser.get("/scicat/datasets").text


def test_a_dataset_that_does_not_exist_has_no_page(browser: Browser) -> None:
    assert browser.get("/scicat/datasets/none").status_code == 404
