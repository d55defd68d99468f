"""Whose work is this? The claim that keeps two processes from the same work.

Why: docs/decisions/001-continue-in-place.md
     docs/decisions/002-identical-starts-wait.md
"""

import itertools
import json
from dataclasses import dataclass
from typing import Literal

from filelock import FileLock, Timeout
from mlflow import MlflowClient
from mlflow.entities import Run as MlflowRun
from mlflow.tracking.context import registry

from labtrail.config import flatten
from labtrail.errors import ClaimError, CodeError
from labtrail.query.find import data_digests
from labtrail.query.query import run_row
from labtrail.running import code_policy
from labtrail.running.earlier_config import under_an_earlier_config
from labtrail.running.identity import Identity
from labtrail.store import connection, contract, locks


@dataclass(frozen=True)
class Claim:
    """The answer to "whose work is this?".

    Attributes:
        state: ``mine`` (write into ``run_id``), ``finished`` (``run_id`` holds the result) or ``busy``
            (a live process is writing ``run_id``).
        run_id: the run.
        lock: held while the run is ours.
    """

    state: Literal["mine", "finished", "busy"]
    run_id: str
    lock: FileLock | None = None


def claim(
    client: MlflowClient,
    identity: Identity,
    experiment_id: str,
    again: bool,
    given_id: str | None = None,
    keep: bool = False,
) -> Claim:
    """Finds the run that this work belongs to, or opens one; compares first and writes after.

    A run that ``mlflow run`` has created for this process is used if the work is new; otherwise it is
    marked as a pointer to the run that already holds the work, since deleting it would fail its parent.

    Args:
        client: of the store.
        identity: of the work.
        experiment_id: where a new run goes.
        again: whether to run again although the work may be done.
        given_id: id of a run that was created for this work by ``mlflow run``.
        keep: whether a run of other code counts, or is continued, all the same.

    Raises:
        ClaimError: the given run belongs to other work; nothing was written.
        CodeError: a run of other code holds the work; nothing was written.
    """
    with locks.locked(f"claim-{identity.key}"):
        given_run = client.get_run(given_id) if given_id else None
        if given_run is not None and contract.KEY in given_run.data.tags:
            return _claim_given(client, given_run, identity, again, keep)
        earlier = _find_earlier(client, identity, again, keep)
        if earlier is None and not again:
            earlier = _offer_earlier_config(client, identity, keep)
        if earlier is None:
            run_id = given_run.info.run_id if given_run else _create(client, identity, experiment_id)
            if given_run is not None and contract.SAME_AS in given_run.data.tags:
                client.delete_tag(run_id, contract.SAME_AS)
            client.set_tag(run_id, contract.KEY, identity.key)
            return Claim("mine", run_id, _try_lock(run_id))
        if given_run is not None:
            _point(client, given_run.info.run_id, identity.task, earlier)
        return earlier


def _offer_earlier_config(client: MlflowClient, identity: Identity, keep: bool) -> Claim | None:
    """Asks whether a run from before a field was added to the config counts.

    Raises:
        CodeError: nobody has said so.
    """
    if (earlier := under_an_earlier_config(client, identity)) is None:
        return None
    run, fields = earlier
    if not keep:
        raise CodeError(
            f"run {run.run_id} has finished this config and data before there was {', '.join(fields)}, which has its "
            "default now; nothing was run: --keep takes that run as the answer, --again runs it"
        )
    code_policy.judge_finished(client, run, identity, keep)
    keys = json.loads(run.tags.get(contract.KEYS, "[]"))
    client.set_tag(run.run_id, contract.KEYS, json.dumps([*keys, identity.key]))
    return Claim("finished", run.run_id)


