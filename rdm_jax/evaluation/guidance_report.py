"""The results of a guidance measurement as text, as curves, and as a grid of images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8

from rdm_jax.core import sheets
from rdm_jax.core.numbers import plain
from rdm_jax.evaluation.gallery import Target
from rdm_jax.evaluation.measures import PLACES, EncodedImages, interval_of
from rdm_jax.evaluation.plots import Curve, Panel, plot
from rdm_jax.evaluation.report import markdown_table, screen_table, with_interval

LEGEND = (
    "Every method beside the run without it from the same noise. Proportions in percent with Wilson's 95 % interval, "
    "means with theirs. caption@k, image@k: the reference is among the first k of a gallery by the model's clean CLIP, "
    "the teacher of the noised tower; classifier@k: by the features of the classifier, which is independent of both. "
    "gram: relative distance of the Gram matrices of the classifier's feature maps to the reference's. low: difference "
    "of means over 16x16 pixels, in levels of 255. layout: correlation of brightness over 4x4 pixels. diversity: mean "
    "distance of two images of one reference in the classifier's features (in place of LPIPS). frechet: Frechet "
    "distance to the gallery in the same features. moved: distance to the run without the method, in the classifier's "
    "features, and in pixels. seam: difference of adjacent pixels across the border, over that beside it."
)
EFFECT_HEAD = ("method", "measure", "expected", "without", "with", "observed")
PAPER_HEAD = ("", "FD", "diversity", *(f"top-{k}" for k in PLACES))
COLUMNS = 3  # targets in the grid
Rows = list[list[str]]


def effect_rows(results: Mapping[str, Any]) -> Rows:
    """Returns a row for each expected effect of each method, and the reason for each method that is left out."""
    rows = []
    for method in results["methods"].values():
        if "left_out" in method:
            rows.append([method["title"], "-", "-", "-", "-", f"left out: {method['left_out']}"])
            continue
        for effect in method["effects"]:
            without, with_ = (value(effect[side]) for side in ("without", "with"))
            rows.append([method["title"], effect["measure"], effect["direction"], without, with_, effect["observed"]])
    return rows


def paper_rows(results: Mapping[str, Any]) -> Rows:
    """Returns the table of Liu et al. 2021 (https://arxiv.org/abs/2112.05744) for these images."""
    methods = results["methods"]
    chosen = {name: _chosen(method) for name, method in methods.items() if "left_out" not in method}
    free = next((m["rows"][0] for m in methods.values() if m.get("base") == "free"), None)
    wanted = [
        ("real images", results["real"], ""),
        ("unguided, images", free, "image"),
        ("ILVR", chosen.get("ilvr"), "image"),
        ("SDG, image", chosen.get("content"), "image"),
        ("unguided, texts", free, "caption"),
        ("CLIP alone, text", results["alone"], "caption"),
        ("SDG, text", chosen.get("language"), "caption"),
    ]
    return [
        [name, _of(row, "frechet"), _of(row, "diversity"), *(_of(row, f"{kind}@{k}") for k in PLACES)]
        for name, row, kind in wanted
        if row is not None
    ]


def method_rows(method: Mapping[str, Any]) -> tuple[list[str], Rows]:
    """Returns the head and the rows of a method's own table, without measures that no row has."""
    found = [name for name in method["measures"] if any(row.get(name) is not None for row in method["rows"])]
    marked = method["weight"] if len(method["rows"]) > 2 else None
    rows = [
        [row["what"] + (" (used)" if marked is not None and row.get("weight") == marked else "")]
        + [_of(row, name) for name in found]
        for row in method["rows"]
    ]
    return ["", *found], rows


def sampler_rows(results: Mapping[str, Any]) -> tuple[list[str], Rows]:
    """Returns the head and the rows of the comparison of few and many steps."""
    rows = results["samplers"]["rows"]
    names = [name for name in ("subject", "colour", "style", "frechet", "moved_pixels") if any(name in r for r in rows)]
    return (
        ["", *names, "to the first row"],
        [[row["what"], *(_of(row, name) for name in names), _of(row, "distance")] for row in rows],
    )


def markdown(results: Mapping[str, Any], title: str) -> str:
    """Returns all tables as Markdown, without file names and times."""
    gallery = results["gallery"]
    setup = (
        f"{len(gallery['targets'])} references and prompts, {gallery['images']} images of each; a gallery of "
        f"{gallery['gallery_images']} images and {gallery['captions']} captions. Style is the attribute "
        f"{gallery['style'] or '(none)'}; the Frechet distance of {results['real']['count']} other real images is "
        f"{_of(results['real'], 'frechet')}, the seam of the references {_of(results['real'], 'seam')}."
    )
    parts = [f"# {title}", LEGEND, setup, markdown_table(EFFECT_HEAD, effect_rows(results))]
    parts += ["## The table of the paper, for these images", markdown_table(PAPER_HEAD, paper_rows(results))]
    for method in results["methods"].values():
        if "left_out" not in method:
            parts += [f"## {method['title']}", markdown_table(*method_rows(method))]
    parts += ["## Few steps and many", markdown_table(*sampler_rows(results)), sampler_conclusion(results)]
    return "\n\n".join(parts) + "\n"


def screen(results: Mapping[str, Any]) -> str:
    """Returns the tables of effects, of the paper and of the samplers for a terminal."""
    tables = [
        screen_table(EFFECT_HEAD, effect_rows(results)),
        screen_table(PAPER_HEAD, paper_rows(results)),
        screen_table(*sampler_rows(results)),
    ]
    return "\n\n".join([*tables, sampler_conclusion(results)]) + "\n"


def sampler_conclusion(results: Mapping[str, Any]) -> str:
    """Returns whether few steps reach the result of many, as a sentence."""
    long, other, few = results["samplers"]["rows"][:3]
    verb = "reaches" if results["samplers"]["reached"] else "does not reach"
    return (
        f"{few['what']}, {verb} {long['what']}: its images are {_of(few, 'distance')} from those of the long run; a "
        f"second long run from other noise is {_of(other, 'distance')} from the first."
    )


def curves(results: Mapping[str, Any]) -> UInt8[np.ndarray, "h w 3"] | None:
    """Plots quality against alignment over the weight: the Frechet distance over retrieval, and over style.

    None if no method has a weight.
    """
    methods = {name: method for name, method in results["methods"].items() if "left_out" not in method}
    floor = results["real"]["frechet"]
    level = None if floor is None else (floor, "real images")
    measures = {
        "language": "caption@10",
        "clip-language": "caption@10",
        "content": "image@10",
        "ilvr": "image@10",
    }
    found = [curve_of(methods[name], key) for name, key in measures.items() if name in methods]
    styled = [
        curve_of(methods[name], "style") for name in ("style", "named-style", "classifier", "clip") if name in methods
    ]
    y = "Frechet distance to real images, classifier's features"
    panels = [
        Panel("Alignment: the reference among the first 10", "%", y, [curve for curve in found if curve], level),
        Panel("Alignment: style classified as wanted", "%", y, [curve for curve in styled if curve], level),
    ]
    return plot(panels) if any(panel.curves for panel in panels) else None


def curve_of(method: Mapping[str, Any], key: str) -> Curve | None:
    """Returns the curve (100 times a measure, Frechet distance) of a method, without guidance and over its weights."""
    rows = [row for row in method["rows"] if row["what"] == "unguided" or "weight" in row]
    if any(interval_of(row, key) is None for row in rows):
        return None
    points = [(100 * float((interval_of(row, key) or (0.0,))[0]), float(row["frechet"])) for row in rows]
    return Curve(method["title"], points, ["0" if "weight" not in row else f"{row['weight']:g}" for row in rows])


def grid(
    targets: Sequence[Target], images: int, shown: Mapping[str, Mapping[str, EncodedImages]], results: Mapping[str, Any]
) -> UInt8[np.ndarray, "h w 3"]:
    """Returns a sheet with a row for each method: some targets' references and first images, without it and with it."""
    rows, labels, titles = [], [], []
    for name, generated in shown.items():
        cells, texts = [], []
        for number, target in enumerate(targets[:COLUMNS]):
            first = number * images
            cells += [target.image, generated["unguided"].images[first], generated["guided"].images[first]]
            texts += [_request(name, target), "", ""]
        rows.append(np.stack(cells))
        labels.append(texts)
        titles.append(results["methods"][name]["title"])
    columns = ["reference", "unguided", "guided"] * min(COLUMNS, len(targets))
    return sheets.grid(np.stack(rows), row_labels=titles, column_labels=columns, cell_labels=labels)


def _request(method: str, target: Target) -> str:
    """Returns the text that a method aims at, "" if it is the reference image."""
    if method in ("named-style", "clip", "classifier"):
        return target.style
    if method in ("switch", "mix"):
        return target.changed
    return target.caption if method in ("language", "clip-language") else ""


def _chosen(method: Mapping[str, Any]) -> Mapping[str, Any]:
    return next(row for row in method["rows"] if row.get("weight") == method["weight"])


def _of(row: Mapping[str, Any], name: str) -> str:
    return value(row.get(name))


def value(found: Any) -> str:
    """Returns a measure as text: a proportion in percent, a mean with its interval, a number in four digits."""
    if found is None:
        return "-"
    if isinstance(found, Mapping) and "rate" in found:
        return with_interval(found)
    if isinstance(found, Mapping):
        ends = "" if found["low"] is None else f" ({plain(found['low'], 3)}-{plain(found['high'], 3)})"
        return f"{plain(found['mean'], 3)}{ends}"
    return plain(found)
