"""The page: sections with words, tables and figures, in one HTML file that needs no network."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.figure import Figure

from labtrail.report.pictures import Picture
from labtrail.store import ui_links

_HERE = Path(__file__).parent


@dataclass(frozen=True)
class Cell:
    """One cell of a table.

    Attributes:
        text: what is shown.
        sort: by what it is sorted, if not by the text.
        small: an aside, such as an interval.
        link: where the text leads.
    """

    text: str
    sort: float | None = None
    small: str = ""
    link: str = ""


@dataclass(frozen=True)
class Column:
    """A heading, and whether numbers stand below it."""

    title: str
    number: bool = False


@dataclass(frozen=True)
class Row:
    """Cells, the first of which names the row."""

    cells: Sequence[Cell]
    best: bool = False


@dataclass(frozen=True)
class Table:
    """A table; sortable if people would want to."""

    caption: str
    columns: Sequence[Column]
    rows: Sequence[Row]
    sortable: bool = True


@dataclass(frozen=True)
class Section:
    """A heading with what stands below it."""

    title: str
    words: Sequence[str] = ()
    picture: Picture | None = None
    table: Table | None = None


@dataclass(frozen=True)
class _Shown:
    """A section as the template takes it."""

    id: str
    title: str
    words: Sequence[str]
    picture: Mapping[str, object] | None
    table: Table | None


def page(title: str, about: str, sections: Sequence[Section], experiments: Mapping[str, str]) -> str:
    """The page as HTML.

    Args:
        title, about: words above everything.
        sections: in their order.
        experiments: run id -> id of its experiment, for links.
    """
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    template = environment.from_string((_HERE / "page.html.j2").read_text(encoding="utf-8"))
    shown = [_shown(number, section, experiments) for number, section in enumerate(sections, 1)]
    # The script is this package's own file.
    script = Markup((_HERE / "page.js").read_text(encoding="utf-8"))  # noqa: S704
    return template.render(title=title, about=about, sections=shown, script=script)


def _shown(number: int, section: Section, experiments: Mapping[str, str]) -> _Shown:
    words = None if section.picture is None else _picture_context(section.picture, experiments)
    return _Shown(f"section-{number}", section.title, section.words, words, section.table)


def _picture_context(picture: Picture, experiments: Mapping[str, str]) -> Mapping[str, object]:
    return {
        "image": _embedded(picture.figure),
        "caption": picture.caption,
        "run_ids": picture.run_ids,
        "link": ui_links.these_runs(ui_links.base(), {run_id: experiments[run_id] for run_id in picture.run_ids}),
    }


def _embedded(figure: Figure) -> str:
    """A figure as an address that holds it: SVG, sharp in print, with its letters as curves."""
    buffer = io.BytesIO()
    with rc_context({"svg.hashsalt": "labtrail"}):
        figure.savefig(buffer, format="svg", bbox_inches="tight", metadata={"Date": None})
    return f"data:image/svg+xml;base64,{base64.b64encode(buffer.getvalue()).decode()}"
