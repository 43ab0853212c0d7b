"""Where this process stands among the ranks. The only reader of environment variables: no other module asks who started it."""

import os
import re
import socket
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from hashlib import sha256
from pathlib import Path

from ..core.errors import PortError
from .folder.membership import Membership
from .processes import start_ticks

# Device files of NVIDIA, AMD, Habana and Ascend; looked at because asking torch would import it.
ACCELERATORS = ("/dev/nvidiactl", "/dev/kfd", "/dev/accel", "/dev/davinci_manager", "/dev/dxg")
FIRST_PORT, PORTS = 20000, 12000  # below Linux's ephemeral range, so that no outgoing connection holds the port by chance


class FrontEnd(StrEnum):
    python = "python"
    local = "local"
    torchrun = "torchrun"
    deepspeed = "deepspeed"
    slurm = "slurm"
    open_mpi = "open_mpi"


@dataclass(frozen=True, kw_only=True)
class Environment:
    """This process's place.

    Args:
        rank, world_size: number of this process, and how many there are.
        local_rank, local_world_size: the same on this machine.
        master_address, master_port: where the ranks meet.
        front_end: who started this process.
        parent: process id of the front end, where it told us; else as seen now.
        membership: which attempt at the run it belongs to.
        port_is_ours: whether we chose the port, so that rank 0 may choose another.
        listener: descriptor on which the front end listens for rank 0 already; None where it does not.
        agent_store: whether torchrun's agent serves the store at that address.
        supervised: whether a front end of ours stands above, which can start the ranks again.
    """

    rank: int
    world_size: int
    local_rank: int
    local_world_size: int
    master_address: str
    master_port: int
    front_end: FrontEnd
    parent: int = field(default_factory=os.getppid)
    membership: Membership = field(default_factory=Membership)
    port_is_ours: bool = False
    listener: int | None = None
    agent_store: bool = False
    supervised: bool = field(default_factory=lambda: "HEXAREME_ATTEMPT" in os.environ)

    def __post_init__(self) -> None:
        for name, value, size in (("RANK", self.rank, self.world_size), ("LOCAL_RANK", self.local_rank, self.local_world_size)):
            if size < 1 or not 0 <= value < size:
                raise PortError(f"{name}={value} is no rank of {size}", do=f"let {self.front_end} set the variables, or unset RANK")
        if self.local_world_size > self.world_size:
            raise PortError(f"LOCAL_WORLD_SIZE={self.local_world_size} is more than WORLD_SIZE={self.world_size}",
                            do=f"let {self.front_end} set the variables, or unset RANK")
        if not 1 <= self.master_port <= 65535:
            raise PortError(f"MASTER_PORT={self.master_port} is no port", do="set MASTER_PORT to a free port, as 29500")

    def variables(self) -> dict[str, str]:
        """The variables that torch and DeepSpeed expect, and a fair share of the cores unless the user chose one."""
        return {
            "RANK": str(self.rank), "WORLD_SIZE": str(self.world_size),
            "LOCAL_RANK": str(self.local_rank), "LOCAL_WORLD_SIZE": str(self.local_world_size),
            "MASTER_ADDR": self.master_address, "MASTER_PORT": str(self.master_port),
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS") or str(fair_threads(self.local_world_size)),
        } | ({"DS_ACCELERATOR": "cpu"} if on_cpu() else {})  # else DeepSpeed looks for one and warns that it found none


def read_environment(variables: Mapping[str, str]) -> Environment:
    """Recognises who started this process.

    RANK wins over a scheduler's own variables: whoever set it (torchrun, deepspeed, `hexareme train`) ran inside of the scheduler.

    Args:
        variables: as `os.environ`.

    Raises:
        PortError: the variables contradict each other.
    """
    if "RANK" in variables:
        return _from_rank(variables)
    if "SLURM_STEP_NUM_TASKS" in variables and "SLURM_PROCID" in variables:  # only inside srun; an sbatch script has PROCID too
        return _from_slurm(variables)
    if "OMPI_COMM_WORLD_RANK" in variables:
        return _from_open_mpi(variables)
    if variables.get("WORLD_SIZE", "1") != "1":
        raise PortError(f"WORLD_SIZE={variables['WORLD_SIZE'][:40]} is set, but RANK is not",
                        do="let torchrun, deepspeed or srun set both, or unset WORLD_SIZE to start one process")
    return Environment(rank=0, world_size=1, local_rank=0, local_world_size=1, master_address="127.0.0.1", master_port=free_port(),
                       front_end=FrontEnd.python)


