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
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float, Int, UInt8

from rdm_jax import factory
from rdm_jax.bundle import Bundle, override
from rdm_jax.conditions import Context, Course, Finder, Kind, context_of, course_of, open_conditions, queries_of
from rdm_jax.core import trees
from rdm_jax.core.errors import UserError
from rdm_jax.core.images import to_uint8
from rdm_jax.core.keys import image_keys
from rdm_jax.core.mesh import make_mesh, on_host, put, replicated
from rdm_jax.diffusion.denoiser import StepInfo
from rdm_jax.diffusion.samplers import Sampler, num_steps, slice_steps
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
Preview = Callable[[list[int], int, np.ndarray], None]


@dataclasses.dataclass(frozen=True)
class Start:
    """What a run starts from: alpha latent + sigma noise.

    Attributes:
      latent: [1, h, w, c].
      alpha: its factor.
      sigma: of each picture's own noise.
    """

    latent: Float[np.ndarray, "1 h w c"]
    alpha: Float[np.ndarray, ""]
    sigma: Float[np.ndarray, ""]


@dataclasses.dataclass(frozen=True)
class Run:
    """What all pictures of a run share, opened and checked.

    Attributes:
      sampler: what makes the steps.
      steps: those that are left, where the run starts in the middle; what changes from one to the other is among their
        coefficients.
      skipped: how many steps of the sampler's plan come before them.
      start: what the run starts from.
      guides: what bends it.
      conditions: what is shown beside the queries.
      finder: what makes tokens of them.
      course: of the steps.
    """

    sampler: Sampler
    steps: StepInfo
    skipped: int
    start: Start
    guides: tuple[Asked, ...]
    conditions: tuple[Kind, ...]
    finder: Finder
    course: Course


