"""Tests; one thread of computation each, since several run side by side on few cores."""

import os

# Before torch is loaded: threads that wait for each other spin.
os.environ.setdefault("OMP_NUM_THREADS", "1")
