"""``python -m projects.study``, as in scripts and jobs of earlier versions; now ``labtrail study``."""

import sys

from labtrail.console import labtrail
from labtrail.running.cli import command_line

if __name__ == "__main__":
    command_line(labtrail, ["study", "run", *sys.argv[1:]])
