"""A real Slurm of one node in a folder of its own: no systemd, no root, gone after the test."""

import contextlib
import getpass
import os
import shutil
import signal
import socket
import subprocess
from pathlib import Path

import psutil

from tests.workspace import wait_until

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch")
# Debian keeps daemons where only root's PATH looks.
PATH = os.pathsep.join([os.environ["PATH"], "/usr/sbin", "/usr/local/sbin"])


def missing() -> list[str]:
    """Programs that are not installed."""
    return [name for name in PROGRAMS if shutil.which(name, path=PATH) is None]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def answers(port: int) -> bool:
    """Whether somebody listens."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


class PrivateSlurm:
    """Controller, node and authentication, each a process of its own.

    Attributes:
        variables: what its commands need in their environment.
    """

    def __init__(self, folder: Path, **settings: str) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._host = socket.gethostname().partition(".")[0]
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        for name in ("state", "spool"):
            (folder / name).mkdir()
        self._settings = self._defaults() | settings
        self.variables = {"SLURM_CONF": str(folder / "slurm.conf"), "PATH": PATH}
        text = "".join(f"{key}={value}\n" for key, value in self._settings.items())
        node = f"NodeName={self._host} NodeAddr=127.0.0.1 CPUs=4 RealMemory=4000 Port={free_port()} State=UNKNOWN\n"
        parts = f"PartitionName=debug Nodes={self._host} Default=YES DefaultTime=10 MaxTime=60 State=UP\n"
        (folder / "slurm.conf").write_text(text + node + parts)

    def _defaults(self) -> dict[str, str]:
        folder, user = self._folder, getpass.getuser()
        return {
            "ClusterName": "private",
            "SlurmctldHost": f"{self._host}(127.0.0.1)",
            "SlurmctldPort": str(free_port()),
            "SlurmUser": user,
            "SlurmdUser": user,
            "AuthType": "auth/munge",
            "CredType": "cred/munge",
            "AuthInfo": f"socket={folder}/munge.sock",
            "StateSaveLocation": f"{folder}/state",
            "SlurmdSpoolDir": f"{folder}/spool",
            "SlurmctldPidFile": f"{folder}/slurmctld.pid",
            "SlurmdPidFile": f"{folder}/slurmd.pid",
            "SlurmctldLogFile": f"{folder}/slurmctld.log",
            "SlurmdLogFile": f"{folder}/slurmd.log",
            "ProctrackType": "proctrack/linuxproc",
            "TaskPlugin": "task/none",
            "JobAcctGatherType": "jobacct_gather/none",
            "SelectType": "select/cons_tres",
            "SelectTypeParameters": "CR_Core",
            "SchedulerParameters": "sched_interval=5,batch_sched_delay=0,sched_min_interval=200000,bf_interval=5",
            "AccountingStorageType": "accounting_storage/none",
            "JobCompType": "jobcomp/none",
            "KillWait": "5",
            "ReturnToService": "2",
            "SlurmdParameters": "config_overrides",
            "MinJobAge": "2",
            "MpiDefault": "none",
        }

    def start(self) -> None:
        """Starts all three; returns when the node is idle."""
        folder = self._folder
        (folder / "munge.key").write_bytes(os.urandom(128))
        (folder / "munge.key").chmod(0o600)
        files = {"key-file": "key", "socket": "sock", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
        options = [f"--{name}={folder}/munge.{suffix}" for name, suffix in files.items()]
        self._daemon("munged", "--force", "--foreground", *options)
        wait_until((folder / "munge.sock").exists)
        self.start_controller(fresh=True)
        self.start_node()

    def start_controller(self, *, fresh: bool = False) -> None:
        """Starts the controller; from nothing, or from what it has saved."""
        self._daemon("slurmctld", "-D", *(["-c"] if fresh else []))
        wait_until(lambda: "UP" in self.command("scontrol", "ping").stdout)
        if "slurmd" in self._processes:
            self._wait_for_node()

    def start_node(self) -> None:
        """Starts the node's daemon."""
        self._daemon("slurmd", "-D")
        self._wait_for_node()

    def _wait_for_node(self) -> None:
        wait_until(self._has_node, 120)

    def _has_node(self) -> bool:
        state = self.command("sinfo", "-h", "-o", "%T").stdout.strip()
        if state.startswith(("drain", "down")):
            # A job that would not die in time; an administrator would do this.
            self.command("scontrol", "update", f"NodeName={self._host}", "State=RESUME")
        return state in ("idle", "mixed", "allocated")

    def kill(self, name: str, number: signal.Signals = signal.SIGKILL) -> None:
        """Sends a signal to a daemon; SIGSTOP makes it hang."""
        self._processes[name].send_signal(number)
        if number == signal.SIGKILL:
            self._processes[name].wait()

    def _daemon(self, name: str, *options: str) -> None:
        program = shutil.which(name, path=PATH)
        assert program is not None
        with (self._folder / f"{name}.out").open("ab") as output:
            self._processes[name] = subprocess.Popen(
                [program, *options], env={**os.environ, **self.variables}, stdout=output, stderr=subprocess.STDOUT
            )

    def command(self, *words: str) -> subprocess.CompletedProcess[str]:
        """A command of Slurm."""
        return subprocess.run(
            words, env={**os.environ, **self.variables}, capture_output=True, text=True, timeout=60, check=False
        )

    def queue(self) -> list[tuple[str, str, str]]:
        """(name, id, state) of all jobs that it remembers."""
        lines = self.command("squeue", "-h", "-t", "all", "-o", "%j|%i|%T").stdout.splitlines()
        return [(name, number, state) for name, number, state in (line.split("|") for line in lines)]

    def job_processes(self) -> list[psutil.Process]:
        """The batch processes that its node has started."""
        return self._own_processes("SLURM_JOB_ID")

    def _own_processes(self, variable: str = "SLURM_CONF") -> list[psutil.Process]:
        """Processes that belong to this Slurm and have a variable."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                environment = process.environ()
                if environment.get("SLURM_CONF") == self.variables["SLURM_CONF"] and variable in environment:
                    found.append(process)
        return found

    def stop(self) -> None:
        """Ends all daemons and jobs."""
        for process in reversed(self._processes.values()):
            process.send_signal(signal.SIGCONT)
            process.kill()
            process.wait()
        # What a daemon has started outlives it.
        while own := [*self._own_processes(), *self._keepers()]:
            for process in own:
                with contextlib.suppress(psutil.Error):
                    process.kill()
            psutil.wait_procs(own, timeout=5)

    def _keepers(self) -> list[psutil.Process]:
        """Of each job the process that looks after it; its title covers its environment, its log tells whose it is."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.name() == "slurmstepd" and any(
                    Path(file.path).is_relative_to(self._folder) for file in process.open_files()
                ):
                    found.append(process)
        return found
