"""What is written to a run by a process that does not do its work: opened, marked, refused, given up."""

import os
from collections.abc import Mapping

from mlflow.entities import RunTag
from mlflow.tracking.context import registry

from labtrail.running.fence import Fence
from labtrail.running.writer import LONGEST_REASON
from labtrail.store import connection, contract, locks


def mark_refused(reason: str, status: int = contract.REFUSED) -> None:
    """Leaves the reason on the run that ``mlflow run`` has created, before the process gives up."""
    run_id = os.environ.get("MLFLOW_RUN_ID")
    if run_id:
        client = connection.current_store()
        # Not on one that has begun: then it is another process's.
        if contract.ATTEMPTS not in client.get_run(run_id).data.tags:
            client.set_tag(run_id, contract.STATUS_REASON, f"REFUSED: {reason}"[:LONGEST_REASON])
            client.set_tag(run_id, contract.EXIT_STATUS, str(status))


def note_exit_status(status: int) -> None:
    """Leaves the exit status of this process on the run that ``mlflow run`` has created, which turns it into 1.

    Not on a run that a later attempt has taken over: then it is that one's to tell.
    """
    run_id = os.environ.get("MLFLOW_RUN_ID")
    if run_id and not Fence(run_id).superseded:
        connection.current_store().set_tag(run_id, contract.EXIT_STATUS, str(status))


def mark_abandoned(reason: str) -> None:
    """Closes the run that ``mlflow run`` has created, when this process is stopped before it has begun."""
    run_id = os.environ.get("MLFLOW_RUN_ID")
    if run_id:
        client = connection.current_store()
        if contract.KEY not in client.get_run(run_id).data.tags:
            client.set_tag(run_id, contract.STATUS_REASON, f"KILLED: {reason}")
            client.set_terminated(run_id, "KILLED")


def create_scheduled(task: str, experiment_id: str, name: str, tags: Mapping[str, str]) -> str:
    """Opens a run for work that a job will do later; its status is SCHEDULED until the job begins.

    Args:
        task: that the job will run.
        experiment_id: where it goes.
        name: of the run.
        tags: its key and campaign.

    Returns:
        The run's id.
    """
    client = connection.current_store()
    all_tags = {**registry.resolve_tags(), contract.TASK: task, **locks.whereabouts(), **tags}
    run_id = client.create_run(experiment_id, tags=all_tags, run_name=name).info.run_id
    client.update_run(run_id, status="SCHEDULED")
    return run_id


def set_tags(run_id: str, tags: Mapping[str, str]) -> None:
    """Sets tags of a run that this process does not write otherwise."""
    connection.current_store().log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])


def mark_killed(run_id: str, reason: str) -> None:
    """Closes a run whose job is gone; it can be continued.

    A run that has ended is left alone.
    """
    client = connection.current_store()
    if client.get_run(run_id).info.status in contract.OPEN:
        client.set_tag(run_id, contract.STATUS_REASON, f"KILLED: {reason}"[:LONGEST_REASON])
        client.set_tag(run_id, contract.ENDED, "KILLED")
        client.set_terminated(run_id, "KILLED")


def describe_given(text: str) -> None:
    """Puts a paragraph on the run that ``mlflow run`` has created for a command that is not a task."""
    run_id = os.environ.get("MLFLOW_RUN_ID")
    if run_id:
        connection.current_store().set_tag(run_id, contract.NOTE, text)


def experiment_notes(experiment_id: str) -> str:
    """What stands on the page of an experiment."""
    return connection.current_store().get_experiment(experiment_id).tags.get(contract.NOTE, "")


def note_experiment(experiment_id: str, text: str) -> None:
    """Puts text on the page of an experiment."""
    connection.current_store().set_experiment_tag(experiment_id, contract.NOTE, text)