def without_local_rank(arguments: Sequence[str]) -> list[str]:
    """The overrides alone: deepspeed appends `--local_rank=N`, which Hydra would not understand; LOCAL_RANK says the same."""
    kept: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        if argument in ("--local_rank", "--local-rank"):
            next(rest, None)
        elif not re.fullmatch(r"--local[_-]rank=-?\d+", argument):
            kept.append(argument)
    return kept


def _from_rank(variables: Mapping[str, str]) -> Environment:
    """torchrun, deepspeed and our own local launcher all speak PyTorch's language."""
    world_size = _number(variables, "WORLD_SIZE")
    front_end = FrontEnd.deepspeed
    if "TORCHELASTIC_RUN_ID" in variables:
        front_end = FrontEnd.torchrun
    elif "HEXAREME_PARENT" in variables:
        front_end = FrontEnd.local
    local_size = next((name for name in ("LOCAL_WORLD_SIZE", "LOCAL_SIZE") if name in variables), None)
    return Environment(
        rank=_number(variables, "RANK"), world_size=world_size, local_rank=_number(variables, "LOCAL_RANK"),
        local_world_size=_number(variables, local_size) if local_size else world_size,
        master_address=_text(variables, "MASTER_ADDR"), master_port=_number(variables, "MASTER_PORT"), front_end=front_end,
        parent=_number(variables, "HEXAREME_PARENT") if front_end is FrontEnd.local else os.getppid(),
        membership=Membership(_attempt(variables)),
        listener=_number(variables, "HEXAREME_LISTENER") if "HEXAREME_LISTENER" in variables else None,
        agent_store=variables.get("TORCHELASTIC_USE_AGENT_STORE") == "True",
    )


def _attempt(variables: Mapping[str, str]) -> str:
    """What only the ranks of this attempt have in common, as far as their front end tells: where it runs on one host, it is the process."""
    told = variables.get("HEXAREME_ATTEMPT")
    if told is None:
        told = " ".join(variables.get(name, "") for name in ("MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RUN_ID"))
        here = variables.get("LOCAL_WORLD_SIZE", variables.get("LOCAL_SIZE", ""))
        if here == variables.get("WORLD_SIZE") and ("TORCHELASTIC_RUN_ID" in variables or "CROSS_SIZE" in variables):
            told += f" {os.getppid()} {start_ticks(os.getppid())}"
    return digest(told)


def digest(text: str) -> str:
    """A name of fixed length for a text of any length."""
    return sha256(text.encode()).hexdigest()[:16]


def _from_slurm(variables: Mapping[str, str]) -> Environment:
    local_counts = expand_counts(_text(variables, "SLURM_STEP_TASKS_PER_NODE"))
    node = int(variables.get("SLURM_NODEID", "0"))
    job = f"{_text(variables, 'SLURM_JOB_ID')}.{variables.get('SLURM_STEP_ID', '0')}"
    if variables.get("WORLD_SIZE", variables["SLURM_STEP_NUM_TASKS"]) != variables["SLURM_STEP_NUM_TASKS"]:
        raise PortError(f"WORLD_SIZE={variables['WORLD_SIZE'][:40]}, but srun started {variables['SLURM_STEP_NUM_TASKS']} tasks",
                        do="unset WORLD_SIZE, or start as many tasks")
    return Environment(
        rank=_number(variables, "SLURM_PROCID"), world_size=_number(variables, "SLURM_STEP_NUM_TASKS"),
        local_rank=_number(variables, "SLURM_LOCALID"), local_world_size=local_counts[min(node, len(local_counts) - 1)],
        master_address=variables.get("MASTER_ADDR") or first_host(_text(variables, "SLURM_STEP_NODELIST")),
        master_port=_number(variables, "MASTER_PORT") if "MASTER_PORT" in variables else agreed_port(job), front_end=FrontEnd.slurm,
        port_is_ours="MASTER_PORT" not in variables,
        membership=Membership(digest(f"slurm {job} {variables.get('SLURM_RESTART_COUNT', '0')}")),
    )


