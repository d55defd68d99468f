"""Errors that a user can fix; the command line prints them without a traceback.

LabtrailError
├── ConfigError    a config file, a key or a value; nothing has been started (exit status 2)
├── DataError      a data file, with its row and column (exit status 2)
├── LaunchError    processes, devices or precision that were asked for and are not there (exit status 2)
├── ClaimError     the run or its key belongs to other work (exit status 2)
├── CodeError      a run of this work was made by other code; a person has to decide (exit status 3)
├── QueryError     a run or an artifact that was asked for and is not there (exit status 2)
├── CheckpointError  a checkpoint that cannot be written or read
├── MetricError    a metric that is not a finite number
├── Superseded     a later attempt at the same run has taken over
└── Stopped        a run that whoever watches it has ended early
"""


class LabtrailError(Exception):
    """Base of every error whose message tells the user what to do next."""

    exit_status = 1


class ConfigError(LabtrailError):
    """One or several problems of a config, one line each."""

    exit_status = 2

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class DataError(LabtrailError):
    """A data file that cannot be used as it is."""

    exit_status = 2


class LaunchError(LabtrailError):
    """The machine does not offer what was asked for."""

    exit_status = 2


class ClaimError(LabtrailError):
    """A run that belongs to other work."""

    exit_status = 2


class CodeError(LabtrailError):
    """Work that was done, or begun, by other code than the present one."""

    exit_status = 3


class QueryError(LabtrailError):
    """A run or an artifact that was asked for and is not there."""

    exit_status = 2


class CheckpointError(LabtrailError):
    """A checkpoint that cannot be written or read."""


class MetricError(LabtrailError):
    """A metric that is not a finite number."""


class Superseded(LabtrailError):  # noqa: N818 the name says what has happened
    """Another attempt has begun; this process writes nothing more, not even its end."""


class Stopped(LabtrailError):  # noqa: N818 an end that was asked for, not an error
    """Ends a run early, from outside its task; the run is KILLED with these words and can be continued."""
