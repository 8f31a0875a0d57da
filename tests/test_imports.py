"""What is loaded when: the code server and the daemon stay light, and looking at a scan does not wait for Dagster."""

from __future__ import annotations

import subprocess
import sys

import pytest

# the clients of the facilities and whatever opens a beamline's file: in a run or on a compute node, never before
HEAVY = {
    "torch", "globus_sdk", "globus_compute_sdk", "sfapi_client", "pyscicat", "h5py", "hdf5plugin", "numba", "scipy",
    "matplotlib", "PIL", "pandas", "als_analysis", "sandbox",
}  # fmt: skip


def loaded_by(code: str) -> set[str]:
    """The top-level modules that a fresh Python has loaded after `code`."""
    ask = (
        f"{code}\nimport sys; print('\\n'.join(sorted({{m.partition('.')[0] for m in sys.modules}})), file=sys.stderr)"
    )
    ended = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=False, timeout=60)
    assert ended.returncode == 0, ended.stderr
    return set(ended.stderr.split())


def test_the_code_server_loads_no_client_and_nothing_that_opens_a_beamlines_file() -> None:
    seen = loaded_by("import als_assets.definitions; als_assets.definitions.defs()")
    assert "dagster" in seen
    assert seen & HEAVY == set()


def test_a_check_of_what_is_loaded_would_notice() -> None:
    assert "globus_sdk" in loaded_by("import resources.globus_session") & HEAVY


@pytest.mark.parametrize("verb", ["scans", "scan", "sandbox", "simulate", "check"])
def test_a_quick_verb_does_not_wait_for_dagster(verb: str) -> None:
    seen = loaded_by(f"from als.main import main; assert main.get_command(None, {verb!r}).name == {verb!r}")
    assert seen & (HEAVY | {"dagster"}) == set()


def test_the_help_of_the_command_line_loads_no_verb() -> None:
    seen = loaded_by("from als.main import main\nmain(['--help'], standalone_mode=False)")
    assert seen & (HEAVY | {"dagster", "sqlalchemy"}) == set()
