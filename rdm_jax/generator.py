"""Making pictures: prompt, query vector, neighbours, context tokens, sampler under guidance, decoder, picture.

    generator = Generator.load("style-scenes")
    result = generator.sample(["a red boat"], database="neon", num_images=4)
    result.images      # uint8 [4, 64, 64, 3]
    result.neighbors   # row i: what was retrieved for picture i

Picture i of a run starts from the noise of `fold_in(key(seed), i)`, whatever the batch size. What depends on shapes is
compiled once for each shape; prompts, databases, seeds and scales are data.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, UInt8

from rdm_jax import factory
from rdm_jax.bundle import Bundle, override
from rdm_jax.core import trees
from rdm_jax.core.errors import UserError
from rdm_jax.core.images import to_uint8
from rdm_jax.core.keys import image_keys
from rdm_jax.diffusion.denoiser import StepInfo
from rdm_jax.diffusion.samplers import Sampler, num_steps
from rdm_jax.factory import Program, Settings, Shape
from rdm_jax.guides import Asked, Scene, open_guides, parts_of
from rdm_jax.retrieval.database import Database
from rdm_jax.retrieval.encoder import SMALL_BATCH, ClipEncoder
from rdm_jax.retrieval.mixture import Mixture
from rdm_jax.retrieval.retriever import Neighbors, Retriever

# Steps between two reports of progress: one compiled scan runs so many, or a divisor, whatever the number in all.
MAX_CHUNK = 10

logger = logging.getLogger(__name__)

Databases = str | Path | Database | Mixture | Retriever | Sequence[str | Path | Database]
Progress = Callable[[int, int], None]


@dataclasses.dataclass(frozen=True)
class Plan:
    """A run that was checked, its queries encoded and answered, of which nothing is drawn yet.

    Attributes:
      settings: how to draw.
      prompts: the label of each query: the prompt, or "image 1".
      queries: [q, d] the query vectors as the encoder gave them.
      neighbors: [q, k] what was retrieved for each query; None where the condition has no neighbours.
      indices: the index of each picture to draw; with the seed it fixes the picture's noise.
      rows: which query each picture belongs to.
    """

    settings: Settings
    prompts: list[str]
    queries: Float[np.ndarray, "q d"]
    neighbors: Neighbors | None
    indices: list[int]
    rows: list[int]


@dataclasses.dataclass(frozen=True)
class Result:
    """Pictures and where they come from; entry i of everything belongs to picture i.

    Attributes:
      images: [n, h, w, 3] the pictures.
      prompts: the label of each picture's query.
      indices: each picture's index in its run.
      queries: [n, d] the query vectors.
      neighbors: [n, k] what was retrieved; None where the condition has no neighbours.
      settings: how they were drawn.
    """

    images: UInt8[np.ndarray, "n h w 3"]
    prompts: list[str]
    indices: list[int]
    queries: Float[np.ndarray, "n d"]
    neighbors: Neighbors | None
    settings: Settings

    @property
    def seed(self) -> int:
        """The run's seed."""
        return self.settings.seed


