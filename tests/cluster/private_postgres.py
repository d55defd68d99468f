"""A real PostgreSQL in a folder of its own, gone after the test."""

import os
import shutil
import subprocess
from pathlib import Path

from tests.cluster.private_slurm import PATH, free_port

_BINARIES = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: float(path.parent.name))


def missing() -> list[str]:
    """Programs that are not installed."""
    return [] if _BINARIES or shutil.which("initdb") else ["postgresql"]


class PrivatePostgres:
    """A server with two empty databases.

    Attributes:
        url, other_url: of the databases, as MLflow and Optuna take them.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._port = folder, free_port()
        self._binaries = _BINARIES[-1] if _BINARIES else Path(str(shutil.which("initdb"))).parent
        self.url = f"postgresql+psycopg://postgres@127.0.0.1:{self._port}/mlflow"
        self.other_url = f"{self.url.removesuffix('mlflow')}optuna"

    def start(self) -> None:
        """Creates the database; PostgreSQL refuses to run as root, and then runs as its own user."""
        self._folder.mkdir(parents=True, exist_ok=True)
        if os.getuid() == 0:
            for path in (self._folder, *self._folder.parents):
                if path.owner() == "root" and path.is_relative_to("/tmp") and path != Path("/tmp"):
                    path.chmod(0o755)
            shutil.chown(self._folder, "postgres")
        self._run("initdb", "-D", str(self._data), "-U", "postgres", "-A", "trust", "--no-sync")
        options = f"-p {self._port} -k {self._folder} -h 127.0.0.1 -F"
        self._run("pg_ctl", "-D", str(self._data), "-o", options, "-l", str(self._folder / "log"), "-w", "start")
        for name in ("mlflow", "optuna"):
            self._run("createdb", "-h", "127.0.0.1", "-p", str(self._port), "-U", "postgres", name)

    @property
    def _data(self) -> Path:
        return self._folder / "data"

    def _run(self, program: str, *words: str) -> None:
        become = [str(shutil.which("runuser", path=PATH)), "-u", "postgres", "--"] if os.getuid() == 0 else []
        command = [*become, str(self._binaries / program), *words]
        subprocess.run(command, cwd=self._folder, check=True, stdout=subprocess.DEVNULL, timeout=60)

    def stop(self) -> None:
        """Ends it at once."""
        if self._data.exists():
            self._run("pg_ctl", "-D", str(self._data), "-m", "immediate", "stop")
