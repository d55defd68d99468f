"""``python -m projects.fetch``, as in scripts and jobs of earlier versions; now ``labtrail fetch``."""

import sys

from labtrail.console import labtrail
from labtrail.running.cli import command_line

if __name__ == "__main__":
    command_line(labtrail, ["fetch", *sys.argv[1:]])
