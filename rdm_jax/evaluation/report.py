"""The results of a style-swap measurement as text: a table for the screen and for Markdown, and a grid of samples."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8

from rdm_jax.core import numbers, sheets
from rdm_jax.data.style_scenes.vocabulary import STYLES, SUBJECTS
from rdm_jax.evaluation.comparisons import ClassifiedArm

ATTRIBUTES = ("style", "subject", "colour")
HEADINGS = ("style", "subject", "color")
COLUMNS = ("samples", *HEADINGS, "neighbors")
LEGEND = (
    "Percent classified as requested, with Wilson's 95 % interval; color without the styles that show none. Neighbors: "
    "percent with the requested style, subject and color."
)


def arm_rows(results: Mapping[str, Any]) -> list[list[str]]:
    """Returns the table of arms: a row for the classifier on real images and one for each arm, with intervals."""
    classifier = results["classifier"]
    rows = [["real images, held out (the classifier itself)", str(classifier["style"]["count"])]]
    rows[0] += [*(with_interval(classifier[name]) for name in ATTRIBUTES), ""]
    for arm in results["arms"].values():
        cells = [with_interval(arm[name]) + _mark(arm, name) for name in ATTRIBUTES]
        agree = " / ".join(plain(arm["neighbors"][name]["rate"]) for name in ATTRIBUTES)
        rows.append([arm["title"], str(arm["samples"]), *cells, agree])
    if any(results["every_pair"][name]["rate"] is not None for name in ATTRIBUTES):
        pairs = results["every_pair"]["style"]["pairs"]
        rates = [plain(results["every_pair"][name]["rate"]) for name in ATTRIBUTES]
        rows.append([f"all {pairs} pairs of subject and style, the style's database", "", *rates, ""])
    return rows


def comparison_rows(results: Mapping[str, Any]) -> list[list[str]]:
    """Returns the table of comparisons with real images: what, samples, real images."""
    diversity, copies, frechet = results["diversity"], results["copies"], results["frechet"]

    def near(name: str, digits: int) -> list[str]:
        return [f"{copies[f'{who}{name}']['median']:.{digits}f}" for who in ("", "real_")]

    nearer = copies["nearer_than_real"]
    rows = [
        ["Frechet distance to real images", number(frechet["samples"]), number(frechet["real"])],
        [
            "distance of two of one prompt, features",
            *(number(diversity[who]["feature"]) for who in ("samples", "real")),
        ],
        ["distance of two of one prompt, pixels", *(number(diversity[who]["pixel"]) for who in ("samples", "real"))],
        ["the same on one ground, features", "", number(diversity["real_same_ground"]["feature"])],
        ["the same on one ground, pixels", "", number(diversity["real_same_ground"]["pixel"])],
        ["nearest in the database, pixels (median)", *near("rmse", 1)],
        ["nearest in the database, cosine (median)", *near("cosine", 3)],
        ["nearer than the nearest 1 % of real ones", with_interval(nearer), "1.0 %"],
    ]
    return rows


def autoencoder_rows(results: Mapping[str, Any]) -> list[list[str]]:
    """Returns the table of reconstructions: PSNR and style accuracy, over all and by style; empty if not measured."""
    found = results.get("autoencoder")
    if not found:
        return []
    met = {name: "" if good else " (below target)" for name, good in found["met"].items()}
    first = ["all", f"{found['psnr']:.2f}{met['psnr']}", with_interval(found["style"]) + met["style"]]
    return [
        first,
        *([style, f"{of['psnr']:.2f}", with_interval(of["style"])] for style, of in found["by_style"].items()),
    ]


def breakdown_rows(arm: Mapping[str, Any], by: str) -> list[list[str]]:
    """Returns an arm's table by "style" or "subject"."""
    return [[name, *(with_interval(of[attribute]) for attribute in ATTRIBUTES)] for name, of in arm[f"by_{by}"].items()]


