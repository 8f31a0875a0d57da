"""The rig of tests/ensure."""

from tests.ensure.conftest import rig, simulated  # noqa: F401  (fixtures)
