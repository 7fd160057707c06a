"""CLIP-score by category: prompts of a file in PartiPrompts' format, or the captions of real images.

The protocol of TeTIm-Eval (https://arxiv.org/abs/2212.07839): equally many captions of each category, the mean cosine
of caption and image for each, and real images of the same captions as the ceiling. The floor is the mean cosine with
the captions of the other images.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from rdm_jax.core import numbers, text
from rdm_jax.core.errors import UserError, some, unknown
from rdm_jax.core.vectors import unit
from rdm_jax.data.examples import ImageSource
from rdm_jax.evaluation.metric_row import HIGHER, mean_row
from rdm_jax.evaluation.report import markdown_table, screen_table

COLUMNS = ("Prompt", "Category", "Challenge")  # of PartiPrompts; `Challenge` may be missing, others are ignored
ALL = "all"
FLOOR, CEILING = "captions of other images", "real images"

Vectors = Float[np.ndarray, "n d"]


@dataclasses.dataclass(frozen=True)
class Prompt:
    """A prompt of a benchmark.

    Attributes:
      text: of it.
      category: that its score counts for.
      challenge: a second category, "" without.
    """

    text: str
    category: str
    challenge: str = ""


def read_table(written: str, name: str) -> list[Prompt]:
    """Returns the prompts of a table with tabs between its columns; quotes have no meaning.

    Args:
      written: the table; its first line names the columns.
      name: of the file, for messages.

    Raises:
      UserError: a column is missing, a line has too few, or there are no prompts or the same one twice.
    """
    lines = [line for line in text.lines(written) if line.strip()]
    head = [column.strip() for column in lines[0].split("\t")] if lines else []
    missing = [column for column in COLUMNS[:2] if column not in head]
    if missing:
        raise UserError(
            f"{name} has no column {' and no column '.join(missing)}; its first line names the columns with tabs "
            f"between them: {', '.join(COLUMNS)}"
        )
    places = {column: head.index(column) for column in COLUMNS if column in head}
    prompts = []
    for number, line in enumerate(lines[1:], start=2):
        cells = [cell.strip() for cell in line.split("\t")]
        found = {column: cells[place] if place < len(cells) else "" for column, place in places.items()}
        if not (found["Prompt"] and found["Category"]):
            raise UserError(f"{name}, line {number} has no prompt or no category; write both with a tab between them")
        prompts.append(Prompt(found["Prompt"], found["Category"], found.get("Challenge", "")))
    if not prompts:
        raise UserError(f"{name} has no prompts below its first line")
    return prompts


def write_table(prompts: Sequence[Prompt]) -> str:
    """Returns prompts as a table that `read_table` reads."""
    rows = [COLUMNS, *((prompt.text, prompt.category, prompt.challenge) for prompt in prompts)]
    return "".join("\t".join(row) + "\n" for row in rows)


def choose(source: ImageSource, attribute: str, each: int, seed: int = 0) -> tuple[list[Prompt], Int[np.ndarray, " n"]]:
    """Returns the captions of random images, equally many of each category, and the rows of the images.

    Args:
      source: of the images.
      attribute: that names the category.
      each: images of each category, all with different captions; categories that have fewer are omitted.
      seed: of the choice.

    Raises:
      UserError: images have no such attribute, or no category has as many captions.
    """
    labels = [source.labels(row) for row in range(len(source))]
    if not any(label.get(attribute) for label in labels):
        raise unknown("attribute", attribute, {key for label in labels for key in label} - {"path", "caption"})
    order = np.random.default_rng(seed).permutation(len(labels)).tolist()
    chosen: dict[str, dict[str, int]] = {}
    for row in order:
        caption, category = labels[row].get("caption"), labels[row].get(attribute)
        of_category = chosen.setdefault(category, {}) if caption and category else {}
        if caption and len(of_category) < each:
            of_category.setdefault(caption, row)
    complete = {name: rows for name, rows in sorted(chosen.items()) if len(rows) == each}
    if not complete:
        most = max(map(len, chosen.values()), default=0)
        raise UserError(
            f"no {attribute} of {source.name} has {each} different captions, {most} are the most; give fewer of each"
        )
    prompts = [Prompt(caption, name) for name, rows in complete.items() for caption in rows]
    return prompts, np.array([row for rows in complete.values() for row in rows.values()])


def score_rows(
    prompts: Sequence[Prompt],
    texts: Vectors,
    images: Float[np.ndarray, "m d"],
    of_image: Int[np.ndarray, " m"],
    real: Vectors | None,
    title: str,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Returns the scores of all categories, of all challenges and of all prompts, as rows of a table of metrics.

    Args:
      prompts: of the benchmark.
      texts: the vector of each prompt.
      images: vectors of the images.
      of_image: the number of each image's prompt.
      real: vectors of the real images with these captions, where there are such.
      title: of the score; it names the network.
      seed: of the bootstrap.
    """
    queries = unit(texts.astype(np.float64))
    own, other = _cosines(images, queries, of_image)
    kinds = {"": (own, of_image), FLOOR: (other, of_image)}
    if real is not None:
        kinds[CEILING] = (_cosines(real, queries, np.arange(len(prompts)))[0], np.arange(len(prompts)))
    rows = []
    for group, members in groups(prompts):
        for kind, (scores, prompt_of) in kinds.items():
            shown = ", ".join(filter(None, (title, group, kind)))
            row = mean_row(shown, scores[np.isin(prompt_of, members)], HIGHER, seed, {"scale": 1})
            count = int(np.isin(prompt_of, members).sum())
            rows.append({"metric": "clip-score", **row.to_json(), "group": group, "kind": kind, "images": count})
    return rows


