"""The results of icon set expansion as text and as sheets of images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8

from rdm_jax.core import sheets
from rdm_jax.core.numbers import plain as plain_number
from rdm_jax.evaluation.icon_set_bench import WORDS, Bench
from rdm_jax.evaluation.icon_set_targets import part
from rdm_jax.evaluation.report import markdown_table, percent, screen_table, with_interval

RATES = ("style", "top1", "top5")
HEADINGS = ("style", "concept top-1", "concept top-5")
LEGEND = (
    "Percent recognized by the classifier, with Wilson's 95 % interval: the style among the held-out ones, the concept "
    "among all captions that it knows. Icons whose caption, alias or tag matches the word are removed from the style "
    "database. Distance: to the designer's own icon, by the classifier's features and by the overlap of the ink. "
    "Copies: percent of images whose ink overlaps an icon of the database more than 99 % of real icons of different "
    "sets do."
)
SHEET_WORDS = 10  # columns of a sheet
OWN = 3  # icons of the style itself, before them


def arm_rows(results: Mapping[str, Any], path: Sequence[str] = ("overall",)) -> list[list[str]]:
    """Returns the table of arms, the designers' own icons first, over all words or over a group of them."""
    rows = [["the designers' own icons", "", *_rates(part(results["real"], path))]]
    rows += [[arm["title"], str(part(arm, path)["style"]["count"]), *_rates(part(arm, path))] for arm in _arms(results)]
    return rows


def distance_rows(results: Mapping[str, Any]) -> list[list[str]]:
    """Returns the table of distances and copies, real icons of different sets first."""
    rows = [["real icons of different sets", "", "", *_copies(results["copies"]["real"])]]
    for arm in _arms(results):
        distances = [_mean(arm["own"][name]) if arm["own"] else "-" for name in ("feature", "ink")]
        rows.append([arm["title"], *distances, *_copies(arm["copies"])])
    return rows


def style_rows(results: Mapping[str, Any], arm: Mapping[str, Any]) -> list[list[str]]:
    """Returns an arm's table by style; the last column is the classifier's accuracy on the style's own icons."""
    own = results["real"]["by_style"]
    return [
        [style, *_rates(found), with_interval(own[style]["style"]) if style in own else "-"]
        for style, found in arm["by_style"].items()
    ]


def target_rows(results: Mapping[str, Any]) -> list[list[str]]:
    """Returns the table of targets: words, what, value, limit, whether it is kept."""
    return [
        [
            one["words"],
            one["text"],
            percent(one["value"]),
            f"{'at most' if one['most'] else 'at least'} {percent(one['limit'])}",
            "kept" if one["kept"] else "not kept",
        ]
        for one in results["targets"]
    ]


def markdown(results: Mapping[str, Any], title: str) -> str:
    """Returns all tables as Markdown."""
    return "\n\n".join([f"# {title}", LEGEND, *_tables(results, markdown_table, "## {}")]) + "\n"


def screen(results: Mapping[str, Any]) -> str:
    """Returns the tables for a terminal."""
    return "\n\n".join([LEGEND, *_tables(results, screen_table, "{}")]) + "\n"


def _tables(results: Mapping[str, Any], table: Any, heading: str) -> Iterator[str]:
    head = ("", "images", *HEADINGS)
    yield heading.format("All words")
    yield table(head, arm_rows(results))
    for group in results["words"]:
        yield heading.format(group.capitalize())
        yield table(head, arm_rows(results, ("by_group", group)))
    yield heading.format("Distance to the own icon, and copies")
    columns = ("", "features", "ink", *(f"copies, {name} database" for name in results["copies"]["real"]))
    yield table(columns, distance_rows(results))
    first = next(iter(_arms(results)))
    yield heading.format(f"{first['title']}, by style")
    yield table(("", *HEADINGS, "own icons, style"), style_rows(results, first))
    yield heading.format(f"Targets of {first['title']}")
    yield table(("words", "target", "value", "limit", ""), target_rows(results))


def sheet(
    bench: Bench, images: UInt8[np.ndarray, "n h w 3"], title: str, group: str, zoom: int = 1
) -> UInt8[np.ndarray, "height width 3"]:
    """Returns a sheet of an arm's images, none of them selected: styles in rows, words of a group in columns.

    The first columns show icons of the style itself, evenly spread over its database.

    Args:
      bench: with the cells.
      images: of the cells.
      title: above the sheet.
      group: of words.
      zoom: every pixel is shown as zoom x zoom pixels.
    """
    words = list(dict.fromkeys(cell.word for cell in bench.cells if cell.group == group))[:SHEET_WORDS]
    numbers = {(cell.style, cell.word): number for number, cell in enumerate(bench.cells)}
    rows = []
    for style, icons in bench.styles.items():
        places = np.linspace(0, len(icons) - 1, OWN + 2).astype(np.int64)[1:-1]
        rows.append(np.concatenate([icons.images[places], images[[numbers[style, word] for word in words]]]))
    columns = [*["the set itself"] * OWN, *words]
    return sheets.grid(
        np.stack(rows), row_labels=list(bench.styles), column_labels=columns, title=f"{title}: {group}", zoom=zoom
    )


def sheet_files(
    bench: Bench, images: Mapping[str, UInt8[np.ndarray, "n h w 3"]], results: Mapping[str, Any]
) -> dict[str, UInt8[np.ndarray, "height width 3"]]:
    """Returns {file name: sheet} of every arm and group of words."""
    groups = [group for group in WORDS if any(cell.group == group for cell in bench.cells)]
    return {
        f"{name}-{group.replace(' ', '-')}.png": sheet(bench, found, results["arms"][name]["title"], group)
        for name, found in images.items()
        for group in groups
    }


def _arms(results: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return list(results["arms"].values())


def _rates(found: Mapping[str, Any]) -> list[str]:
    return [with_interval(found[name]) for name in RATES]


def _copies(found: Mapping[str, Any]) -> list[str]:
    return [f"{with_interval(one)}, median {plain_number(one['median'], 3)}" for one in found.values()]


def _mean(value: Mapping[str, Any]) -> str:
    """Returns a mean as "0.214 (0.201-0.227)"."""
    if value["low"] is None:
        return plain_number(value["mean"], 3)
    return f"{value['mean']:.3f} ({value['low']:.3f}-{value['high']:.3f})"
