"""``python -m projects``, as in scripts of earlier versions; now ``labtrail tour``."""

import sys

from labtrail.console import labtrail
from labtrail.running.cli import command_line

if __name__ == "__main__":
    command_line(labtrail, ["tour", *sys.argv[1:]])
