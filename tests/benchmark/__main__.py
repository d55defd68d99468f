"""``python -m tests.benchmark``: every claim of speed as a ratio measured in this one run.

References are plain but sound code, written here or by the peer's own library; nothing is slowed down.
Times are CPU-seconds of one thread (wall seconds where a row says so), medians of several repetitions.
"""

import argparse
import platform
import subprocess
import sys

import torch

from tests.benchmark import attention, cluster, commands, distill, pamap2, profiler, query, remat, spoter, tracking
from tests.benchmark.timing import Row

SUITES = {
    "commands": commands.rows,
    "spoter": spoter.rows,
    "attention": attention.rows,
    "pamap2": pamap2.rows,
    "distill": distill.rows,
    "profiler": profiler.rows,
    "remat": remat.rows,
    "tracking": tracking.rows,
    "cluster": cluster.rows,
    "query": query.rows,
}
# Takes most of an hour: only where it is named.
LONG = {"remat-torch": remat.beside_torch}


def main() -> None:
    """Prints one row per measurement."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    names = f"{', '.join(SUITES)} (default: all of these), {', '.join(LONG)}"
    parser.add_argument("suites", nargs="*", metavar="suite", help=f"which: {names}")

    chosen = parser.parse_args().suites or list(SUITES)
    known = SUITES | LONG
    if unknown := set(chosen) - set(known):
        parser.error(f"unknown suite {', '.join(sorted(unknown))}; valid: {', '.join(known)}")
    if len(chosen) > 1:
        # What one suite has allocated and loaded is not to meet the next.
        failed = [name for name in chosen if subprocess.run([sys.executable, "-m", "tests.benchmark", name]).returncode]
        sys.exit(f"error: {', '.join(failed)} ended badly" if failed else 0)
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, {platform.machine()}, 1 thread; synthetic data, random weights\n")
    print(Row.HEADER)
    for row in known[chosen[0]]():
        print(row, flush=True)


main()
