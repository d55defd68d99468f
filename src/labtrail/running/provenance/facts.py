"""Where a run ran: device, and the job that it was part of, as a methods chapter has to say."""

import os
import platform
import resource
import socket
import sys
from collections.abc import Mapping
from pathlib import Path

import torch
from accelerate import Accelerator

from labtrail.store import contract

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


def peak_memory_mib() -> float:
    """Largest resident memory of this process so far, MiB."""
    status = Path("/proc/self/status")
    if status.is_file():
        # What getrusage tells includes the maximum of the process that started this one.
        lines = status.read_text(encoding="ascii", errors="replace").splitlines()
        return next(float(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1024
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest / (1024 * 1024 if sys.platform == "darwin" else 1024)
