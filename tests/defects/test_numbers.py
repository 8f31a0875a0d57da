"""Each of the fourteen defects of the peers, and each mistake made with HPSS, has a test with its number."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]
NAMED = re.compile(r"^def (test_(defect|hpss_mistake)((?:_\d\d)+)_[a-z]\w+)\(", re.MULTILINE)


def numbered(kind: str) -> dict[int, list[str]]:
    found: dict[int, list[str]] = {}
    for file in TESTS.rglob("test_*.py"):
        for name, what, numbers in NAMED.findall(file.read_text()):
            for number in numbers.strip("_").split("_") if what == kind else []:
                found.setdefault(int(number), []).append(name)
    return found


@pytest.mark.parametrize(("kind", "most"), [("defect", 14), ("hpss_mistake", 12)])
def test_every_number_has_a_test(kind: str, most: int) -> None:
    assert sorted(numbered(kind)) == list(range(1, most + 1))
