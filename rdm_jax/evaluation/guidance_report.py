"""The results of a guidance measurement as text, as curves, and as a grid of pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8

from rdm_jax.core import sheets
from rdm_jax.evaluation.gallery import Target
from rdm_jax.evaluation.plots import Curve, Panel, plot
from rdm_jax.evaluation.report import markdown_table, screen_table, share
from rdm_jax.evaluation.seen import PLACES, Seen, figure

LEGEND = (
    "Every method beside the run without it from the same noise. Shares in percent, with Wilson's 95 % interval; means "
    "with theirs. caption@k, picture@k: the reference is among the first k of a gallery by the model's clean CLIP, "
    "which taught the noised tower and is not it; judged@k: by the features of the judge, which shares nothing with "
    "them. gram: distance of the Gram matrices of the judge's maps to the reference's, relative. low: difference of "
    "means over 16x16 pixels, in levels of 255. layout: correlation of brightness over 4x4 pixels. diversity: mean "
    "distance of two pictures of one reference in the judge's features (in the place of LPIPS). frechet: Frechet "
    "distance to the gallery in the same features. moved: distance to the run without the method, in the judge's "
    "features, and in pixels. seam: difference of neighbouring pixels across the border, over that beside it."
)
PROMISE_HEAD = ("method", "figure", "promised", "without", "with", "kept")
PAPER_HEAD = ("", "FD", "diversity", *(f"top-{k}" for k in PLACES))
COLUMNS = 3  # targets in the grid
Rows = list[list[str]]


def promise_rows(results: Mapping[str, Any]) -> Rows:
    """Returns a row for each promise of each method; those left out say why."""
    rows = []
    for method in results["methods"].values():
        if "left_out" in method:
            rows.append([method["title"], "-", "-", "-", "-", f"left out: {method['left_out']}"])
            continue
        for one in method["promises"]:
            without, with_ = (value(one[side]) for side in ("without", "with"))
            rows.append([method["title"], one["figure"], one["direction"], without, with_, one["kept"]])
    return rows


def paper_rows(results: Mapping[str, Any]) -> Rows:
    """Returns the table of Liu et al. 2021 (https://arxiv.org/abs/2112.05744) in form, on these pictures."""
    methods = results["methods"]
    chosen = {name: _chosen(method) for name, method in methods.items() if "left_out" not in method}
    free = next((m["rows"][0] for m in methods.values() if m.get("base") == "free"), None)
    wanted = [
        ("real pictures", results["real"], ""),
        ("unguided, pictures", free, "picture"),
        ("ILVR", chosen.get("ilvr"), "picture"),
        ("SDG, picture", chosen.get("content"), "picture"),
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
    """Returns the head and the rows of a method's own table; figures that nothing was found for are left out."""
    found = [name for name in method["figures"] if any(row.get(name) is not None for row in method["rows"])]
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
        [[row["what"], *(_of(row, name) for name in names), _of(row, "apart")] for row in rows],
    )


def markdown(results: Mapping[str, Any], title: str) -> str:
    """Returns all tables as Markdown, without file names and times."""
    gallery = results["gallery"]
    said = (
        f"{len(gallery['targets'])} references and prompts, {gallery['images']} pictures of each; a gallery of "
        f"{gallery['pictures']} pictures and {gallery['captions']} captions. Style is the attribute "
        f"{gallery['hand'] or '(none)'}; the Frechet distance of {results['real']['count']} other real pictures is "
        f"{_of(results['real'], 'frechet')}, the seam of the references {_of(results['real'], 'seam')}."
    )
    parts = [f"# {title}", LEGEND, said, markdown_table(PROMISE_HEAD, promise_rows(results))]
    parts += ["## The table of the paper, in form", markdown_table(PAPER_HEAD, paper_rows(results))]
    for method in results["methods"].values():
        if "left_out" not in method:
            parts += [f"## {method['title']}", markdown_table(*method_rows(method))]
    parts += ["## Few steps and many", markdown_table(*sampler_rows(results)), sampler_verdict(results)]
    return "\n\n".join(parts) + "\n"


def screen(results: Mapping[str, Any]) -> str:
    """Returns the tables of promises, of the paper and of the samplers for a terminal."""
    tables = [
        screen_table(PROMISE_HEAD, promise_rows(results)),
        screen_table(PAPER_HEAD, paper_rows(results)),
        screen_table(*sampler_rows(results)),
    ]
    return "\n\n".join([*tables, sampler_verdict(results)]) + "\n"


def sampler_verdict(results: Mapping[str, Any]) -> str:
    """Returns whether few steps reach many, as a sentence."""
    long, other, few = results["samplers"]["rows"][:3]
    verb = "reaches" if results["samplers"]["reached"] else "does not reach"
    return (
        f"{few['what']}, {verb} {long['what']}: its pictures are {_of(few, 'apart')} from those of the long run, where "
        f"a second long run from other noise is {_of(other, 'apart')} from the first."
    )


def curves(results: Mapping[str, Any]) -> UInt8[np.ndarray, "h w 3"] | None:
    """Draws quality against alignment over the weight: the Frechet distance over retrieval, and over style.

    None where nothing was drawn with a weight.
    """
    methods = {name: method for name, method in results["methods"].items() if "left_out" not in method}
    floor = results["real"]["frechet"]
    level = None if floor is None else (floor, "real pictures")
    looked = {
        "language": "caption@10",
        "clip-language": "caption@10",
        "content": "picture@10",
        "ilvr": "picture@10",
    }
    found = [curve_of(methods[name], key) for name, key in looked.items() if name in methods]
    styled = [curve_of(methods[name], "style") for name in ("style", "hand", "classifier", "clip") if name in methods]
    y = "Frechet distance to real pictures, judge's features"
    panels = [
        Panel("Alignment: the reference among the first 10", "%", y, [one for one in found if one], level),
        Panel("Alignment: style named as wanted", "%", y, [one for one in styled if one], level),
    ]
    return plot(panels) if any(panel.curves for panel in panels) else None


def curve_of(method: Mapping[str, Any], key: str) -> Curve | None:
    """Returns (100 times a figure, Frechet distance) of a method, from no guidance on over its weights."""
    rows = [row for row in method["rows"] if row["what"] == "unguided" or "weight" in row]
    if any(figure(row, key) is None for row in rows):
        return None
    points = [(100 * float((figure(row, key) or (0.0,))[0]), float(row["frechet"])) for row in rows]
    return Curve(method["title"], points, ["0" if "weight" not in row else f"{row['weight']:g}" for row in rows])


def grid(
    targets: Sequence[Target], images: int, shown: Mapping[str, Mapping[str, Seen]], results: Mapping[str, Any]
) -> UInt8[np.ndarray, "h w 3"]:
    """Draws a row for each method: for some targets the reference, the first picture without it and with it."""
    rows, labels, titles = [], [], []
    for name, drawn in shown.items():
        cells, texts = [], []
        for number, target in enumerate(targets[:COLUMNS]):
            first = number * images
            cells += [target.image, drawn["unguided"].images[first], drawn["guided"].images[first]]
            texts += [_asked(name, target), "", ""]
        rows.append(np.stack(cells))
        labels.append(texts)
        titles.append(results["methods"][name]["title"])
    columns = ["reference", "unguided", "guided"] * min(COLUMNS, len(targets))
    return sheets.grid(np.stack(rows), row_labels=titles, column_labels=columns, cell_labels=labels)


def _asked(method: str, target: Target) -> str:
    """Returns what a method asks for in words, "" where the picture says it."""
    if method in ("hand", "clip", "classifier"):
        return target.hand
    if method in ("switch", "mix"):
        return target.changed
    return target.caption if method in ("language", "clip-language") else ""


def _chosen(method: Mapping[str, Any]) -> Mapping[str, Any]:
    return next(row for row in method["rows"] if row.get("weight") == method["weight"])


def _of(row: Mapping[str, Any], name: str) -> str:
    return value(row.get(name))


def value(found: Any) -> str:
    """Returns a figure as text: a share in percent, a mean with its interval, a number in four digits."""
    if found is None:
        return "-"
    if isinstance(found, Mapping) and "rate" in found:
        return share(found)
    if isinstance(found, Mapping):
        ends = "" if found["low"] is None else f" ({found['low']:.3g}-{found['high']:.3g})"
        return f"{found['mean']:.3g}{ends}"
    return f"{found:.4g}"