def _from_open_mpi(variables: Mapping[str, str]) -> Environment:
    world_size, local_size = _number(variables, "OMPI_COMM_WORLD_SIZE"), _number(variables, "OMPI_COMM_WORLD_LOCAL_SIZE")
    known = variables if world_size > local_size else {"MASTER_ADDR": "127.0.0.1", **variables}  # Open MPI does not say where rank 0 is
    job = variables.get("PMIX_NAMESPACE") or variables.get("OMPI_MCA_ess_base_jobid", "0")
    return Environment(
        rank=_number(variables, "OMPI_COMM_WORLD_RANK"), world_size=world_size,
        local_rank=_number(variables, "OMPI_COMM_WORLD_LOCAL_RANK"), local_world_size=local_size,
        master_address=_text(known, "MASTER_ADDR"),
        master_port=_number(variables, "MASTER_PORT") if "MASTER_PORT" in variables else agreed_port(job), front_end=FrontEnd.open_mpi,
        membership=Membership(digest(f"open_mpi {job}")), port_is_ours="MASTER_PORT" not in variables,
    )


def _text(variables: Mapping[str, str], name: str) -> str:
    value = variables.get(name, "").strip()
    if not value:
        raise PortError(f"the environment has no {name}", do=f"export {name}, or unset RANK to start one process")
    return value


def _number(variables: Mapping[str, str], name: str) -> int:
    value = _text(variables, name)
    if not re.fullmatch(r"\d{1,9}", value):
        raise PortError(f"{name}={value[:40]!r} is no number", do=f"unset {name}, or let the launcher set it")
    return int(value)


def first_host(nodes: str) -> str:
    """The first host of a Slurm node list, as in `n[03-05,9],m1` -> n03."""
    match = re.match(r"([^,\[]+)(?:\[([^\],-]+)[^\]]*\])?([^,]*)", nodes)
    if match is None:
        raise PortError(f"SLURM_STEP_NODELIST={nodes[:80]!r} names no host", do="export MASTER_ADDR")
    return "".join(part or "" for part in match.groups())


def expand_counts(text: str) -> list[int]:
    """Slurm's tasks for each node, as in `2(x3),1` -> [2, 2, 2, 1]."""
    counts: list[int] = []
    for item in text.split(","):
        match = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", item)
        if match is None:
            raise PortError(f"SLURM_STEP_TASKS_PER_NODE={text[:80]!r} is not understood", do="start with srun")
        counts += [int(match[1])] * int(match[2] or 1)
    return counts


def agreed_port(job: str) -> int:
    """A port that all ranks of a job compute alike and other jobs most likely do not."""
    return FIRST_PORT + zlib.crc32(job.encode()) % PORTS


def free_port() -> int:
    """A port of this machine that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def fair_threads(ranks: int) -> int:
    """Cores of this machine for each of its ranks, at least one."""
    return max(1, len(os.sched_getaffinity(0)) // ranks)


def on_cpu() -> bool:
    """Whether this machine shows no accelerator, found without importing torch."""
    return not any(Path(device).exists() for device in ACCELERATORS)


def computes_fp16(processor: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether this machine computes in fp16: every accelerator does, of processors those with avx512_fp16 (DeepSpeed asks oneDNN the same).

    Args:
        processor: what Linux says of it.
    """
    return not on_cpu() or (processor.exists() and "avx512_fp16" in processor.read_text())