def groups(prompts: Sequence[Prompt]) -> list[tuple[str, list[int]]]:
    """Returns (name, its prompts) of each category, of each challenge, and of all."""
    found: dict[str, list[int]] = {}
    for name in ("category", "challenge"):
        for number, prompt in enumerate(prompts):
            value = getattr(prompt, name)
            if value:
                found.setdefault(f"{name} {value}", []).append(number)
    return [*found.items(), (ALL, list(range(len(prompts))))]


def _cosines(
    images: Vectors, queries: Float[np.ndarray, "p d"], of_image: Int[np.ndarray, " n"]
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Returns each image's cosine with its own caption, and the mean one with those of the other prompts."""
    similar = unit(images.astype(np.float64)) @ queries.T
    own = similar[np.arange(len(images)), of_image]
    return own, (similar.sum(axis=1) - own) / max(len(queries) - 1, 1)


def table(results: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Returns the head and the rows of a table with a line for each category."""
    found: dict[str, dict[str, Mapping[str, Any]]] = {}
    for row in results["metrics"]:
        found.setdefault(row["group"], {})[row["kind"]] = row
    kinds = list(dict.fromkeys(row["kind"] for row in results["metrics"]))
    rows = [
        [group, str(cells[""]["images"]), *(_with_interval(cells[kind]) for kind in kinds)]
        for group, cells in found.items()
    ]
    return ["", "images", "generated images", *kinds[1:]], rows


def _with_interval(row: Mapping[str, Any]) -> str:
    return f"{numbers.plain(row['value'])} ({numbers.plain(row['low'])} to {numbers.plain(row['high'])})"


LEGEND = (
    "Mean cosine of image and caption by {network}, with 95 % bootstrap intervals over images. The mean cosine with "
    "the captions of the other images is the floor."
)


def markdown(results: Mapping[str, Any], title: str, definition: Sequence[tuple[str, str]]) -> str:
    """Returns the table in Markdown, and what defines its numbers."""
    parts = [f"# {title}", LEGEND.format(network=results["metrics"][0]["network"]), markdown_table(*table(results))]
    parts += [f"> {remark}" for remark in results["remarks"]]
    parts += ["## What defines these numbers", "\n".join(f"- {name}: {value}" for name, value in definition)]
    return "\n\n".join(parts) + "\n"


def screen(results: Mapping[str, Any]) -> str:
    """Returns the table for a terminal."""
    lines = [*results["remarks"], LEGEND.format(network=results["metrics"][0]["network"])]
    return "\n".join(lines) + "\n\n" + screen_table(*table(results))


def matching(prompts: Sequence[Prompt], captions: Sequence[str]) -> list[tuple[int, int]]:
    """Returns (image, prompt) of all images with the text of a prompt; one image may serve two categories.

    Raises:
      UserError: a prompt has no image.
    """
    numbers_of: dict[str, list[int]] = {}
    for number, prompt in enumerate(prompts):
        numbers_of.setdefault(prompt.text, []).append(number)
    missing = [prompt for prompt in numbers_of if prompt not in set(captions)]
    if missing:
        raise UserError(f"there are no images of {len(missing)} prompts, as {some(missing, 1)}; generate them again")
    return [(image, number) for image, caption in enumerate(captions) for number in numbers_of.get(caption, ())]