def markdown(results: Mapping[str, Any], title: str) -> str:
    """Returns all tables as Markdown, without file names and times."""
    first = next(iter(results["arms"].values()))
    parts = [
        f"# {title}",
        LEGEND,
        markdown_table(("arm", *COLUMNS), arm_rows(results)),
        markdown_table(("", "samples", "real"), comparison_rows(results)),
        f"## {first['title']}, by style",
        markdown_table(("", *HEADINGS), breakdown_rows(first, "style")),
        f"## {first['title']}, by subject",
        markdown_table(("", *HEADINGS), breakdown_rows(first, "subject")),
    ]
    if results.get("autoencoder"):
        rows = autoencoder_rows(results)
        parts += ["## Reconstructions", markdown_table(("style", "PSNR in dB", "style accuracy"), rows)]
    return "\n\n".join(parts) + "\n"


def screen(results: Mapping[str, Any]) -> str:
    """Returns the tables for a terminal."""
    tables = [
        screen_table(("", *COLUMNS), arm_rows(results)),
        screen_table(("", "samples", "real"), comparison_rows(results)),
    ]
    if results.get("autoencoder"):
        tables.append(screen_table(("reconstructions", "PSNR in dB", "style accuracy"), autoencoder_rows(results)))
    missed = targets_missed(results)
    closing = f"below target: {'; '.join(missed)}" if missed else "every target is met"
    return "\n\n".join([LEGEND, *tables, closing]) + "\n"


def targets_missed(results: Mapping[str, Any]) -> list[str]:
    """Returns what is below its target, one phrase each."""
    missed = []
    for arm in results["arms"].values():
        for name, good in arm["met"].items():
            if not good:
                missed.append(
                    f"{arm['title']}: {name} {percent(arm[name]['rate'])}, wanted {percent(arm['targets'][name])}"
                )
    for name, good in results.get("autoencoder", {}).get("met", {}).items():
        if not good:
            missed.append(f"autoencoder: {name}, wanted {results['autoencoder']['targets'][name]}")
    return missed


def grid(classified: Iterable[ClassifiedArm], zoom: int = 2) -> UInt8[np.ndarray, "h2 w2 3"] | None:
    """Returns a sheet with the first sample of every style (rows) and subject (columns) from the style's database.

    Within a column all styles have the same prompt and the same noise. None if there are no such samples.
    """
    found: dict[tuple[str, str], np.ndarray] = {}
    for arm in classified:
        if arm.arm.own_database and not arm.arm.random_neighbors:
            for cell, image in zip(arm.cells, arm.generated.images, strict=True):
                found.setdefault((cell.style, cell.subject), image)
    if not found:
        return None
    height, width = next(iter(found.values())).shape[:2]
    empty = sheets.blank(height, width)
    rows = [np.stack([found.get((style, subject), empty) for subject in SUBJECTS]) for style in STYLES]
    return sheets.grid(np.stack(rows), row_labels=STYLES, column_labels=SUBJECTS, zoom=zoom)


def with_interval(value: Mapping[str, Any]) -> str:
    """Returns a proportion as "97.1 (95.9-98.0)", in percent; "-" if its count is 0."""
    if value["rate"] is None:
        return "-"
    return f"{100 * value['rate']:.1f} ({100 * value['low']:.1f}-{100 * value['high']:.1f})"


def plain(rate: float | None) -> str:
    """Returns a rate in percent as "97.1"."""
    return "-" if rate is None else f"{100 * rate:.1f}"


def percent(rate: float | None) -> str:
    """Returns a rate as "97.1 %"."""
    return "-" if rate is None else f"{100 * rate:.1f} %"


def number(value: float | None) -> str:
    """Returns a number in four digits, "-" if there is none."""
    return "-" if value is None else numbers.plain(value)


def _mark(arm: Mapping[str, Any], name: str) -> str:
    if name in arm["at_chance"]:
        return f" [chance {100 * arm['at_chance'][name]:.1f}]"
    if name in arm["met"]:
        return "" if arm["met"][name] else f" [below {100 * arm['targets'][name]:.0f}]"
    return ""


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns a table as Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def screen_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns a table in columns of equal width."""
    widths = [max(len(line[column]) for line in [head, *rows]) for column in range(len(head))]
    lines = [head, ["-" * width for width in widths], *rows]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )
