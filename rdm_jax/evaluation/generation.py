"""The images of an arm: many databases and prompts, generated in full batches."""

from __future__ import annotations

import dataclasses
import functools
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
from jaxtyping import Int, UInt8

from rdm_jax.bundle import Bundle
from rdm_jax.conditioning import ConditionBuilder
from rdm_jax.conditioning.content import Content
from rdm_jax.conditioning.roles import two_roles
from rdm_jax.core.errors import UserError
from rdm_jax.core.images import resize_and_crop, to_float, to_uint8
from rdm_jax.core.options import to_json
from rdm_jax.core.progress import ProgressCallback
from rdm_jax.evaluation.arms import GENERAL, Arm, Cell, cells_of
from rdm_jax.generator import Generator, Plan
from rdm_jax.models.condition import Condition
from rdm_jax.retrieval.database import Database
from rdm_jax.retrieval.retriever import Neighbors, Retriever, map_neighbors


@dataclasses.dataclass(frozen=True)
class Generated:
    """Images of cells, in the cells' order.

    Attributes:
      images: [n, h, w, 3].
      neighbors: of each image, the attributes of each of its neighbors.
    """

    images: UInt8[np.ndarray, "n h w 3"]
    neighbors: list[list[Mapping[str, str]]]


@runtime_checkable
class CellGenerator(Protocol):
    """What a measurement needs of a model and its databases."""

    def generate(self, cells: Sequence[Cell], progress: ProgressCallback) -> Generated:
        """Generates the cells; `progress` is called with (images done, all images)."""
        ...

    def thumbnails(self, database: str) -> UInt8[np.ndarray, "n h w 3"]:
        """Returns all images of a database."""
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class ModelCellGenerator:
    """Generates with a model and with databases that are opened by their names.

    Attributes:
      generator: the model.
      folder: where the databases are, each in a folder of its name; the embedded ones if None.
      options: what `Generator.plan` takes besides prompts and database: condition, seed, batch_size, steps, ...
    """

    generator: Generator
    folder: Path | None = None
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def settings(self) -> dict[str, Any]:
        """The options of generation, with the model's own defaults.

        Raises:
          UserError: an option is out of range.
        """
        request, options = self.generator.resolve(1, **self.options)
        return {**to_json(request), **to_json(options)}

    def check(self, arms: Sequence[Arm]) -> list[Database]:
        """Returns all databases of the arms, after a check of each.

        Raises:
          UserError: a database is missing, too small, or made by another encoder, or an option is out of range.
        """
        if self.settings["condition"] == "text":
            raise UserError("condition 'text' uses no database, and style-swap swaps them; use text+neighbors")
        used = {cell.database for arm in arms for cell in cells_of(arm, len(arm.pairs))}
        names = sorted(used | ({GENERAL} if two_roles(self.generator.bundle) else set()))
        for name in names:
            self.generator.plan(["a red boat"], database=self._retriever(name), **self.options)
        return [self.database(name) for name in names]

    def generate(self, cells: Sequence[Cell], progress: ProgressCallback) -> Generated:
        """Generates the cells.

        Raises:
          UserError: a database is missing or was made by another encoder, or an option is out of range.
        """
        plan = self.plan(cells)
        images = []
        done = 0
        for result in self.generator.generate(plan):
            images.append(result.images)
            done += len(result.images)
            progress(done, len(cells))
        assert plan.neighbors is not None
        attributes = [
            [item["attributes"] for item in self.database(cell.database).items(ids)]
            for cell, ids in zip(cells, plan.neighbors.ids, strict=True)
        ]
        return Generated(np.concatenate(images), attributes)

    def plan(self, cells: Sequence[Cell]) -> Plan:
        """Returns one plan of all cells, whatever their databases, so that batches are full.

        Raises:
          UserError: an option is out of range.
          ValueError: the cells have several conditions, which one plan cannot hold.
        """
        if len({cell.condition for cell in cells}) > 1:
            raise ValueError("cells of one plan share their condition")
        groups: dict[tuple[str, bool], list[int]] = {}
        for position, cell in enumerate(cells):
            groups.setdefault((cell.database, cell.random_neighbors), []).append(position)
        plans = [self._group_plan(group, [cells[i] for i in rows]) for group, rows in groups.items()]
        order = np.argsort(np.concatenate(list(groups.values())), kind="stable")
        plan = dataclasses.replace(
            plans[0],
            prompts=[cell.prompt for cell in cells],
            queries=np.concatenate([plan.queries for plan in plans])[order],
            neighbors=_joined([plan.neighbors for plan in plans], order),
            indices=[cell.noise for cell in cells],
            rows=list(range(len(cells))),
            builder=dataclasses.replace(
                _with_databases(plans[0].builder, [self.database(name) for name, _ in groups]),
                text=_joined_texts([plan.builder.text for plan in plans], order),
            ),
        )
        content = [plan.content for plan in plans if plan.content is not None]
        return self.generator.with_content(plan, Content.joined(content).take(order) if content else None)

    def thumbnails(self, database: str) -> UInt8[np.ndarray, "n h w 3"]:
        """Returns all images of a database, at the size that the model generates.

        Raises:
          UserError: there is no such database.
        """
        opened = self.database(database)
        images = opened.thumbnails(np.arange(len(opened)))
        return np.stack([resize_and_crop(image, self._size) for image in images])

    def database(self, name: str) -> Database:
        """Opens a database by its name.

        Raises:
          UserError: there is no such database.
        """
        return self._retriever(name).databases[0]

    @functools.cached_property
    def _size(self) -> int:
        return int(self.generator.bundle.config["sampling"]["height"])

    @functools.cached_property
    def _retriever(self) -> Callable[[str], Retriever]:
        # One index for each database.
        return functools.cache(
            lambda name: Retriever(self.generator.encoder, [Database.open(self.folder / name if self.folder else name)])
        )

    def _group_plan(self, group: tuple[str, bool], cells: Sequence[Cell]) -> Plan:
        """Returns the plan of cells that share a database: one query for each cell."""
        name, random = group
        prompts = sorted({cell.prompt for cell in cells})
        retriever = self._retriever(name)
        options = dict(self.options)
        if cells[0].condition:
            options["condition"] = cells[0].condition
        if two_roles(self.generator.bundle):
            # Without the prompt nothing may show what it asks for.
            by_prompt = options.get("condition") != "neighbors"
            options |= {"content_database": self.database(GENERAL)} if by_prompt else {"content_neighbors": 0}
        plan = self.generator.plan(prompts, database=retriever, **options)
        if plan.neighbors is None:
            raise UserError("style swap measures the effect of neighbors, and this condition has none; use another one")
        numbers = {prompt: number for number, prompt in enumerate(prompts)}
        rows = np.array([numbers[cell.prompt] for cell in cells])
        neighbors = _joined([plan.neighbors], rows)
        if random:
            neighbors = _random_neighbors(neighbors, retriever.databases[0], plan.request.seed)
        builder = dataclasses.replace(plan.builder, text=_joined_texts([plan.builder.text], rows))
        plan = dataclasses.replace(plan, queries=plan.queries[rows], neighbors=neighbors, builder=builder)
        return plan.with_content(plan.content.take(rows)) if plan.content else plan


