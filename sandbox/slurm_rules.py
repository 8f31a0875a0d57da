"""What NERSC's Slurm takes and what it refuses: one table for both kinds of jobs that the sandbox has.

`check` is the submit filter of the jobs that are local processes; `submit_filter` writes the same as the job_submit.lua
of the sandbox's real Slurm, whose nodes, partitions and licences come from here as well. A refusal has Slurm's error
code, which makes sbatch say the words.

Sources: docs.nersc.gov (queues and policies, transfer jobs); the codes and words are those of slurm_errno.h.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from sandbox.box import Doc

DAY = 24 * 3600


@dataclass(frozen=True)
class Qos:
    """A quality of service: the longest time limit, the most memory (MB), whether a job must say on what kind of node
    it runs (--constraint) and gets that node for itself."""

    time_s: int = 2 * DAY
    memory_mb: int | None = None
    constraint: bool = True
    whole_node: bool = True
    partition: str = "regular_milan_ss11"


QOS: dict[str, Qos] = {
    "regular": Qos(), "premium": Qos(), "preempt": Qos(), "overrun": Qos(), "realtime": Qos(),
    "debug": Qos(time_s=1800), "interactive": Qos(time_s=4 * 3600), "shared": Qos(whole_node=False),
    "xfer": Qos(memory_mb=2048, constraint=False, whole_node=False, partition="xfer"),
    "workflow": Qos(time_s=90 * DAY, constraint=False, whole_node=False, partition="workflow"),
}  # fmt: skip
DEFAULT_QOS = "debug"
DEFAULT_MINUTES = 10


@dataclass(frozen=True)
class Node:
    name: str
    features: tuple[str, ...]
    partitions: tuple[str, ...] = ("regular_milan_ss11",)
    gpus: int = 0


NODES = (
    *(Node(f"nid00000{n}", ("cpu", "milan")) for n in (1, 2, 3, 4)),
    Node("nid000005", ("gpu", "hbm40g"), gpus=4),
    Node("nid000006", ("gpu", "hbm80g"), gpus=4),
    Node("nid000007", ("cron",), ("xfer", "workflow")),
)
FEATURES = {feature for node in NODES for feature in node.features}
LICENSES = ("SCRATCH", "scratch", "cfs", "hpss")


@dataclass(frozen=True)
class Refusal:
    """`code` is Slurm's, of which sbatch says `words`; `said` is the submit filter's own line before that."""

    code: int
    words: str
    said: str = ""

    def text(self) -> str:
        said = f"sbatch: error: {self.said}\n" if self.said else ""
        return f"{said}sbatch: error: Batch job submission failed: {self.words}"


ACCOUNT = Refusal(2045, "Invalid account or account/partition combination specified")
UNKNOWN_QOS = Refusal(2066, "Invalid qos specification")
ARCHITECTURE = Refusal(-1, "Unspecified error", "No architecture specified, cannot estimate job costs.")
TIME = Refusal(2051, "Requested time limit is invalid (missing or exceeds some limit)")
MEMORY = Refusal(2044, "Memory required by task is not available")
# these two are refused by Slurm itself, which knows the nodes' features and the licences
FEATURE = Refusal(2029, "Invalid feature specification")
LICENSE = Refusal(2048, "Invalid license specification")


class Refused(Exception):
    """sbatch's words on stderr."""


def check(options: Doc, projects: Iterable[str]) -> None:
    """Raise Refused where NERSC does: account, QOS, architecture, time, memory, features, licences, in that order."""
    if str(options.get("account", "")).removesuffix("_g") not in projects:
        raise Refused(ACCOUNT.text())
    qos = QOS.get(options.get("qos", DEFAULT_QOS))
    if qos is None:
        raise Refused(UNKNOWN_QOS.text())
    if qos.constraint and not options.get("constraint"):
        raise Refused(ARCHITECTURE.text())
    if seconds(options.get("time", str(DEFAULT_MINUTES))) > qos.time_s:
        raise Refused(TIME.text())
    if qos.memory_mb is not None and megabytes(options.get("mem", "0")) > qos.memory_mb:
        raise Refused(MEMORY.text())
    if not set(re.findall(r"[A-Za-z]\w*", options.get("constraint") or "")) <= FEATURES:
        raise Refused(FEATURE.text())
    if not {name.partition(":")[0] for name in (options.get("licenses") or LICENSES[0]).split(",")} <= {*LICENSES}:
        raise Refused(LICENSE.text())


