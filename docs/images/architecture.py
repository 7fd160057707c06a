"""Writes docs/images/architecture.svg: the folders of the package on their floors, and what imports what.

python -m docs.images.architecture

The imports are read from the files. An edge that a longer path implies is left out.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from html import escape
from pathlib import Path

from tests.helpers.import_graph import FLOORS, PACKAGE, folder_graph, reachable

FILE = Path(__file__).with_suffix(".svg")
WIDTH, ROW, HEIGHT, LETTER, MARGIN = 760, 58, 30, 8.4, 20
HIDDEN = {"__main__"}  # it calls the command line
STYLE = """
svg { background: white }
rect { fill: #eef3fb; stroke: #3b5b92; rx: 5 }
text { font: 14px ui-monospace, monospace; text-anchor: middle; fill: #1b2a41 }
path { fill: none; stroke: #8a9bb8; stroke-width: 1.4; marker-end: url(#tip) }
"""
TIP = (
    '<defs><marker id="tip" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
    '<polygon points="0,0 8,4 0,8" fill="#8a9bb8"/></marker></defs>'
)

Place = tuple[float, float]


def edges(graph: Mapping[str, set[str]]) -> dict[str, set[str]]:
    """Returns a graph without the edges that a path through another node implies.

    A path through a node that leads back implies nothing: two nodes that import each other would both lose the rest.
    """
    reached = {node: reachable(dict(graph), node) for node in graph}
    below = {node: {end for end in ends if node not in reached[end]} for node, ends in graph.items()}
    return {
        node: {end for end in ends if not any(end in reached[other] for other in below[node] - {end})}
        for node, ends in graph.items()
    }


def places() -> dict[str, Place]:
    """Returns the center of each folder; the floors are rows, the ground is the last one."""
    rows = [[name for name in names if name not in HIDDEN] for names in reversed(FLOORS)]
    return {
        name: (WIDTH * (i + 1) / (len(names) + 1), MARGIN + ROW * row + HEIGHT / 2)
        for row, names in enumerate(rows)
        for i, name in enumerate(names)
    }


def half(name: str) -> float:
    """Returns half the width of a folder's box."""
    return LETTER * len(name) / 2 + 12


def purpose(name: str) -> str:
    """Returns the first line of a folder's or a module's docstring."""
    folder = PACKAGE / name / "__init__.py"
    file = folder if folder.exists() else PACKAGE / f"{name}.py"
    return (ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or "").partition("\n")[0]


def edge(start: str, end: str, at: Mapping[str, Place]) -> str:
    """Returns the arrow from a folder to one that it imports from."""
    (x0, y0), (x1, y1) = at[start], at[end]
    if y0 == y1:
        side = 1 if x1 > x0 else -1
        shift = -side * 5  # arrows in both directions lie beside each other
        x0, x1 = x0 + side * half(start), x1 - side * half(end)
        return f'<path d="M{x0:.0f},{y0 + shift:.0f} L{x1:.0f},{y1 + shift:.0f}"/>'
    y0, y1 = y0 + HEIGHT / 2, y1 - HEIGHT / 2
    middle = (y1 - y0) / 2
    return f'<path d="M{x0:.0f},{y0:.0f} C{x0:.0f},{y0 + middle:.0f} {x1:.0f},{y1 - middle:.0f} {x1:.0f},{y1:.0f}"/>'


def box(name: str, place: Place) -> str:
    """Returns a folder's box with its name; its purpose is shown under the pointer."""
    x, y = place
    corner = f'x="{x - half(name):.0f}" y="{y - HEIGHT / 2:.0f}" width="{2 * half(name):.0f}" height="{HEIGHT}"'
    title = f"<title>{escape(purpose(name))}</title>"
    return f'<g>{title}<rect {corner}/><text x="{x:.0f}" y="{y + 5:.0f}">{name}</text></g>'


def lines() -> Iterator[str]:
    """Yields the lines of the file."""
    at = places()
    height = 2 * MARGIN + ROW * (len(FLOORS) - 1) + HEIGHT
    yield f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}">'
    yield f"<style>{STYLE}</style>"
    yield TIP
    yield f'<rect x="0" y="0" width="{WIDTH}" height="{height}" style="fill: white; stroke: none"/>'
    graph = {name: ends - HIDDEN for name, ends in folder_graph().items() if name not in HIDDEN}
    yield from (edge(name, end, at) for name, ends in edges(graph).items() for end in sorted(ends))
    yield from (box(name, place) for name, place in at.items())
    yield "</svg>"


def svg() -> str:
    """Returns the content of the file."""
    return "\n".join(lines()) + "\n"


if __name__ == "__main__":
    FILE.write_text(svg(), encoding="utf-8")
