"""``labtrail settle RUN``: whether the present code gives the numbers of a run; if so, both codes count as one."""

import click

from labtrail.errors import DataError
from labtrail.running.cli import HELP, LabCommand
from labtrail.store import contract


@click.command(cls=LabCommand, name="settle", context_settings=HELP)
@click.argument("run_id", metavar="RUN")
@click.option("--epochs", type=click.IntRange(1), help="Only the head of the curve: end after so many records.")
def command(run_id: str, epochs: int | None) -> int:
    """Runs the work of RUN again by the present code, and compares every number and weight.

    Equal to the bit: both codes count as the same for its task from then on, with the run as evidence; finished runs
    stay, and others go on. Exit status 0: settled; 1: these are two programs; 2: it cannot be judged.
    """
    from labtrail.config import load_config
    from labtrail.query.find import artifact, run_by_id
    from labtrail.running import code_policy, repeat
    from labtrail.running.kept_code import kept_code
    from labtrail.running.registry import task_named
    from labtrail.running.work import present_code
    from labtrail.store import connection

    run = run_by_id(run_id)
    if run.end != "FINISHED" and not epochs:
        raise DataError(f"run {run_id} has not finished; --epochs N settles by the head of its curve")
    kept, client = kept_code(run), connection.current_store()
    task = task_named(run.tags[contract.TASK])
    code = present_code(task, [load_config(task.config, artifact(run.run_id, contract.CONFIG_FILE))])
    present = code_policy.PresentCode(task.name, code)
    if not code_policy.is_other(client, run, present):
        click.echo(f"code:     the present one counts as that of run {run_id} already")
        return contract.DONE
    click.echo(f"code:     {code_policy.difference(client, run, present)}")
    repetition = repeat.repeat(kept, run, repeat.Place("the present code"), epochs or 0)
    comparison = repeat.compare(run.run_id, repetition, head=bool(epochs))
    click.echo(f"numbers:  {comparison.numbers}")
    click.echo(f"weights:  {'not compared' if epochs else comparison.tensors}")
    if not comparison.same or not comparison.numbers.count:
        click.echo("verdict:  not settled: these are two programs, and finished runs stay with the old one")
        return contract.FAILED
    code_policy.declare_same(client, run, code.digest, evidence=repetition)
    head = f", by the first {epochs} records" if epochs else ""
    click.echo(
        f"verdict:  settled{head}: {kept.code} = {code.digest} for {task.name}, with run {repetition} as evidence"
    )
    return contract.DONE
