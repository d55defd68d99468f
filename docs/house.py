"""Draws the house from the imports of ``src/labtrail``: ``python -m docs.house docs/house.svg`` (make picture)."""

import ast
import html
import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path

from tests.test_floors import FLOORS, ROOT, graph, sources, wing

_BOX, _GAP, _FLOOR, _MARGIN = (184, 98), 22, 150, 30
_CHARACTERS = 26


def arrows(texts: Mapping[str, str]) -> set[tuple[str, str]]:
    """Pairs (wing, wing that it imports)."""
    pairs = {
        (wing(module), wing(name))
        for module, names in graph(texts).items()
        for name in names
        if module.startswith("labtrail.") and name.startswith("labtrail.")
    }
    return {(above, below) for above, below in pairs if above != below}


def first_line(name: str) -> str:
    """What a wing or module says it is for."""
    path = ROOT / "src/labtrail" / name
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return (ast.get_docstring(ast.parse(path.read_text())) or "").splitlines()[0].replace("``", "")


def positions() -> dict[str, tuple[float, float]]:
    """Wing -> upper left corner of its box; each floor is a row, the ground the lowest."""
    floors = sorted({*FLOORS.values()}, reverse=True)
    rows = [sorted(name for name, floor in FLOORS.items() if floor == row) for row in floors]
    widest = max(map(len, rows))
    places = {}
    for number, names in enumerate(rows):
        start = _MARGIN + (widest - len(names)) * (_BOX[0] + _GAP) / 2
        for index, name in enumerate(names):
            places[name] = (start + index * (_BOX[0] + _GAP), _MARGIN + number * _FLOOR)
    return places


def drawing() -> str:
    """The picture as SVG; the same imports give the same bytes."""
    places = positions()
    width = max(x for x, _ in places.values()) + _BOX[0] + _MARGIN
    height = max(y for _, y in places.values()) + _BOX[1] + _MARGIN
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:g}" height="{height:g}" '
        f'viewBox="0 0 {width:g} {height:g}" font-family="Helvetica, Arial, sans-serif">',
        "<title>The wings of labtrail: each imports only what stands on lower floors</title>",
        f'<rect width="{width:g}" height="{height:g}" fill="#ffffff"/>',
    ]
    parts += [_arrow(places[above], places[below]) for above, below in sorted(arrows(sources()))]
    parts += [_box(name, *place) for name, place in places.items()]
    return "\n".join([*parts, "</svg>", ""])


def _arrow(above: tuple[float, float], below: tuple[float, float]) -> str:
    x1, y1 = above[0] + _BOX[0] / 2, above[1] + _BOX[1]
    x2, y2 = below[0] + _BOX[0] / 2, below[1]
    middle = (y1 + y2) / 2
    curve = f"M {x1:g} {y1:g} C {x1:g} {middle:g}, {x2:g} {middle:g}, {x2:g} {y2:g}"
    return f'<path d="{curve}" fill="none" stroke="#5b7a99" stroke-width="1.1" stroke-opacity="0.45"/>'


def _box(name: str, x: float, y: float) -> str:
    lines = textwrap.wrap(first_line(name), _CHARACTERS, max_lines=5, placeholder=" …")
    words = "".join(
        f'<text x="{x + 10:g}" y="{y + 36 + 13 * number:g}" font-size="10.5" fill="#333333">{html.escape(line)}</text>'
        for number, line in enumerate(lines)
    )
    return (
        f'<rect x="{x:g}" y="{y:g}" width="{_BOX[0]}" height="{_BOX[1]}" rx="5" fill="#f3f6fa" stroke="#5b7a99"/>'
        f'<text x="{x + 10:g}" y="{y + 19:g}" font-size="13" font-weight="bold" fill="#12304f">{name}</text>{words}'
    )


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(drawing())
