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
import functools
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float, Int, UInt8

from rdm_jax import factory
from rdm_jax.bundle import Bundle, override
from rdm_jax.conditioning import queries_of
from rdm_jax.core import trees
from rdm_jax.core.errors import UserError
from rdm_jax.core.images import to_uint8
from rdm_jax.core.mesh import make_mesh, on_host, put, replicated
from rdm_jax.diffusion.samplers import num_steps
from rdm_jax.guidance import GuideContext, parts_of
from rdm_jax.program import Inputs, Program, Shape, compile_program
from rdm_jax.retrieval.encoder import SMALL_BATCH, ClipEncoder
from rdm_jax.retrieval.retriever import Neighbors, Retriever
from rdm_jax.run import Databases, Plan, Run, finder_of, open_retriever, open_run
from rdm_jax.settings import Settings, settings_from

# Steps between two reports of progress: one compiled scan runs so many, or a divisor, whatever the number in all.
MAX_CHUNK = 10

logger = logging.getLogger(__name__)

Progress = Callable[[int, int], None]
Preview = Callable[[list[int], int, np.ndarray], None]


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
      bundle: the model, its parameters on every device of the mesh.
      encoder: what turns prompts and images into query vectors.
      mesh: the devices that what is drawn at once is split over.
      programs: what was compiled so far, by shape.
      shared: the parts of programs that several shapes have in common.
    """

    bundle: Bundle
    encoder: ClipEncoder
    mesh: Mesh = dataclasses.field(default_factory=make_mesh)
    programs: dict[Shape, Program] = dataclasses.field(default_factory=dict)
    shared: dict[Any, Any] = dataclasses.field(default_factory=dict)

    @staticmethod
    def load(
        model: str | Path | Bundle, dtype: str | None = None, overrides: Sequence[str] = (), mesh: Mesh | None = None
    ) -> Generator:
        """Makes a model ready: an open bundle, or one by its name or folder.

        Args:
          model: the bundle, its name or its folder.
          dtype: what the U-Net computes in: "float32" (the default for one that is opened here) or "bfloat16", which
            takes half the memory.
          overrides: settings of the model's config.json to change, "conditioning.unit_tokens=false" each.
          mesh: the devices to draw on, all of all processes if None.

        Raises:
          UserError: there is no such model, it is damaged, it lacks a part that drawing needs, it is open in another
            type already, or there is no such setting.
        """
        opened = not isinstance(model, Bundle)
        bundle = Bundle.open(model, dtype=dtype or "float32") if opened else model
        if dtype not in (None, bundle.dtype):
            raise UserError(f"the model is open in {bundle.dtype}, and {dtype} was asked for; open it in that type")
        bundle.require("clip", "autoencoder", "denoiser")
        # What was opened here is held by nobody else: each array goes when its copy is on the device.
        move = trees.map_in_place if opened else jax.tree.map
        config, mesh = override(bundle.config, overrides), mesh or make_mesh()
        whole = replicated(mesh)
        bundle = dataclasses.replace(bundle, config=config, params=move(lambda leaf: put(leaf, whole), bundle.params))
        return Generator(bundle, ClipEncoder(bundle), mesh)

    @property
    def compilations(self) -> int:
        """How many shapes were compiled so far."""
        return len(self.programs)

    def sample(self, prompts: str | Sequence[str] = (), *, progress: Progress | None = None, **options: Any) -> Result:
        """Draws `num_images` pictures for each prompt, and for each image that is given as a query.

        Args:
          prompts: one or more prompts.
          progress: called with (steps done, steps in all) while drawing.
          **options: what `plan` takes: database, images, rows, and the names of `settings.Settings`.

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
        **options: Any,
    ) -> Plan:
        """Checks what is asked for, fills in the model's own settings, encodes the queries, fetches their neighbours.

        Args:
          prompts: one or more prompts, each a query.
          database: a database, its name or its folder, several to be searched as one, a `Mixture` of some by weight, or
            a `Retriever`, which keeps its index from call to call. "text" needs none and uses none.
          images: pictures of any size, each a query as a prompt is.
          rows: ids of rows of the (first) database, each a query as well; `retrieval.proposals` draws some.
          **options: condition, neighbors, num_images, batch_size, steps, sampler, eta, spacing, guides, conditions,
            guidance_scale, guidance_from, guidance_to, guidance_rescale, init, strength, seed, height and width, each
            as `settings.Settings` says; None is the model's own. A picture is the same bit for bit in batches of one
            size, and to 2/255 in batches of another.

        Raises:
          UserError: a name is unknown, a number is out of range, a prompt is empty, or the database was made by
            another encoder.
        """
        prompts = [prompts] if isinstance(prompts, str) else list(prompts)
        images = [] if images is None else list(images)
        settings = settings_from(self.bundle.config, options, queries=len(prompts) + len(images) + len(rows))
        retriever = None if settings.condition == "text" else open_retriever(self.encoder, database)
        run = self.open_run(settings, retriever)
        labels, queries = self._encode(prompts, images)
        if len(rows):
            if retriever is None:
                raise UserError("rows of a database are queries for its neighbours, and condition 'text' has none")
            labels += [f"row {row}" for row in rows]
            queries = np.concatenate([queries, retriever.databases[0].embeddings(rows).astype(np.float32)])
        queries = queries_of(run.conditions, dataclasses.replace(run.finder, queries=queries)).queries
        found = retriever.retrieve(queries, settings.neighbors) if retriever else None
        indices = list(range(len(queries) * settings.num_images))
        of_query = [index // settings.num_images for index in indices]
        return Plan(settings, labels, queries, found, indices, of_query, run).checked()

    def open_run(self, settings: Settings, retriever: Retriever | None) -> Run:
        """Returns what all pictures of a run share: files are read, references encoded, steps planned.

        Args:
          settings: how to draw.
          retriever: of the run's own databases; None where the condition has no neighbours.

        Raises:
          UserError: a file, a guide, a condition, the sampler or the size cannot be.
        """
        scene = self._scene(settings)
        return open_run(settings, scene, finder_of(settings, scene, retriever))

    def replan(self, plan: Plan, database: Databases | None) -> Plan:
        """Returns the plan of the same pictures with neighbours from another database.

        Raises:
          UserError: the database is unknown, has too few rows, or was made by another encoder.
        """
        settings = plan.settings
        retriever = None if settings.condition == "text" else open_retriever(self.encoder, database)
        found = retriever.retrieve(plan.queries, settings.neighbors) if retriever else None
        run = dataclasses.replace(plan.run, finder=finder_of(settings, self._scene(settings), retriever))
        return dataclasses.replace(plan, neighbors=found, run=run).checked()

    def draw(self, plan: Plan, progress: Progress | None = None, preview: Preview | None = None) -> Iterator[Result]:
        """Yields the pictures of a plan batch by batch, in the plan's order.

        Args:
          plan: from `plan`.
          progress: called with (steps done, steps in all); what it raises ends the drawing between two chunks of steps.
          preview: called after each chunk with (the pictures' indices, the steps done, what is believed of them by
            then, uint8 [b, h, w, 3]).

        Raises:
          UserError: a picture is not finite.
        """
        size = plan.settings.batch_size
        starts = range(0, len(plan.indices), size)
        for number, first in enumerate(starts):
            indices, rows = plan.indices[first : first + size], plan.rows[first : first + size]

            def report(done: int, steps: int, before: int = number) -> None:
                """Tells the progress over all batches."""
                if progress:
                    progress(before * steps + done, len(starts) * steps)

            def show(done: int, pictures: np.ndarray, of: list[int] = indices) -> None:
                """Hands on a batch's pictures without its padding."""
                if preview:
                    preview(of, done, to_uint8(pictures[: len(of)]))

            # The last batch is filled up with its own pictures, so that every batch has one shape.
            pictures = self._draw_batch(plan, np.resize(indices, size), np.resize(rows, size), report, preview and show)
            yield _result(plan, indices, rows, pictures)

    def _draw_batch(
        self,
        plan: Plan,
        indices: Int[np.ndarray, " b"],
        rows: Int[np.ndarray, " b"],
        report: Progress,
        show: Callable[[int, np.ndarray], None] | None,
    ) -> Float[np.ndarray, "b h w 3"]:
        """Returns the pictures of one full batch, about [-1, 1]; `report` is told the steps done and in all."""
        run, params, total = plan.run, self.bundle.params, num_steps(plan.run.steps)
        shape, inputs = self._shape(plan, len(indices)), plan.inputs(indices, rows)
        program = self._program(shape, inputs.chunk(0, shape.chunk), run)
        report(0, total)
        keys = put(inputs.keys, program.inputs.keys)
        carry, noise = program.start(keys, put(run.start, program.whole))
        # All but the steps lie where they belong from the first chunk to the last.
        held = dataclasses.replace(inputs, infos=None, keys=keys, noise=noise if run.guides else None)
        inputs = dataclasses.replace(put(held, program.inputs), infos=inputs.infos, first=inputs.first)
        read = {name: params[name] for name in ("denoiser", *parts_of(run.guides))}
        for first in range(0, total, shape.chunk):
            chunk = put(inputs.chunk(first, shape.chunk), program.inputs)
            carry, x0 = jax.block_until_ready(program.advance(read, chunk, carry))
            done = first + shape.chunk
            if run.guides and not np.isfinite(on_host(carry.x, self.mesh)).all():
                told = ", ".join(one.text for one in run.guides)
                raise UserError(f"not finite by step {done} of {total} under {told}; lower the weights")
            if show:
                show(done, np.asarray(program.decode(params["autoencoder"], x0)))
            report(done, total)
        return np.asarray(program.decode(params["autoencoder"], carry.x))

    def _shape(self, plan: Plan, batch: int) -> Shape:
        """Returns what a plan's program is compiled for."""
        run, total = plan.run, num_steps(plan.run.steps)
        return Shape(
            sampler=run.sampler,
            guided=run.guided,
            chunk=next(size for size in range(MAX_CHUNK, 0, -1) if total % size == 0),
            batch=batch,
            latent=self._latent_shape(plan.settings),
            context=plan.context.form,
            rescaled=bool(plan.settings.guidance_rescale),
            guides=tuple(one.form for one in run.guides),
        )

    def _program(self, shape: Shape, inputs: Inputs, run: Run) -> Program:
        if shape not in self.programs:
            logger.info("compiling for %d picture%s at once ...", shape.batch, "s" if shape.batch > 1 else "")
            begin = time.monotonic()
            self.programs[shape] = compile_program(self.bundle, shape, inputs, run.guides, self.mesh, self.shared)
            logger.info("compiled in %.1f s", time.monotonic() - begin)
        return self.programs[shape]

    def _scene(self, settings: Settings) -> GuideContext:
        """Returns what guides are made for."""
        timesteps = len(factory.schedule_from(self.bundle.config["diffusion"]))
        return GuideContext(self.bundle, self.encoder, self._latent_shape(settings), timesteps, self.encode_latent)

    def _latent_shape(self, settings: Settings) -> tuple[int, int, int]:
        return factory.latent_shape(self.bundle.denoiser, self.bundle.autoencoder, settings.height, settings.width)

    def encode_latent(self, pictures: Float[np.ndarray, "b h w 3"]) -> Float[np.ndarray, "b h2 w2 c"]:
        """Returns pictures in [-1, 1] as the diffusion model sees them."""
        return np.asarray(self._latent_encoder(self.bundle.params["autoencoder"], pictures))

    @functools.cached_property
    def _latent_encoder(self) -> Callable[..., Any]:
        return jax.jit(factory.encoder_from(self.bundle.autoencoder, self.bundle.config["latents"]))

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
    finished = to_uint8(pictures[: len(indices)])
    for one in plan.run.guides:
        finished = one.method.finish(finished, one.inputs)
    return Result(
        images=finished,
        prompts=[plan.prompts[row] for row in rows],
        indices=indices,
        queries=plan.queries[rows],
        neighbors=_map_neighbors(lambda part: part[rows], plan.neighbors) if plan.neighbors else None,
        settings=plan.settings,
    )


def _map_neighbors(function: Callable[..., np.ndarray], *several: Neighbors) -> Neighbors:
    names = [field.name for field in dataclasses.fields(Neighbors)]
    return Neighbors(**{name: function(*(getattr(one, name) for one in several)) for name in names})
