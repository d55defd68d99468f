"""Whether a run may stand for, or be continued by, the present code; if not, a person decides.

Nothing is skipped and nothing mixed in silence, and nobody is ever asked at a prompt: a job would wait for ever.

Why: docs/decisions/049-other-code-is-a-question.md
"""

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

from mlflow import MlflowClient

from labtrail.errors import CodeError, DataError, QueryError
from labtrail.query.find import artifact
from labtrail.query.selection import RunRow
from labtrail.running.kept_code import kept_code
from labtrail.running.provenance.code import TELLS, CodeDigest, change_between
from labtrail.store import connection, contract

_log = logging.getLogger("labtrail")


class Present(Protocol):
    """What a run is judged by: the task's name, and its present code; an ``Identity`` for instance."""

    @property
    def task(self) -> str: ...  # noqa: D102 said above

    @property
    def code(self) -> CodeDigest: ...  # noqa: D102 said above


class PresentCode(NamedTuple):
    """The present code of a task, where there is no identity yet."""

    task: str
    code: CodeDigest


def is_other(client: MlflowClient, run: RunRow, present: Present) -> bool:
    """Whether a run was made by code that is neither the present one nor known to be the same."""
    code = run.tags.get(contract.CODE)
    if not code or not present.code.definitions or code == present.code.digest:
        return False
    if present.code.digest in same_codes(client, present.task, code):
        return False
    counted_again = _by_todays_rule(client, run, present)
    if counted_again is None or counted_again.digest != present.code.digest:
        return True
    # Once is enough: the next start finds it said.
    declare_same(client, run, present.code.digest)
    return False


def judge_finished(client: MlflowClient, run: RunRow, present: Present, keep: bool) -> None:
    """Lets a finished run stand for the present code, if that is the same or somebody says so.

    Raises:
        CodeError: it is not; names the functions and what can be done.
    """
    if not is_other(client, run, present):
        return
    if not keep:
        raise CodeError(
            f"run {run.run_id} has finished this config and data with other code{_commit(run)}: "
            f"{difference(client, run, present)}; nothing was run: --again runs it with the present code, "
            "--keep takes that run as the answer, labtrail settle tells whether both give the same numbers"
        )
    declare_same(client, run, present.code.digest)
    _log.info("run %s counts as one of the present code from now on, since --keep says so", run.run_id)


def judge_begun(client: MlflowClient, run: RunRow, present: Present, keep: bool) -> None:
    """Lets a run that has not finished be continued by the present code, if that is the same or somebody says so.

    Raises:
        CodeError: it is not; names the functions and what can be done.
    """
    if contract.ATTEMPTS not in run.tags:
        return
    if not is_other(client, run, present):
        _remark_on_recording(client, run, present)
        return
    if not keep:
        raise CodeError(
            f"run {run.run_id} ({run.end}) would be continued by other "
            f"code{_commit(run)}: {difference(client, run, present)}; nothing was run: --again starts a new run, "
            "--keep continues it and notes both codes on it, --pinned continues it with its own code"
        )


def _remark_on_recording(client: MlflowClient, run: RunRow, present: Present) -> None:
    """Says that a training state was written by another version of what reads it now."""
    before = _kept(client, run, run.tags[contract.CODE]) if contract.CODE in run.tags else None
    if before is not None and before.recording not in ("", present.code.recording):
        modules = ", ".join(TELLS)
        _log.info("run %s: its training state was written by another version of %s", run.run_id, modules)


def segments(before: Mapping[str, str], code: CodeDigest, epoch: int) -> str | None:
    """The tag of a run that another code continues: JSON [[first epoch, digest], ...]; None if it is the same code.

    Args:
        before: tags of the run before this attempt.
        code: the present one.
        epoch: the first that it computes.
    """
    earlier = before.get(contract.CODE)
    if not earlier or not code.definitions or earlier == code.digest:
        return None
    known = json.loads(before.get(contract.CODES, "null")) or [[0, earlier]]
    return json.dumps([*known, [epoch, code.digest]])


def difference(client: MlflowClient, run: RunRow, present: Present) -> str:
    """In which functions a run's code and the present one differ, as far as the run's were kept."""
    digest = run.tags[contract.CODE]
    old = _kept(client, run, digest)
    if old is None:
        return f"its digest is {digest}, the present one {present.code.digest}, and its functions were not kept"
    if old.rule == present.code.rule:
        return str(change_between(old, present.code))
    counted_again = _by_todays_rule(client, run, present)
    if counted_again is None:
        return f"its digest {digest} was made by an earlier rule of labtrail, and its source was not kept"
    return str(change_between(counted_again, present.code))


def _by_todays_rule(client: MlflowClient, run: RunRow, present: Present) -> CodeDigest | None:
    """The code of a run whose digest was made by an earlier rule, counted again from the source that it kept."""
    old = _kept(client, run, run.tags[contract.CODE])
    if old is None or old.rule == present.code.rule:
        return None
    try:
        kept = kept_code(run)
        return kept.code_in([kept.copy()])
    except DataError:
        return None


def _kept(client: MlflowClient, run: RunRow, digest: str) -> CodeDigest | None:
    """The digests of the run's functions, as they are kept beside it."""
    try:
        return CodeDigest.from_json(json.loads(artifact(run.run_id, contract.code_file(digest), client).read_bytes()))
    except (OSError, ValueError, KeyError, QueryError):
        return None


def _commit(run: RunRow) -> str:
    commit = run.tags.get(contract.GIT_COMMIT, "")
    return f" (commit {commit.split()[-1][:9]})" if commit else ""


def declare_same(client: MlflowClient, run: RunRow, code: str, evidence: str = "") -> None:
    """Notes on a run that its code and another one count as the same for its task.

    Args:
        client: of the store.
        run: of the one code.
        code: the other one.
        evidence: id of a run of that code with the same numbers; empty: somebody says so.
    """
    pairs = [*pairs_of(run.tags), [run.tags[contract.CODE], code, *([evidence] if evidence else [])]]
    client.set_tag(run.run_id, contract.CODE_SAME, json.dumps(pairs))


def same_codes(client: MlflowClient, task: str, code: str) -> set[str]:
    """All codes that are known to be the same as one, for a task; that one is among them."""
    marked = connection.search(client, f"tags.`{contract.TASK}` = '{task}' AND tags.`{contract.CODE_SAME}` LIKE '%'")
    return joined_with(code, [pair for run in marked for pair in pairs_of(run.data.tags)])


def joined_with(code: str, pairs: Iterable[Sequence[str]]) -> set[str]:
    """A code and all that pairs, as ``pairs_of`` gives them, say to be the same, directly or not."""
    sets = [set(pair[:2]) for pair in pairs]
    same, size = {code}, 0
    while len(same) > size:
        size = len(same)
        same = same.union(*(pair for pair in sets if pair & same))
    return same


def pairs_of(tags: Mapping[str, str]) -> list[list[str]]:
    """The pairs of codes that a run says to be the same; behind a pair may stand the id of a run that has shown it."""
    return json.loads(tags.get(contract.CODE_SAME, "[]"))
