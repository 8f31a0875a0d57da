"""Fixtures of the tests of production: the rig of tests/ensure is used here as well."""

from __future__ import annotations

from tests.ensure.conftest import rig, simulated  # noqa: F401  (fixtures)
from tests.ledger.conftest import postgresql  # noqa: F401  (a fixture)