def open_beside(client: MlflowClient, identity: Identity, experiment_id: str, run_id: str) -> Claim:
    """Opens a run that repeats a run of the same work, to compare them; claims and wide queries pass it over.

    Args:
        client: of the store.
        identity: of the work, as it is now.
        experiment_id: where the new run goes.
        run_id: of the run that is repeated.

    Raises:
        ClaimError: this would be other work: says whether config, data or processes differ. Nothing was written.
    """
    original = client.get_run(run_id)
    tags = original.data.tags
    if identity.key not in (tags.get(contract.KEY), *json.loads(tags.get(contract.KEYS, "[]"))):
        known = data_digests(run_id, client)
        other = [f"{source.context} ({source.name})" for source in identity.sources if source.digest not in known]
        differs = f"data: other content of {', '.join(other)}" if other else _other_than_data(original, identity)
        raise ClaimError(f"run {run_id} would not be repeated by this: {differs}; nothing was run")
    beside = _create(client, identity, experiment_id)
    client.set_tag(beside, contract.REPRODUCES, run_id)
    return Claim("mine", beside, _try_lock(beside))


def open_member_beside(client: MlflowClient, identity: Identity, experiment_id: str) -> Claim:
    """Opens a run that repeats the newest finished run of a member's work.

    Raises:
        ClaimError: no run has finished it.
    """
    original = next((run for run in runs_of(client, identity.key) if is_finished(run)), None)
    if original is None:
        raise ClaimError(f"{identity.name}: no run has finished this work, so that none can be repeated")
    return open_beside(client, identity, experiment_id, original.info.run_id)


def _other_than_data(original: MlflowRun, identity: Identity) -> str:
    tags, params = original.data.tags, original.data.params
    processes = tags.get(contract.PROCESSES), identity.tags.get(contract.PROCESSES)
    if processes[0] != processes[1]:
        return f"processes: {processes[0]} then, {processes[1]} now"
    values = {f"{contract.CONFIG_PREFIX}{name}": str(value) for name, value in flatten(identity.config).items()}
    names = sorted(name for name in values.keys() | params.keys() if values.get(name) != params.get(name))
    shown = [
        f"{name.removeprefix(contract.CONFIG_PREFIX)}: {params.get(name)} then, {values.get(name)} now"
        for name in names
    ]
    return f"config: {', '.join(shown)}" if shown else "its key was made in another way"


def ask_before(key: str, present: code_policy.Present) -> None:
    """Asks what a claim of this work would ask, before processes are started for it.

    Raises:
        CodeError: a run of other code holds the work.
    """
    client = connection.current_store()
    # Of several, one of the present code is the answer.
    runs = sorted(map(run_row, runs_of(client, key)), key=lambda run: code_policy.is_other(client, run, present))
    finished = next((run for run in runs if run.end == "FINISHED"), None)
    if finished is not None:
        code_policy.judge_finished(client, finished, present, keep=False)
    elif runs:
        code_policy.judge_begun(client, runs[0], present, keep=False)


def _claim_given(client: MlflowClient, given_run: MlflowRun, identity: Identity, again: bool, keep: bool) -> Claim:
    """A run that has the key of this work: begun before, or opened for a job that begins now."""
    run_id, key = given_run.info.run_id, given_run.data.tags[contract.KEY]
    if key != identity.key:
        raise ClaimError(
            f"run {run_id} has key {key}, this config and data have {identity.key}: "
            "a run keeps its config; leave --run-id out to start another run"
        )
    if contract.ATTEMPTS not in given_run.data.tags:
        # While its job waited, somebody else may have begun or done the work: that run goes on.
        earlier = _find_earlier(client, identity, again, keep, begun=True)
        if earlier is not None:
            _point(client, run_id, identity.task, earlier)
            return earlier
        if contract.SAME_AS in given_run.data.tags:
            client.delete_tag(run_id, contract.SAME_AS)
    return _judged(client, given_run, _claim_existing(given_run), identity, keep)