@dataclasses.dataclass(frozen=True)
class Plan:
    """A run that was checked, its queries encoded and answered, of which nothing is drawn yet.

    Attributes:
      settings: how to draw.
      prompts: the label of each query: the prompt, or "image 1".
      queries: [q, d] the query vectors, as the encoder gave them and the conditions left them.
      neighbors: [q, k] what was retrieved for each query; None where the condition has no neighbours.
      indices: the index of each picture to draw; with the seed it fixes the picture's noise.
      rows: which query each picture belongs to.
      run: what all pictures share.
    """

    settings: Settings
    prompts: list[str]
    queries: Float[np.ndarray, "q d"]
    neighbors: Neighbors | None
    indices: list[int]
    rows: list[int]
    run: Run

    @functools.cached_property
    def context(self) -> Context:
        """What the network is shown for each query."""
        finder = dataclasses.replace(self.run.finder, queries=self.queries)
        return context_of(self.run.conditions, finder, self.neighbors.embeddings if self.neighbors else None)


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
        whole = replicated(make_mesh())
        bundle = dataclasses.replace(bundle, config=config, params=move(lambda leaf: put(leaf, whole), bundle.params))
        return Generator(bundle, ClipEncoder(bundle))

    @functools.cached_property
    def mesh(self) -> Mesh:
        """All devices, of all processes: what is drawn at once is split over them."""
        return make_mesh()

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
            eta, spacing, guides, conditions, guidance_scale, guidance_from, guidance_to, guidance_rescale, init,
            strength, seed, height, width.

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
        conditions: Sequence[str] = (),
        guidance_scale: float | None = None,
        guidance_from: float | None = None,
        guidance_to: float | None = None,
        guidance_rescale: float | None = None,
        init: str | Path = "",
        strength: float | None = None,
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
          conditions: what is shown beside the query, each a call: "region(mask='left.png', database='neon')"; see
            `conditions.KINDS`.
          guidance_scale: 1 draws without guidance, more follows the condition more strongly.
          guidance_from: the share of the time, from the picture (0) to noise (1), where guidance begins.
          guidance_to: where it ends (https://arxiv.org/abs/2404.07724).
          guidance_rescale: how much of the contrast that guidance adds is taken back, 0 to 1.
          init: a picture's file that the run starts from, or a .npy file of the noise itself.
          strength: how noisy that picture is made, as a share of the steps: 1 leaves nothing of it.
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
            "conditions": tuple(conditions) or None,
            "guidance_scale": guidance_scale,
            "guidance_from": guidance_from,
            "guidance_to": guidance_to,
            "guidance_rescale": guidance_rescale,
            "init": str(init) or None,
            "strength": strength,
            "seed": seed,
            "height": height,
            "width": width,
        }
        settings = factory.settings_from(self.bundle.config, given, queries=len(prompts) + len(images) + len(rows))
        retriever = self._retriever(database, settings.condition)
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
        plan = Plan(settings, labels, queries, found, indices, [i // settings.num_images for i in indices], run)
        return _checked(plan)

    def open_run(self, settings: Settings, retriever: Retriever | None) -> Run:
        """Returns what all pictures of a run share: files are read, references encoded, steps planned.

        Args:
          settings: how to draw.
          retriever: of the run's own databases; None where the condition has no neighbours.

        Raises:
          UserError: a file, a guide, a condition, the sampler or the size cannot be.
        """
        sampler = factory.sampler_from(settings.sampler, settings.eta, settings.spacing)
        steps = sampler.plan(factory.schedule_from(self.bundle.config["diffusion"]), settings.steps)
        skipped = round((1.0 - settings.strength) * num_steps(steps)) if settings.init else 0
        steps = slice_steps(steps, min(skipped, num_steps(steps) - 1), num_steps(steps))
        scene, conditions = self._scene(settings), open_conditions(settings.conditions)
        course = course_of(conditions, _course(settings, steps, scene.timesteps))
        return Run(
            sampler=sampler,
            steps=course.of(steps),
            skipped=skipped,
            start=self._start(settings, steps, scene),
            guides=open_guides(settings.guides, scene),
            conditions=conditions,
            finder=self._finder(settings, retriever, scene),
            course=course,
        )

    def replan(self, plan: Plan, database: Databases | None) -> Plan:
        """Returns the plan of the same pictures with neighbours from another database.

        Raises:
          UserError: the database is unknown, has too few rows, or was made by another encoder.
        """
        retriever = self._retriever(database, plan.settings.condition)
        found = retriever.retrieve(plan.queries, plan.settings.neighbors) if retriever else None
        finder = self._finder(plan.settings, retriever, self._scene(plan.settings))
        return _checked(dataclasses.replace(plan, neighbors=found, run=dataclasses.replace(plan.run, finder=finder)))

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
        run, settings = plan.run, plan.settings
        total = num_steps(run.steps)
        shape = self._shape(plan, len(indices))
        inputs = factory.Inputs(
            context=plan.context.rows(rows),
            # Sliced on the host: each slice on the device would be one more small program.
            infos=jax.tree.map(np.asarray, run.steps),
            also=tuple(map(np.float32, run.course.also)),
            rescale=np.float32(settings.guidance_rescale) if settings.guidance_rescale else None,
            guides=tuple(one.of(indices) for one in run.guides),
        )

        def part(first: int) -> factory.Inputs:
            """Returns the inputs of the chunk that begins at a step."""
            within = slice(first, first + shape.chunk)
            keys = None if step_keys is None else step_keys[run.skipped :][within]
            return dataclasses.replace(
                inputs, infos=jax.tree.map(lambda leaf: leaf[within], inputs.infos), step_keys=keys
            )

        step_keys = None
        program = self._program(shape, part(0), run.guides)
        report(0, total)
        keys = jax.random.key_data(image_keys(settings.seed, jnp.asarray(indices, jnp.int32)))
        carry, noise, step_keys = program.start(put(keys, program.batch), *self._put(run.start))
        step_keys = None if step_keys is None else on_host(step_keys, self.mesh)
        inputs = dataclasses.replace(inputs, noise=on_host(noise, self.mesh) if run.guides else None)
        params = {name: self.bundle.params[name] for name in ("unet", *parts_of(run.guides))}
        for first in range(0, total, shape.chunk):
            carry, x0 = jax.block_until_ready(program.advance(params, put(part(first), program.inputs), carry))
            done = first + shape.chunk
            if run.guides and not np.isfinite(on_host(carry.x, self.mesh)).all():
                told = ", ".join(one.text for one in run.guides)
                raise UserError(f"not finite by step {done} of {total} under {told}; lower the weights")
            if show:
                show(done, np.asarray(program.decode(self.bundle.params["autoencoder"], x0)))
            report(done, total)
        return np.asarray(program.decode(self.bundle.params["autoencoder"], carry.x))

    def _put(self, start: Start) -> tuple[Any, ...]:
        """Returns what a run starts from, on every device."""
        return put((start.latent, start.alpha, start.sigma), replicated(self.mesh))

    def _shape(self, plan: Plan, batch: int) -> Shape:
        """Returns what a plan's program is compiled for."""
        run, total = plan.run, num_steps(plan.run.steps)
        draws = run.sampler.draws or run.guides
        return Shape(
            sampler=run.sampler,
            guided=bool((run.course.guidance != 1).any() or run.course.also),
            fresh=run.skipped + total if draws else 0,
            chunk=next(size for size in range(MAX_CHUNK, 0, -1) if total % size == 0),
            batch=batch,
            latent=self._latent_shape(plan.settings),
            context=plan.context.form,
            rescaled=bool(plan.settings.guidance_rescale),
            guides=tuple(one.form for one in run.guides),
        )

    def _scene(self, settings: Settings) -> Scene:
        """Returns what guides are made for."""
        timesteps = len(factory.schedule_from(self.bundle.config["diffusion"]))
        return Scene(self.bundle, self.encoder, self._latent_shape(settings), timesteps, self.encode_latent)

    def _finder(self, settings: Settings, retriever: Retriever | None, scene: Scene) -> Finder:
        """Returns what turns prompts, pictures and databases into tokens."""
        width = self.encoder.identity["width"]
        null = factory.null_token(self.bundle.config)
        unit = bool(self.bundle.config["conditioning"].get("unit_tokens", False))

        def retrieve(queries: Float[np.ndarray, "q d"], database: str) -> Float[np.ndarray, "q k d"] | None:
            """Returns the vectors of the queries' neighbours."""
            if retriever is None:
                if database:
                    raise UserError(
                        f"condition 'text' looks at no database, and {database!r} is given; draw with another"
                    )
                return None
            asked = self._retriever(database, settings.condition) if database else retriever
            assert asked is not None
            return asked.retrieve(queries, settings.neighbors).embeddings

        return Finder(
            encoder=self.encoder,
            latent=scene.latent[:2],
            size=scene.size,
            queries=np.zeros((0, width), np.float32),
            retrieve=retrieve,
            tokens=functools.partial(factory.context_tokens, settings.condition, unit=unit),
            query_tokens=int(settings.condition != "neighbors"),
            null=np.zeros(width, np.float32) if null is None else null,
        )

    def _start(self, settings: Settings, steps: StepInfo, scene: Scene) -> Start:
        """Returns what a run starts from: noise, a picture made noisy, or the noise of a file."""
        one, nothing = np.ones((), np.float32), np.zeros((), np.float32)
        if not settings.init:
            return Start(np.zeros((1, *scene.latent), np.float32), nothing, one)
        if settings.init.endswith(".npy"):
            return Start(read_noise(settings.init, scene.latent), one, nothing)
        alpha, sigma = (np.asarray(steps.coefficients[name][0], np.float32) for name in ("alpha", "sigma"))
        return Start(scene.latent_of(settings.init), alpha, sigma)

    def encode_latent(self, pictures: Float[np.ndarray, "b h w 3"]) -> Float[np.ndarray, "b h2 w2 c"]:
        """Returns pictures in [-1, 1] as the diffusion model sees them."""
        return np.asarray(self._latent_encoder(self.bundle.params["autoencoder"], pictures))

    @functools.cached_property
    def _latent_encoder(self) -> Callable[..., Any]:
        return jax.jit(factory.encoder_from(self.bundle.autoencoder, self.bundle.config["latents"]))

    def _program(self, shape: Shape, inputs: factory.Inputs, asked: tuple[Asked, ...]) -> Program:
        if shape not in self.programs:
            logger.info("compiling for %d picture%s at once ...", shape.batch, "s" if shape.batch > 1 else "")
            begin = time.monotonic()
            self.programs[shape] = factory.compile_program(self.bundle, shape, inputs, asked, self.mesh)
            logger.info("compiled in %.1f s", time.monotonic() - begin)
        return self.programs[shape]

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


def read_noise(file: str, latent: tuple[int, int, int]) -> Float[np.ndarray, "1 h w c"]:
    """Returns the noise that a .npy file holds.

    Raises:
      UserError: the file cannot be read, or holds noise of another size.
    """
    try:
        noise = np.load(Path(file).expanduser(), allow_pickle=False)
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read noise from {file}: {error}") from error
    if noise.shape != (1, *latent):
        raise UserError(f"{file} holds noise of shape {noise.shape}, and this run takes {(1, *latent)}; invert again")
    return noise.astype(np.float32)


def _course(settings: Settings, steps: StepInfo, timesteps: int) -> Course:
    """Returns the course of a run before its conditions: guidance within its interval."""
    times = np.asarray(steps.t, np.float32)
    guided = (times >= settings.guidance_from * timesteps - 0.5) & (times <= settings.guidance_to * timesteps + 0.5)
    whole = np.ones(len(times), np.float32)
    scale = np.where(guided, np.float32(settings.guidance_scale), whole)
    return Course(guidance=scale, share=whole, null_share=whole)


def _checked(plan: Plan) -> Plan:
    """Returns a plan once it is sure that its conditions can be."""
    _ = plan.context
    return plan


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
        finished = one.kind.finish(finished, finished.shape[1:3])
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
