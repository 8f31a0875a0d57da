"""The files of the sandbox's own Slurm: slurm.conf, gres.conf and job_submit.lua below DIR/slurm.

Everything listens on 127.0.0.1, and nothing needs root, munge, cgroups or a database. The price: without munge Slurm
believes what a client says of who it is, so whoever can open a connection to 127.0.0.1 of this machine can run jobs as
the user who started the sandbox. Do not start it on a machine that is shared with people you do not trust.
"""

from __future__ import annotations

import hashlib
import os
import pwd
import re
import socket
import stat
import tempfile
from pathlib import Path

from sandbox.slurm_rules import DEFAULT_MINUTES, LICENSES, NODES, Node, submit_filter

CONTROLLER = "slurmctld"
DOOMED = "sandbox_doomed"  # where jobs run whose node is to fail, or that are to be preempted: they harm no other
FIRST = "sandbox_first"  # what runs here preempts what runs there
SPARE = Node("nid000099", tuple(sorted({f for node in NODES for f in node.features})), (DOOMED, FIRST), gpus=4)
ALL_NODES = (*NODES, SPARE)
DAEMONS = (CONTROLLER, *(node.name for node in ALL_NODES))
SOCKET_PATH = 107  # the longest that the kernel takes; slurmstepd's is DIR/slurm/<node>/<node>_<job>.<step>
CPUS, MEMORY_MB = 256, 515_000  # that each node claims to have

CONF = """\
ClusterName=perlmutter
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/none
CredType=cred/none
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
AccountingStorageType=accounting_storage/none
PlugStackConfig={folder}/plugstack.conf
StateSaveLocation={folder}/state
SlurmdSpoolDir={spool}/%n
SlurmctldPidFile={folder}/{controller}.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/{controller}.log
SlurmdLogFile={folder}/%n.log
SlurmdParameters=config_overrides
DebugFlags=NO_CONF_HASH
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
# memory is watched by looking, for want of cgroups: a job over its --mem is killed within a second or two
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill,UsePss
# as quick as it goes: NERSC's own is slower
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_min_interval=0,sched_interval=1,bf_interval=1
FirstJobId={first_job_id}
MinJobAge=86400
KillWait=3
JobRequeue=0
PropagateResourceLimits=NONE
PreemptType=preempt/partition_prio
PreemptMode=CANCEL
JobSubmitPlugins=lua
GresTypes=gpu
Licenses={licenses}
"""


def write(folder: Path, ports: dict[str, int], first_job_id: int, projects: list[str]) -> None:
    """Make the folder's configuration; `ports` has one for each of DAEMONS. Raises ValueError for a bad folder."""
    if not re.fullmatch(r"[\w./+:@-]+", str(folder), re.ASCII):
        raise ValueError(f"{folder} has characters that slurm.conf does not take: choose another --dir")
    host = socket.gethostname().partition(".")[0]
    (folder / "state").mkdir(parents=True, exist_ok=True)
    lines = [
        CONF.format(
            host=host, port=ports[CONTROLLER], user=_user(), folder=folder, spool=spool(folder), controller=CONTROLLER,
            first_job_id=first_job_id, licenses=",".join(f"{name}:100000" for name in LICENSES),
        )
    ]  # fmt: skip
    gpus = []
    for node in ALL_NODES:
        (folder / node.name).mkdir(exist_ok=True)
        gres = f" Gres=gpu:{node.gpus}" if node.gpus else ""
        lines.append(
            f"NodeName={node.name} NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[node.name]} CPUs={CPUS}"
            f" RealMemory={MEMORY_MB} Feature={','.join(node.features)}{gres} State=UNKNOWN\n"
        )
        for n in range(node.gpus):
            (folder / f"gpu{n}").touch()
        if node.gpus:  # a plain file is device enough; a count without files drains the node
            gpus.append(f"NodeName={node.name} Name=gpu File={folder}/gpu[0-{node.gpus - 1}]\n")
    for name in dict.fromkeys(p for node in ALL_NODES for p in node.partitions):
        members = ",".join(node.name for node in ALL_NODES if name in node.partitions)
        tier = {DOOMED: "1 Hidden=YES", FIRST: "10 Hidden=YES"}.get(name, "5")
        default = " Default=YES" if name == NODES[0].partitions[0] else ""
        lines.append(
            f"PartitionName={name} Nodes={members} PriorityTier={tier} DefaultTime={DEFAULT_MINUTES}"
            f" MaxTime=INFINITE State=UP{default}\n"
        )
    (folder / "plugstack.conf").touch()
    _put(folder / "gres.conf", "".join(gpus))
    write_filter(folder, projects)
    _put(folder / "slurm.conf", "".join(lines))


def _put(path: Path, text: str) -> None:
    """At once: a daemon that reads half of it believes it (a node without its GPUs is drained)."""
    fresh = path.with_name(f"{path.name}.new")
    fresh.write_text(text)
    fresh.replace(path)


def spool(folder: Path) -> Path:
    """The folder under a name that leaves room for slurmstepd's sockets: its own, or a link to it for a long one."""
    if len(f"{folder}/{SPARE.name}/{SPARE.name}_99999999.4294967291") <= SOCKET_PATH:
        return folder
    short = short_name(folder)
    short.mkdir(mode=0o700, exist_ok=True)
    found = short.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise ValueError(f"{short} belongs to somebody else: choose another --dir")
    link = short / "s"
    if not link.is_symlink() or link.readlink() != folder:
        link.unlink(missing_ok=True)
        link.symlink_to(folder)
    return link


def short_name(folder: Path) -> Path:
    return Path(tempfile.gettempdir()) / f"als-slurm-{hashlib.sha256(str(folder).encode()).hexdigest()[:12]}"


def write_filter(folder: Path, projects: list[str]) -> None:
    """job_submit.lua, which slurmctld reads again when its time has changed; left alone when it says the same."""
    path, text = folder / "job_submit.lua", submit_filter(projects, FIRST)
    old = path.stat().st_mtime if path.exists() else 0.0
    if not old or path.read_text() != text:
        fresh = path.with_suffix(".new")
        fresh.write_text(text)
        at = max(old, fresh.stat().st_mtime) + 2  # a change within the second of the last one would go unseen
        os.utime(fresh, (at, at))
        fresh.replace(path)


def _user() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())
