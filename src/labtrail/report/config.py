"""What a report is about."""

from pydantic import Field

from labtrail.config import Config, Text, Words


class ReportConfig(Config):
    """Which runs are reported, and how they are grouped."""

    campaign: Text = ""
    """runs of this campaign; empty: of any or none, and then task must be given"""
    task: Text = ""
    """runs of this task; empty: of all tasks that the campaign has"""
    metric: str = ""
    """metric that ranks groups; empty: that of the test set which the runs name as their score"""
    group: Words = ()
    """config keys whose equal values make a group; empty: all in which the runs differ, but for the seed"""
    curves: Words = ()
    """metrics drawn over epochs; empty: the losses and the score"""
    against: str = ""
    """group that the others are compared with over paired seeds; empty: the best one, which tests nothing"""
    level: float = Field(default=0.95, gt=0.5, lt=1)
    """coverage of intervals"""
