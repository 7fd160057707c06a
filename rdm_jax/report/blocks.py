"""The parts of a report, rendered as Markdown with files beside it or as one HTML file that needs no other."""

from __future__ import annotations

import base64
import dataclasses
import html
import re
from collections.abc import Sequence

from rdm_jax.core import text as text_lines

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #26262a; background: #fff; max-width: 76rem; margin: 2rem auto;
  padding: 0 1rem; }
table { border-collapse: collapse; display: block; overflow-x: auto; margin: 1rem 0; }
th, td { border: 1px solid #d8d8d4; padding: .3rem .6rem; text-align: left; vertical-align: top;
  overflow-wrap: anywhere; }
th { background: #f6f6f4; }
figure { margin: 1.5rem 0; }
img { max-width: 100%; }
figcaption { color: #5a5a60; }
"""


@dataclasses.dataclass(frozen=True)
class Heading:
    """A heading.

    Attributes:
      level: 1 is the title.
      text: of it.
    """

    level: int
    text: str


@dataclasses.dataclass(frozen=True)
class Paragraph:
    """A paragraph of plain text."""

    text: str


@dataclasses.dataclass(frozen=True)
class Items:
    """A list of lines of plain text."""

    lines: Sequence[str]


@dataclasses.dataclass(frozen=True)
class Table:
    """A table of plain text."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclasses.dataclass(frozen=True)
class File:
    """A file beside the Markdown, which the HTML file contains.

    Attributes:
      name: with its suffix; each is used once in a report.
      data: its content.
      caption: below an image, or what the link to another file says.
    """

    name: str
    data: bytes
    caption: str

    @property
    def is_image(self) -> bool:
        """Whether it is shown rather than linked."""
        return self.name.endswith(".png")


Block = Heading | Paragraph | Items | Table | File


def markdown(blocks: Sequence[Block], folder: str) -> str:
    """Returns a report as Markdown.

    Args:
      blocks: of the report.
      folder: of its files, relative to the Markdown.
    """
    return "\n\n".join(_markdown(block, folder) for block in blocks) + "\n"


def page(blocks: Sequence[Block], title: str) -> str:
    """Returns a report as one HTML file with its files inside: it loads nothing and runs no script."""
    body = "\n".join(map(_html, blocks))
    head = f'<meta charset="utf-8"><title>{html.escape(title)}</title><style>{STYLE}</style>'
    return f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head>\n<body>\n{body}\n</body></html>\n'


def parse(markdown: str, below: int) -> list[Block]:
    """Returns the blocks of Markdown as the measures of this package write it: headings, tables, lists, paragraphs.

    Args:
      markdown: the text.
      below: added to the levels of its headings.
    """
    found: list[Block] = []
    for part in re.split(r"\n\s*\n", "\n".join(text_lines.lines(markdown)).strip()):
        lines = [line.strip() for line in part.split("\n") if line.strip()]
        if lines and lines[0].startswith("#"):
            marks, _, words = lines[0].partition(" ")
            found.append(Heading(len(marks) + below, words))
            lines = lines[1:]
        if not lines:
            continue
        if lines[0].startswith("|"):
            cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
            found.append(Table(cells[0], cells[2:]))
        elif all(line.startswith("- ") for line in lines):
            found.append(Items([line[2:] for line in lines]))
        else:
            found.append(Paragraph(" ".join(line.removeprefix("> ") for line in lines)))
    return found


def _markdown(block: Block, folder: str) -> str:
    match block:
        case Heading(level, text):
            return f"{'#' * level} {text}"
        case Paragraph(text):
            return text
        case Items(lines):
            return "\n".join(f"- {line}" for line in lines)
        case Table(head, rows):
            return "\n".join(_row(cells) for cells in (head, ["---"] * len(head), *rows))
        case File(name, _, caption):
            return f"{'!' if block.is_image else ''}[{caption}]({folder}/{name})"


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def _html(block: Block) -> str:
    match block:
        case Heading(level, text):
            size = min(level, 6)
            return f"<h{size}>{html.escape(text)}</h{size}>"
        case Paragraph(text):
            return f"<p>{html.escape(text)}</p>"
        case Items(lines):
            return f"<ul>{''.join(f'<li>{html.escape(line)}</li>' for line in lines)}</ul>"
        case Table(head, rows):
            top = "".join(f"<th>{html.escape(cell)}</th>" for cell in head)
            body = "".join(f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
            return f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"
        case File(name, data, caption):
            return _html_file(block.is_image, name, data, html.escape(caption))


def _html_file(is_image: bool, name: str, data: bytes, caption: str) -> str:
    encoded = base64.b64encode(data).decode()
    if is_image:
        shown = f'<img alt="{caption}" src="data:image/png;base64,{encoded}">'
        return f"<figure>{shown}<figcaption>{caption}</figcaption></figure>"
    return f'<p><a download="{html.escape(name)}" href="data:text/csv;base64,{encoded}">{caption}</a></p>'