def seconds(limit: str) -> int:
    """Slurm's time formats: minutes, m:s, h:m:s, d-h, d-h:m, d-h:m:s."""
    match = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", limit)
    if match is None:
        raise Refused("sbatch: error: Invalid --time specification")
    days, *parts = match.groups()
    numbers = [int(p) for p in parts if p is not None]
    if days is not None:
        hours, minutes, secs = (*numbers, 0, 0)[:3]
        return int(days) * DAY + hours * 3600 + minutes * 60 + secs
    if len(numbers) == 3:
        return numbers[0] * 3600 + numbers[1] * 60 + numbers[2]
    return numbers[0] * 60 + (numbers[1] if len(numbers) == 2 else 0)


SIZE = {"": 1, "K": 1 / 1024, "M": 1, "G": 1024, "T": 1024 * 1024}


def megabytes(memory: str) -> float:
    match = re.fullmatch(r"(\d+)([KMGT]?)B?", memory, re.IGNORECASE)
    if match is None:
        raise Refused("sbatch: error: Invalid --mem specification")
    return int(match[1]) * SIZE[match[2].upper()]


FILTER = """\
-- Written by sandbox/slurm_rules.py from the table that the jobs without Slurm are checked with.
local ACCOUNTS = {{{accounts}}}
local QOS = {{
{qos}
}}

local function refuse(code, said)
    if said ~= "" then slurm.log_user("%s", said) end
    return code
end

function slurm_job_submit(job, partitions, uid)
    if job.partition == "{first}" then return slurm.SUCCESS end
    local account = string.gsub(job.account or "", "_g$", "")
    if not ACCOUNTS[account] then return refuse({account}) end
    local qos = QOS[job.qos or "{default}"]
    if qos == nil then return refuse({unknown_qos}) end
    if qos.constraint and (job.features or "") == "" then return refuse({architecture}) end
    if job.time_limit < 4294967290 and job.time_limit > qos.minutes then return refuse({time}) end
    if qos.memory_mb then
        local asked = job.pn_min_memory  -- a number with the highest bit means "not said" or "per CPU"
        if asked < 2 ^ 62 and asked > qos.memory_mb then return refuse({memory}) end
        if job.min_mem_per_cpu ~= nil and job.min_mem_per_cpu > qos.memory_mb then return refuse({memory}) end
        if asked >= 2 ^ 62 then job.pn_min_memory = qos.memory_mb end
    end
    if job.partition == nil then job.partition = qos.partition end
    if qos.whole_node then job.shared = 0 end
    job.admin_comment = job.qos or "{default}"  -- without accounting Slurm itself does not keep it
    return slurm.SUCCESS
end

function slurm_job_modify(job, record, partitions, uid)
    return slurm.SUCCESS
end

return slurm.SUCCESS
"""


def submit_filter(projects: Iterable[str], first: str) -> str:
    """job_submit.lua. Jobs of the partition `first` are the sandbox's own, and pass."""

    def qos(name: str, rule: Qos) -> str:
        fields = {
            "minutes": str(rule.time_s // 60), "memory_mb": str(rule.memory_mb or "nil"),
            "constraint": str(rule.constraint).lower(), "whole_node": str(rule.whole_node).lower(),
            "partition": f'"{rule.partition}"',
        }  # fmt: skip
        return f'    ["{name}"] = {{' + ", ".join(f"{k} = {v}" for k, v in fields.items()) + "},"

    def arguments(refusal: Refusal) -> str:
        return f'{refusal.code}, "{refusal.said}"'

    return FILTER.format(
        accounts=", ".join(f'["{name}"] = true' for name in projects),
        qos="\n".join(qos(name, rule) for name, rule in QOS.items()),
        first=first, default=DEFAULT_QOS, account=arguments(ACCOUNT), unknown_qos=arguments(UNKNOWN_QOS),
        architecture=arguments(ARCHITECTURE), time=arguments(TIME), memory=arguments(MEMORY),
    )  # fmt: skip
