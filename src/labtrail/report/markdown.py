"""The words and tables of a page as Markdown, for READMEs and mail."""

from collections.abc import Sequence

from labtrail.report.page import Cell, Section, Table


def markdown(title: str, about: str, sections: Sequence[Section]) -> str:
    """Sections without their figures; sections that have nothing else are left out.

    Args:
        title, about: words above everything.
        sections: as for ``page``.
    """
    parts = [f"# {_plain(title)}", _plain(about)]
    for section in sections:
        if section.words or section.table:
            parts += [
                f"## {_plain(section.title)}",
                *map(_plain, section.words),
                *([_table(section.table)] if section.table else []),
            ]
    return "\n\n".join(part for part in parts if part)


def _table(table: Table) -> str:
    head = "| " + " | ".join(_plain(column.title) for column in table.columns) + " |"
    line = "|" + "|".join("---:" if column.number else "---" for column in table.columns) + "|"
    rows = ["| " + " | ".join(_cell(cell) for cell in row.cells) + " |" for row in table.rows]
    return "\n".join([head, line, *rows]) + (f"\n\n{_plain(table.caption)}" if table.caption else "")


def _cell(cell: Cell) -> str:
    text = " ".join(part for part in (_plain(cell.text), _plain(cell.small)) if part)
    return f"[{text}]({cell.link})" if cell.link else text


def _plain(text: str) -> str:
    """Text that Markdown takes as it is."""
    for mark in ("\\", "|", "*", "_", "<", "`", "[", "]"):
        text = text.replace(mark, f"\\{mark}")
    return " ".join(text.split())
