"""What is measured of a process is that process's."""

import subprocess
import sys

import numpy as np


def test_a_process_does_not_count_the_memory_of_the_process_that_started_it() -> None:
    held = np.ones(600 << 17)
    code = "from labtrail.running.provenance.facts import peak_memory_mib; print(peak_memory_mib())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 10 < float(done.stdout) < held.nbytes / (1 << 20)
