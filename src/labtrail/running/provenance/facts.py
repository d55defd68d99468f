"""Where a run comes from: commit, device, and the job that it ran in, as a methods chapter has to say."""

import os
import platform
import resource
import socket
import subprocess
from collections.abc import Mapping
from functools import cache

import torch
from accelerate import Accelerator

from labtrail import contract

# Tag -> variables of Slurm and PBS that tell it; the first that is set counts.
_VARIABLES = {
    contract.JOB_ID: ("SLURM_JOB_ID", "PBS_JOBID"),
    contract.JOB_NAME: ("SLURM_JOB_NAME", "PBS_JOBNAME"),
    contract.PARTITION: ("SLURM_JOB_PARTITION", "PBS_QUEUE"),
    contract.NODE: ("SLURMD_NODENAME", "SLURM_JOB_NODELIST"),
    contract.CPUS: ("SLURM_CPUS_ON_NODE", "NCPUS"),
    contract.MEMORY: ("SLURM_MEM_PER_NODE",),
    contract.RESTARTS: ("SLURM_RESTART_COUNT",),
    contract.RESOURCES: (contract.RESOURCES_VARIABLE,),
}


def cluster_facts(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Tags of a run inside a job: scheduler, job, partition, node, CPUs, memory, GPUs, limits; empty elsewhere."""
    scheduler = "slurm" if "SLURM_JOB_ID" in environment else "pbs" if "PBS_JOBID" in environment else ""
    if not scheduler:
        return {}
    facts = {contract.SCHEDULER: scheduler, contract.NODE: socket.gethostname()}
    for tag, names in _VARIABLES.items():
        value = next((environment[name] for name in names if environment.get(name)), "")
        if value:
            facts[tag] = value
    granted = [word for word in environment.get("CUDA_VISIBLE_DEVICES", "").split(",") if word not in ("", "-1")]
    facts[contract.GPUS] = str(len(granted))
    begin, end = (environment.get(f"SLURM_JOB_{moment}_TIME", "") for moment in ("START", "END"))
    if begin.isdigit() and end.isdigit():
        facts[contract.LIMIT_S] = str(int(end) - int(begin))
    return facts


def device_name(accelerator: Accelerator) -> str:
    """Name of the device, as the tag of a run has it."""
    if accelerator.device.type == "cuda":
        return torch.cuda.get_device_name(accelerator.device)
    return f"cpu ({platform.machine()}, {torch.get_num_threads()} threads)"


@cache
def git_tags() -> dict[str, str]:
    """Commit and dirty flag of the working folder; empty outside a repository."""

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(["git", *arguments], capture_output=True, text=True, timeout=10, check=True)
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout.strip()

    commit = git("rev-parse", "HEAD")
    if not commit:
        return {}
    changes = git("status", "--porcelain", "--untracked-files=no")
    return {contract.GIT_COMMIT: commit, contract.GIT_DIRTY: str(bool(changes)).lower()}


def peak_memory_mib() -> float:
    """Largest resident memory of this process so far, MiB."""
    kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kib / 1024