@dataclasses.dataclass(frozen=True, eq=False)
class Generator:
    """A model that is ready to draw.

    Attributes:
      bundle: the model, its parameters on the device.
      encoder: what turns prompts and images into query vectors.
      programs: what was compiled so far, by shape.
    """

    bundle: Bundle
    encoder: ClipEncoder
    programs: dict[Shape, Program] = dataclasses.field(default_factory=dict)

    @staticmethod
    def load(model: str | Path | Bundle, dtype: str | None = None, overrides: Sequence[str] = ()) -> Generator:
        """Makes a model ready: an open bundle, or one by its name or folder.

        Args:
          model: the bundle, its name or its folder.
          dtype: what the U-Net computes in: "float32" (the default for one that is opened here) or "bfloat16", which
            takes half the memory.
          overrides: settings of the model's config.json to change, "conditioning.unit_tokens=false" each.

        Raises:
          UserError: there is no such model, it is damaged, it lacks a part that drawing needs, it is open in another
            type already, or there is no such setting.
        """
        opened = not isinstance(model, Bundle)
        bundle = Bundle.open(model, dtype=dtype or "float32") if opened else model
        if dtype not in (None, bundle.dtype):
            raise UserError(f"the model is open in {bundle.dtype}, and {dtype} was asked for; open it in that type")
        bundle.require("clip", "autoencoder", "unet")
        # What was opened here is held by nobody else: each array goes when its copy is on the device.
        move = trees.map_in_place if opened else jax.tree.map
        config = override(bundle.config, overrides)
        bundle = dataclasses.replace(bundle, config=config, params=move(jnp.asarray, bundle.params))
        return Generator(bundle, ClipEncoder(bundle))

    @property
    def compilations(self) -> int:
        """How many shapes were compiled so far."""
        return len(self.programs)

    def sample(self, prompts: str | Sequence[str] = (), *, progress: Progress | None = None, **options: Any) -> Result:
        """Draws `num_images` pictures for each prompt, and for each image that is given as a query.

        Args:
          prompts: one or more prompts.
          progress: called with (steps done, steps in all) while drawing.
          **options: what `plan` takes: database, images, condition, neighbors, num_images, batch_size, steps, sampler,
            eta, spacing, guides, guidance_scale, seed, height, width.

        Raises:
          UserError: something that was asked for is not possible; the message says what is.
        """
        return join(list(self.draw(self.plan(prompts, **options), progress)))

    def plan(
        self,
        prompts: str | Sequence[str] = (),
        *,
        database: Databases | None = None,
        images: Sequence[UInt8[np.ndarray, "_ _ 3"]] | UInt8[np.ndarray, "n h w 3"] | None = None,
        rows: Sequence[int] | Int[np.ndarray, " r"] = (),
        condition: str | None = None,
        neighbors: int | None = None,
        num_images: int | None = None,
        batch_size: int | None = None,
        steps: int | None = None,
        sampler: str | None = None,
        eta: float | None = None,
        spacing: str | None = None,
        guides: Sequence[str] = (),
        guidance_scale: float | None = None,
        seed: int = 0,
        height: int | None = None,
        width: int | None = None,
    ) -> Plan:
        """Checks what is asked for, fills in the model's own settings, encodes the queries, fetches their neighbours.

        Args:
          prompts: one or more prompts, each a query.
          database: a database, its name or its folder, several to be searched as one, a `Mixture` of some by weight, or
            a `Retriever`, which keeps its
            index from call to call. "text" needs none and uses none.
          images: pictures of any size, each a query as a prompt is.
          rows: ids of rows of the (first) database, each a query as well; `retrieval.proposals` draws some.
          condition: what the network sees: the query's "neighbors" (the default), the query itself ("text"), or
            "text+neighbors".
          neighbors: how many neighbours each query fetches.
          num_images: pictures for each query, 1 by default.
          batch_size: pictures drawn at once, at most 8 by default. A picture is the same bit for bit in batches of one
            size, and to 2/255 in batches of another.
          steps: sampling steps.
          sampler: the sampler's name, or a call with its options, "euler(churn=20)".
          eta: DDIM's fresh noise in each step, from 0 (none) to 1.
          spacing: which times the sampler visits ("trailing", "karras", ...); its own choice by default.
          guides: what bends the run, each a call: "sdg(text='a boat', weight=120)"; see `guides.KINDS`.
          guidance_scale: 1 draws without guidance, more follows the condition more strongly.
          seed: in [0, 2**32).
          height: of a picture in pixels.
          width: of a picture in pixels.

        Raises:
          UserError: a name is unknown, a number is out of range, a prompt is empty, or the database was made by
            another encoder.
        """
        prompts = [prompts] if isinstance(prompts, str) else list(prompts)
        images = [] if images is None else list(images)
        given = {
            "condition": condition,
            "neighbors": neighbors,
            "num_images": num_images,
            "batch_size": batch_size,
            "steps": steps,
            "sampler": sampler,
            "eta": eta,
            "spacing": spacing,
            "guides": tuple(guides) or None,
            "guidance_scale": guidance_scale,
            "seed": seed,
            "height": height,
            "width": width,
        }
        settings = factory.settings_from(self.bundle.config, given, queries=len(prompts) + len(images) + len(rows))
        self._guides(settings)
        retriever = self._retriever(database, settings.condition)
        labels, queries = self._encode(prompts, images)
        if len(rows):
            if retriever is None:
                raise UserError("rows of a database are queries for its neighbours, and condition 'text' has none")
            labels += [f"row {row}" for row in rows]
            queries = np.concatenate([queries, retriever.databases[0].embeddings(rows).astype(np.float32)])
        found = retriever.retrieve(queries, settings.neighbors) if retriever else None
        indices = list(range(len(queries) * settings.num_images))
        return Plan(settings, labels, queries, found, indices, rows=[i // settings.num_images for i in indices])

    def replan(self, plan: Plan, database: Databases | None) -> Plan:
        """Returns the plan of the same pictures with neighbours from another database.

        Raises:
          UserError: the database is unknown, has too few rows, or was made by another encoder.
        """
        retriever = self._retriever(database, plan.settings.condition)
        found = retriever.retrieve(plan.queries, plan.settings.neighbors) if retriever else None
        return dataclasses.replace(plan, neighbors=found)

    def draw(self, plan: Plan, progress: Progress | None = None) -> Iterator[Result]:
        """Yields the pictures of a plan batch by batch, in the plan's order.

        Args:
          plan: from `plan`.
          progress: called with (steps done, steps in all).

        Raises:
          UserError: a picture is not finite.
        """
        size = plan.settings.batch_size
        tokens, asked = self._context(plan), self._guides(plan.settings)
        starts = range(0, len(plan.indices), size)
        for number, first in enumerate(starts):
            indices, rows = plan.indices[first : first + size], plan.rows[first : first + size]
            # The last batch is filled up with its own pictures, so that every batch has one shape.
            noise, context = np.resize(indices, size), tokens[np.resize(rows, size)]

            def report(done: int, steps: int, before: int = number) -> None:
                if progress:
                    progress(before * steps + done, len(starts) * steps)

            yield _result(plan, indices, rows, self._draw_batch(plan.settings, noise, context, asked, report))

    def _draw_batch(
        self,
        settings: Settings,
        indices: Int[np.ndarray, " b"],
        tokens: Float[np.ndarray, "b n d"],
        asked: tuple[Asked, ...],
        report: Progress,
    ) -> Float[np.ndarray, "b h w 3"]:
        """Returns the pictures of one full batch, about [-1, 1]; `report` is told the steps done and in all."""
        sampler, steps = self._steps(settings)
        total = num_steps(steps)
        chunk = next(size for size in range(MAX_CHUNK, 0, -1) if total % size == 0)
        shape = Shape(
            sampler=sampler,
            guided=settings.guidance_scale != 1,
            fresh=total if sampler.draws or asked else 0,
            chunk=chunk,
            batch=len(indices),
            latent=self._latent_shape(settings),
            tokens=tokens.shape[1:],
            guides=tuple(one.form for one in asked),
        )
        program = self._program(shape, steps, asked)
        report(0, total)
        carry, step_keys = program.start(image_keys(settings.seed, jnp.asarray(indices, jnp.int32)))
        # Sliced on the host: each slice on the device would be one more small program.
        plan = jax.tree.map(np.asarray, (steps, step_keys))
        scale = np.float32(settings.guidance_scale)
        params = {name: self.bundle.params[name] for name in ("unet", *parts_of(asked))}
        bends = (tuple(one.inputs for one in asked), carry.x) if asked else None
        for first in range(0, total, chunk):
            part = jax.tree.map(lambda leaf, first=first: leaf[first : first + chunk], plan)
            carry = jax.block_until_ready(program.advance(params, tokens, scale, part, carry, bends))
            if asked and not np.isfinite(carry.x).all():
                told = ", ".join(one.text for one in asked)
                raise UserError(f"not finite by step {first + chunk} of {total} under {told}; lower the weights")
            report(first + chunk, total)
        return np.asarray(program.decode(self.bundle.params["autoencoder"], carry.x))

    def _guides(self, settings: Settings) -> tuple[Asked, ...]:
        """Returns the guides of a run; refuses what the sampler, the size or a guide cannot be."""
        self._steps(settings)
        timesteps = len(factory.schedule_from(self.bundle.config["diffusion"]))
        scene = Scene(self.bundle, self.encoder, self._latent_shape(settings), timesteps)
        return open_guides(settings.guides, scene)

    def _program(self, shape: Shape, steps: StepInfo, asked: tuple[Asked, ...]) -> Program:
        if shape not in self.programs:
            logger.info("compiling for %d picture%s at once ...", shape.batch, "s" if shape.batch > 1 else "")
            begin = time.monotonic()
            self.programs[shape] = factory.compile_program(self.bundle, shape, steps, asked)
            logger.info("compiled in %.1f s", time.monotonic() - begin)
        return self.programs[shape]

    def _steps(self, settings: Settings) -> tuple[Sampler, StepInfo]:
        sampler = factory.sampler_from(settings.sampler, settings.eta, settings.spacing)
        return sampler, sampler.plan(factory.schedule_from(self.bundle.config["diffusion"]), settings.steps)

    def _latent_shape(self, settings: Settings) -> tuple[int, int, int]:
        return factory.latent_shape(self.bundle.unet, self.bundle.autoencoder, settings.height, settings.width)

    def _encode(
        self, prompts: Sequence[str], images: Sequence[UInt8[np.ndarray, "_ _ 3"]]
    ) -> tuple[list[str], Float[np.ndarray, "q d"]]:
        """Returns labels and query vectors, those of the prompts first."""
        for number, prompt in enumerate(prompts, 1):
            if not prompt.strip():
                raise UserError(f"prompt {number} is empty; write what to draw, or leave it out")
        for prompt, tail in zip(prompts, self.encoder.tokenize(prompts)[1], strict=True):
            if tail:
                logger.warning("the prompt %r is too long for the text encoder; this is cut off: %r", prompt, tail)
        # In small groups, for all to go through the same program, however many there are.
        groups = [self.encoder.encode_texts(prompts[i : i + SMALL_BATCH]) for i in range(0, len(prompts), SMALL_BATCH)]
        groups += [self.encoder.encode_images(images[i : i + SMALL_BATCH]) for i in range(0, len(images), SMALL_BATCH)]
        labels = [*prompts, *(f"image {number}" for number in range(1, len(images) + 1))]
        return labels, np.concatenate([np.zeros((0, self.encoder.identity["width"]), np.float32), *groups])

    def _context(self, plan: Plan) -> Float[np.ndarray, "q n d"]:
        embeddings = plan.neighbors.embeddings if plan.neighbors else None
        unit = bool(self.bundle.config["conditioning"].get("unit_tokens", False))
        return factory.context_tokens(plan.settings.condition, plan.queries, embeddings, unit)

    def _retriever(self, database: Databases | None, condition: str) -> Retriever | None:
        if condition == "text":
            return None
        if database is None:
            raise UserError(
                f"condition {condition!r} needs a database (known: {', '.join(Database.names()) or 'none'}); "
                "name one, or give the folder of one"
            )
        if isinstance(database, Retriever):
            return database
        if isinstance(database, Mixture):
            return Retriever(self.encoder, database.databases, database.weights)
        several = [database] if isinstance(database, str | Path | Database) else database
        return Retriever(self.encoder, [one if isinstance(one, Database) else Database.open(one) for one in several])


def join(results: Sequence[Result]) -> Result:
    """Returns the results of the batches of one plan as one result."""
    found = [result.neighbors for result in results if result.neighbors is not None]
    return Result(
        images=np.concatenate([result.images for result in results]),
        prompts=[prompt for result in results for prompt in result.prompts],
        indices=[index for result in results for index in result.indices],
        queries=np.concatenate([result.queries for result in results]),
        neighbors=_map_neighbors(lambda *parts: np.concatenate(parts), *found) if found else None,
        settings=results[0].settings,
    )


def _result(plan: Plan, indices: list[int], rows: list[int], pictures: Float[np.ndarray, "b h w 3"]) -> Result:
    """Returns the first pictures of a batch, those of `indices`, with all that belongs to them."""
    for index, picture in zip(indices, pictures, strict=False):
        if not np.isfinite(picture).all():
            scale = plan.settings.guidance_scale
            raise UserError(f"picture {index} is not finite; lower the guidance scale, {scale} now")
    return Result(
        images=to_uint8(pictures[: len(indices)]),
        prompts=[plan.prompts[row] for row in rows],
        indices=indices,
        queries=plan.queries[rows],
        neighbors=_map_neighbors(lambda part: part[rows], plan.neighbors) if plan.neighbors else None,
        settings=plan.settings,
    )


def _map_neighbors(function: Callable[..., np.ndarray], *several: Neighbors) -> Neighbors:
    names = [field.name for field in dataclasses.fields(Neighbors)]
    return Neighbors(**{name: function(*(getattr(one, name) for one in several)) for name in names})
