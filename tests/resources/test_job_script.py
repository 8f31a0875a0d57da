"""The batch script: what a person, a file name or a proposal may contain, and what a shell sees of it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from resources.errors import Refused
from resources.job_script import render

DIRECTIVES = {"account": "als", "qos": "regular", "constraint": "cpu", "time": "00:30:00", "nodes": 1}

HOSTILE = [
    "two words.h5",
    "semi;colon && touch PWNED",
    "$(touch PWNED)",
    "`touch PWNED`",
    "${HOME}",
    "single ' quote",
    'double " quote',
    "back\\slash\\n",
    "-leading --dash",
    "new\nline\nALS_JOB_REQUEST\ntouch PWNED\n",
    "carriage\rreturn",
    "tab\tand bell\a and escape\x1b[31m",
    "#SBATCH --qos=premium",
    "unicode ünïcødé 散乱 😀 \u2028",
    "not utf-8 \udcff\udcfe",
    "!history !!",
    "x" * 255,
    "",
]


def run(script: str, folder: Path) -> subprocess.CompletedProcess[bytes]:
    path = folder / "script"
    path.write_text(script)
    return subprocess.run(["/bin/bash", str(path)], cwd=folder, capture_output=True, timeout=60, check=False)


def program(folder: Path, name: str = "als-job") -> str:
    """Keeps its arguments and its stdin, as they come."""
    path = folder / name
    path.write_text("#!/bin/sh\nprintf '%s\\n' \"$@\" > arguments\ncat > request\n")
    path.chmod(0o700)
    return str(path)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_reaches_the_program_as_it_is_and_no_shell_acts_on_it(tmp_path: Path, name: str) -> None:
    job = {"schema": "als-job/1", "commands": [{"id": "a", "argv": ["als-xpcs", "corr", name]}], name: name}
    done = run(render("als-1", DIRECTIVES, program(tmp_path), job), tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "request").read_text()) == job
    assert (tmp_path / "arguments").read_text() == "run\n-\n"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["als-job", "arguments", "request", "script"]


def test_all_hostile_names_at_once_make_no_line_that_slurm_reads() -> None:
    script = render("als-1", DIRECTIVES, "als-job", {"names": HOSTILE})
    lines = script.splitlines()
    assert [line for line in lines if line.startswith("#SBATCH")] == lines[1:8]
    assert script.isascii()
    assert len(lines) == 12


def test_a_program_whose_path_has_a_space_and_a_quote_is_run(tmp_path: Path) -> None:
    done = run(render("als-1", DIRECTIVES, program(tmp_path, "als 'job'; false"), {"a": 1}), tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "request").read_text()) == {"a": 1}


def test_the_scripts_exit_code_is_the_programs(tmp_path: Path) -> None:
    path = tmp_path / "als-job"
    path.write_text("#!/bin/sh\nexit 17\n")
    path.chmod(0o700)
    assert run(render("als-1", DIRECTIVES, str(path), {}), tmp_path).returncode == 17


def test_a_request_of_a_megabyte_arrives_whole(tmp_path: Path) -> None:
    job = {"commands": [{"id": f"c{i}", "argv": ["als-xpcs", "x" * 200]} for i in range(4000)]}
    done = run(render("als-1", DIRECTIVES, program(tmp_path), job), tmp_path)
    assert done.returncode == 0
    assert json.loads((tmp_path / "request").read_text()) == job


def test_a_request_that_slurm_would_not_take_is_refused_before() -> None:
    with pytest.raises(Refused, match="fewer scans"):
        render("als-1", DIRECTIVES, "als-job", {"x": "y" * 4_000_000})


def test_the_directives_are_written_out_and_the_job_is_never_requeued() -> None:
    directives = {
        **DIRECTIVES, "mem": "2G", "ntasks": "4", "licenses": "SCRATCH,cfs:1", "signal": "B:USR1@120", "gpus": 4,
        "output": "/pscratch/als/%j.out", "exclusive": True, "reservation": None, "constraint": "gpu&hbm80g",
    }  # fmt: skip
    lines = render("als-7f3a.b-c_d", directives, "als-job", {}).splitlines()
    assert lines[0] == "#!/bin/bash"
    for line in (
        "#SBATCH --job-name=als-7f3a.b-c_d", "#SBATCH --account=als", "#SBATCH --qos=regular",
        "#SBATCH --time=00:30:00",
        "#SBATCH --constraint=gpu&hbm80g", "#SBATCH --nodes=1", "#SBATCH --mem=2G", "#SBATCH --licenses=SCRATCH,cfs:1",
        "#SBATCH --signal=B:USR1@120", "#SBATCH --output=/pscratch/als/%j.out", "#SBATCH --no-requeue",
        "#SBATCH --exclusive",
    ):  # fmt: skip
        assert line in lines
    assert not any("reservation" in line for line in lines)


@pytest.mark.parametrize(
    ("directive", "value"),
    [
        ("account", "als --qos=premium"),
        ("account", "als\n#SBATCH --qos=premium"),
        ("account", "als\n"),
        ("account", "-A"),
        ("account", "älš"),
        ("account", ""),
        ("qos", "regular;reboot"),
        ("constraint", "cpu&"),
        ("constraint", "$(id)"),
        ("time", "soon"),
        ("time", "00:30:00 "),
        ("time", "٣٠"),
        ("nodes", 0),
        ("nodes", -1),
        ("nodes", True),
        ("nodes", 1.5),
        ("nodes", "1-"),
        ("mem", "all"),
        ("output", "relative/path"),
        ("output", "/a path/with spaces"),
        ("licenses", "cfs:"),
        ("exclusive", "yes"),
        ("exclusive", 1),
    ],
)
def test_a_directive_that_is_not_what_it_should_be_is_refused_by_name(directive: str, value: Any) -> None:
    with pytest.raises(Refused, match=f"directive {directive}: "):
        render("als-1", {**DIRECTIVES, directive: value}, "als-job", {})


def test_a_directive_that_nobody_knows_is_refused() -> None:
    with pytest.raises(Refused, match="unknown directive 'wrap'"):
        render("als-1", {**DIRECTIVES, "wrap": "id"}, "als-job", {})


@pytest.mark.parametrize("key", ["", "two words", "-J", "a\nb", "a" * 65, "ä", "a;b", "a\n"])
def test_a_key_that_is_no_safe_job_name_is_refused(key: str) -> None:
    with pytest.raises(Refused, match="cannot be named"):
        render(key, DIRECTIVES, "als-job", {})


@pytest.mark.parametrize("job", [{"x": float("nan")}, {"x": {1, 2}}, ["a"]])
def test_a_request_that_is_no_json_object_is_refused(job: Any) -> None:
    with pytest.raises(Refused):
        render("als-1", DIRECTIVES, "als-job", job)
