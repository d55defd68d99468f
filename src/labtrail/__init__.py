"""labtrail: a task is a function from a frozen config to a stream of records; the platform records."""

__version__ = "0.1.0"
