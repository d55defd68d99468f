"""Writes the page of all commands from their help: ``python -m docs.commands docs/commands.md`` (make commands)."""

import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import click

from labtrail.console import COMMANDS, labtrail

_WIDTH = 100
_HEAD = """# Commands

`labtrail COMMAND --help` prints what stands here. Written by `make commands`; a test holds it against the code.

| exit status | means |
|---|---|
| 0 | done, or equal |
| 1 | failed, or differs |
| 2 | refused before anything was begun: a typo, a value, data or a run that is not there |
| 3 | a person has to decide |
| 128 + n | ended by signal n |

`mlflow run` turns every failure into 1; the run's tag `labtrail.exit_status` then has the status above.

| from a script or a job of an earlier version | goes on to work as |
|---|---|
| `python -m projects.spoter [attention]`, as of any project | `labtrail run spoter`, `labtrail run spoter-attention` |
| `python -m projects` | `labtrail tour` |
| `python -m projects.campaign --config FILE [--status]` | `labtrail campaign run` (or `status`) |
| `python -m labtrail.console campaign --config FILE ...` (crontabs) | the same |
| `python -m projects.study --config FILE` | `labtrail study run --config FILE` |
| `python -m projects.fetch --dataset NAME` | `labtrail fetch NAME` |
| `python -m labtrail.report` | `labtrail report` |
| `python -m labtrail.batch.job FILE` (queued jobs) | `python -m labtrail.jobs.job FILE` |

Places that are kept for commands to come: `ls`, `show`, `compare`, `diff` and `watch` under Look, `reproduce` and
`check` under Trust, `new`, `schema` and `completion` under Set up, `status` and `best` of `study`.
"""


def page() -> str:
    """The page as Markdown."""
    parts = [_HEAD]
    for section, commands in COMMANDS.items():
        parts.append(f"## {section}\n")
        for name, text in commands.items():
            parts.append(f"### labtrail {name}\n\n{text[0].upper()}{text[1:]}.\n")
            command = import_module(f"labtrail.commands.{name}").command
            parts += [f"```text\n{help_text}\n```\n" for help_text in _helps(command, f"labtrail {name}")]
    return "\n".join(parts)


def _helps(command: click.Command, name: str) -> Iterator[str]:
    """The help of a command, and of those below it."""
    context = click.Context(command, info_name=name, parent=None, terminal_width=_WIDTH, max_content_width=_WIDTH)
    yield "\n".join(line.rstrip() for line in command.get_help(context).splitlines())
    # The tasks of a lab are its own and not the command's.
    if isinstance(command, click.Group) and command.name != "run":
        for below, inner in sorted(command.commands.items()):
            yield from _helps(inner, f"{name} {below}")


if __name__ == "__main__":
    assert set(labtrail.list_commands(click.Context(labtrail))) == {name for part in COMMANDS.values() for name in part}
    Path(sys.argv[1]).write_text(page())