def _find_earlier(
    client: MlflowClient, identity: Identity, again: bool, keep: bool, begun: bool = False
) -> Claim | None:
    """The run that holds this work; with ``again`` only one that was begun after the last that finished."""
    runs = runs_of(client, identity.key)
    if begun:
        runs = [run for run in runs if contract.ATTEMPTS in run.data.tags]
    if again:
        runs = [run for run in itertools.takewhile(lambda run: not is_finished(run), runs) if not _is_elsewhere(run)]
        # What other code has begun is left as it is.
        runs = [run for run in runs if keep or not code_policy.is_other(client, run_row(run), identity)]
    # Of several, one of the present code is the answer.
    runs = sorted(runs, key=lambda run: code_policy.is_other(client, run_row(run), identity))
    claims = [_claim_existing(run) for run in runs]
    for state in ("finished", "mine", "busy"):
        for position, candidate in enumerate(claims):
            if candidate.state == state:
                for other in claims[:position] + claims[position + 1 :]:
                    _release(other)
                return _judged(client, runs[position], candidate, identity, keep)
    return None


def runs_of(client: MlflowClient, key: str) -> list[MlflowRun]:
    """The runs of a piece of work, the newest first; pointers hold none."""
    newest_first = ["attributes.start_time DESC"]
    runs = connection.search(client, f"tags.`{contract.KEY}` = '{key}'", order_by=newest_first)
    runs = runs or connection.search(client, f"tags.`{contract.KEYS}` LIKE '%{key}%'", order_by=newest_first)
    return [run for run in runs if contract.SAME_AS not in run.data.tags]


def _judged(client: MlflowClient, run: MlflowRun, claimed: Claim, identity: Identity, keep: bool) -> Claim:
    """A claim that the code of the run does not forbid; one that is busy is judged when it has ended."""
    judge = {"finished": code_policy.judge_finished, "mine": code_policy.judge_begun}.get(claimed.state)
    try:
        if judge is not None:
            judge(client, run_row(run), identity, keep)
    except BaseException:
        _release(claimed)
        raise
    return claimed


def _claim_existing(run: MlflowRun) -> Claim:
    if is_finished(run):
        return Claim("finished", run.info.run_id)
    if _is_elsewhere(run):
        raise ClaimError(
            f"run {run.info.run_id} is doing this work from another folder or machine "
            f"({run.data.tags.get(contract.HOST)}); if it is dead, continue it there or start again with --again"
        )
    lock = _try_lock(run.info.run_id)
    return Claim("busy" if lock is None else "mine", run.info.run_id, lock)


def is_finished(run: MlflowRun) -> bool:
    """Whether a run holds its result."""
    return contract.end_of(run.data.tags, run.info.status) == "FINISHED"


def _is_elsewhere(run: MlflowRun) -> bool:
    """Whether the run may be alive where our locks do not reach."""
    open_end = contract.ENDED not in run.data.tags and run.info.status == "RUNNING"
    return open_end and run.data.tags.get(contract.PLACE, locks.place()) != locks.place()


def is_held(run_id: str) -> bool:
    """Whether a live process within reach of our locks writes a run."""
    lock = wait_for_lock(run_id, 0)
    if lock is not None:
        lock.release()
    return lock is None


def _try_lock(run_id: str) -> FileLock | None:
    """The lock that a run's writer holds; None while another live process has it."""
    return wait_for_lock(run_id, 0)


def wait_for_lock(run_id: str, patience_s: float) -> FileLock | None:
    """The lock that a run's writer holds; None if another live process has it all the time."""
    lock = locks.lock_of(f"run-{run_id}")
    try:
        lock.acquire(timeout=patience_s)
    except Timeout:
        return None
    return lock


def _release(claimed: Claim) -> None:
    if claimed.lock is not None:
        claimed.lock.release()


def _create(client: MlflowClient, identity: Identity, experiment_id: str) -> str:
    return client.create_run(experiment_id, tags=registry.resolve_tags(), run_name=identity.name).info.run_id


def _point(client: MlflowClient, run_id: str, task: str, target: Claim) -> None:
    client.set_tag(run_id, contract.TASK, task)
    client.set_tag(run_id, contract.SAME_AS, target.run_id)
    client.set_tag(run_id, contract.NOTE, f"The same work as run `{target.run_id}`, which holds the results.")
    client.update_run(run_id, name=f"same as {target.run_id[:8]}")
    # `mlflow run` sets its own end afterwards; without it nobody else would close a pointer.
    client.set_terminated(run_id, "FINISHED" if target.state == "finished" else "KILLED")
