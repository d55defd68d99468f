"""``python -m projects.campaign``, as in scripts and jobs of earlier versions; now ``labtrail campaign``."""

import sys

from labtrail.console import labtrail
from labtrail.running.cli import command_line

if __name__ == "__main__":
    command_line(labtrail, ["campaign", *sys.argv[1:]])
