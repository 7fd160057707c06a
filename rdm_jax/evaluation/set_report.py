"""The metrics of a set of images as text: a table for the screen and for Markdown, and all that defines the numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rdm_jax.core import numbers

LEGEND = (
    "Bootstrap intervals, of fractions Wilson's; std is over the subsets of a kernel distance, or the parts of a class "
    "score."
)
HEADINGS = ("metric", "value", "95 % interval", "std", "better")
STAND_IN = (
    "No published feature network was given: {names} {verb} in. These numbers compare runs of this project with each "
    "other, and with no number of a paper."
)
CONVERT = (
    "rdm convert pt_inception-2015-12-05-6726825d.pth --out inception, and --features inception, give FID, KID and "
    "Inception Score"
)
FOREIGN = "The reference is statistics of another program, which do not say how its images were resized."


def remarks(results: Mapping[str, Any]) -> list[str]:
    """Returns what a reader must know before the numbers, a sentence each."""
    found = list(results["remarks"])
    names = stand_ins(results)
    if names:
        found.insert(0, STAND_IN.format(names=" and ".join(names), verb="stands" if len(names) == 1 else "stand"))
    few = sorted({name for row in results["metrics"] for name in row["parameters"].get("too_few_images", ())})
    if few:
        found.append(f"Fréchet distances are biased: {' and '.join(few)} has fewer images than the covariance needs.")
    if (results.get("reference") or {}).get("foreign"):
        found.append(FOREIGN)
    return found


def stand_ins(results: Mapping[str, Any]) -> list[str]:
    """Returns the networks of the project that stand in for published ones."""
    return sorted({row["network"] for row in results["metrics"] if row.get("stand_in")})


def rows(results: Mapping[str, Any]) -> list[list[str]]:
    """Returns the table: metric, value, interval, standard deviation over subsets, and which direction is better."""
    found = []
    for row in results["metrics"]:
        interval = "" if row["low"] is None else f"{numbers.plain(row['low'])} to {numbers.plain(row['high'])}"
        std = "" if row["std"] is None else numbers.plain(row["std"])
        found.append([row["title"], numbers.plain(row["value"]), interval, std, row["better"]])
    return found


def screen(results: Mapping[str, Any]) -> str:
    """Returns the remarks and a line for each number."""
    lines = [*remarks(results)]
    for title, value, interval, std, _ in rows(results):
        extra = f" ({interval})" if interval else f" ± {std}" if std else ""
        lines.append(f"{title}: {value}{extra}, {_counts(results)}")
    return "\n".join(lines)


def _counts(results: Mapping[str, Any]) -> str:
    images, reference = results["images"], results.get("reference")
    against = f" against {reference['name']} ({reference.get('images', 'unknown')})" if reference else ""
    return f"{images['images']} images{against}"


def markdown(results: Mapping[str, Any], title: str) -> str:
    """Returns the table in Markdown, after the remarks and before what defines its numbers."""
    parts = [f"# {title}", *(f"> {remark}" for remark in remarks(results))]
    table = [_line(HEADINGS), _line(["---"] * len(HEADINGS)), *(_line(row) for row in rows(results))]
    parts.append("\n".join(table))
    parts.append(LEGEND)
    parts += ["## What defines these numbers", "\n".join(f"- {name}: {value}" for name, value in definition(results))]
    return "\n\n".join(parts) + "\n"


def definition(results: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Returns (name, value) of what another program needs to compute the same numbers."""
    found = [("implementation", results["implementation"])]
    for role in ("images", "reference", "training"):
        if results.get(role):
            found.append((role, _flat(results[role])))
    found += [("features", _flat(network)) for network in results["features"]]
    found += [(f"parameters of {row['title']}", _flat(row["parameters"])) for row in results["metrics"]]
    found += [(name, _flat(value)) for name, value in (results.get("generation") or {}).items()]
    return found


def _flat(value: Any) -> str:
    if isinstance(value, Mapping):
        return "; ".join(f"{key} {_flat(one)}" for key, one in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(map(_flat, value)) or "none"
    return str(value)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
