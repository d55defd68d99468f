"""``python -m labtrail.jobs.job FILE``: becomes the command that a file names.

A job script ends with it, so that no shell ever reads an argument, and the signals that the scheduler sends to the
script reach the task itself.

Why: docs/decisions/016-job-scripts-exec.md
"""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

# Folder for temporary files, as the config has it.
SCRATCH_VARIABLE = "LABTRAIL_SCRATCH"
_SHELL_WORDS = ("exec", "env")
# What belongs to the process that submitted, and not to the job.
_FOREIGN = ("LABTRAIL_CHILD", "MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME")


def settled(command: Sequence[str], variables: Mapping[str, str]) -> tuple[list[str], dict[str, str]]:
    """A command without leading ``exec``, ``env`` and assignments, and the environment that these make.

    Args:
        command: words as an entry point of MLproject has them: ``exec env PYTHONPATH=src:$PYTHONPATH python -m ...``.
        variables: names and values to begin with.
    """
    words, environment = list(command), dict(variables)
    while words and words[0] in _SHELL_WORDS:
        word = words.pop(0)
        while word == "env" and words and words[0].partition("=")[1]:
            name, _, value = words.pop(0).partition("=")
            environment[name] = value.replace(f"${name}", environment.get(name, ""))
    return words, environment


def main() -> None:
    """Replaces this process by the command."""
    asked = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    inherited = {name: value for name, value in os.environ.items() if name not in _FOREIGN}
    # As an activated environment would: its programs come first.
    inherited["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), inherited.get("PATH", os.defpath)])
    words, environment = settled(asked["command"], inherited | asked["variables"])
    if scratch := environment.get(SCRATCH_VARIABLE):
        folder = Path(os.path.expandvars(scratch))
        folder.mkdir(parents=True, exist_ok=True)
        environment["TMPDIR"] = str(folder)
    os.chdir(asked["folder"])
    os.execvpe(words[0], words, environment)  # noqa: S606 no shell is the point


if __name__ == "__main__":
    main()