def _joined_texts(texts: Sequence[Condition | None], rows: Int[np.ndarray, " r"]) -> Condition | None:
    """Returns rows of the tokens of several texts, one after the other; None where prompts are vectors."""
    joined = [text for text in texts if text is not None]
    return jax.tree.map(lambda *leaves: np.concatenate(leaves)[rows], *joined) if joined else None


def _with_databases(builder: ConditionBuilder, databases: Sequence[Database]) -> ConditionBuilder:
    """Returns a condition builder that finds the images of neighbors in these databases, if it needs them."""
    distinct = [*{database.name: database for database in databases}.values()]
    if builder.style is not None:
        return dataclasses.replace(builder, style=dataclasses.replace(builder.style, databases=distinct))
    if builder.adapter is not None:
        return dataclasses.replace(builder, adapter=dataclasses.replace(builder.adapter, databases=distinct))
    return builder


def _random_neighbors(neighbors: Neighbors, database: Database, seed: int) -> Neighbors:
    generator = np.random.default_rng([seed, zlib.crc32(database.name.encode())])
    count, k = neighbors.ids.shape
    ids = np.stack([generator.choice(len(database), k, replace=False) for _ in range(count)]).astype(np.int64)
    embeddings = database.embeddings(ids.reshape(-1)).reshape(neighbors.embeddings.shape)
    return dataclasses.replace(neighbors, ids=ids, embeddings=embeddings, scores=np.zeros(ids.shape, np.float32))


def _joined(parts: Sequence[Neighbors | None], rows: np.ndarray) -> Neighbors:
    """Returns rows of several retrievals, which are concatenated."""
    present = [part for part in parts if part is not None]
    return map_neighbors(lambda *several: np.concatenate(several)[rows], *present)


def reconstructor(bundle: Bundle) -> Callable[[UInt8[np.ndarray, "n h w 3"]], UInt8[np.ndarray, "n h w 3"]]:
    """Returns the function from images to their reconstructions from the posterior's mean."""
    import jax

    autoencode = jax.jit(lambda params, x: bundle.autoencoder.apply({"params": params}, x))

    def reconstruct(images: UInt8[np.ndarray, "n h w 3"]) -> UInt8[np.ndarray, "n h w 3"]:
        return to_uint8(np.asarray(autoencode(bundle.params["autoencoder"], to_float(images))))

    return reconstruct
