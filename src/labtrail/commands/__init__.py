"""The ``labtrail`` command, one module for each of its commands."""
