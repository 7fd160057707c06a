"""What all pictures of a run share, opened and checked before anything is drawn."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from rdm_jax import factory
from rdm_jax.conditioning import Context, Course, Finder, Kind, context_of, course_of
from rdm_jax.core.errors import UserError
from rdm_jax.core.keys import image_keys
from rdm_jax.diffusion.denoiser import StepInfo
from rdm_jax.diffusion.samplers import Sampler, num_steps, slice_steps
from rdm_jax.guidance import BoundGuide, GuideContext, bind_guides
from rdm_jax.program import Inputs, Start
from rdm_jax.retrieval.database import Database
from rdm_jax.retrieval.encoder import ClipEncoder
from rdm_jax.retrieval.mixture import Mixture
from rdm_jax.retrieval.retriever import Neighbors, Retriever
from rdm_jax.settings import Settings

Databases = str | Path | Database | Mixture | Retriever | Sequence[str | Path | Database]


@dataclasses.dataclass(frozen=True)
class Run:
    """What all pictures of a run share.

    Attributes:
      sampler: what makes the steps.
      steps: those that are left, where the run starts in the middle.
      skipped: how many steps of the sampler's plan come before them.
      course: what changes from one to the other.
      start: what the run starts from.
      guides: what bends it.
      conditions: what is shown beside the queries.
      finder: what makes tokens of them.
    """

    sampler: Sampler
    steps: StepInfo
    skipped: int
    course: Course
    start: Start
    guides: tuple[BoundGuide, ...]
    conditions: tuple[Kind, ...]
    finder: Finder

    @property
    def guided(self) -> bool:
        """Whether the network is asked under the null condition too."""
        return bool((self.course.guidance != 1).any() or self.course.also)

    @functools.cached_property
    def infos(self) -> StepInfo:
        """The steps with their part of the course, on the host: slices on the device would be small programs."""
        return jax.tree.map(np.asarray, self.course.of(self.steps))


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

    def inputs(self, indices: Int[np.ndarray, " b"], rows: Int[np.ndarray, " b"]) -> Inputs:
        """Returns what all steps of some pictures are computed from, by their indices and the rows of their queries."""
        run, rescale = self.run, self.settings.guidance_rescale
        keys = image_keys(self.settings.seed, jnp.asarray(indices, jnp.int32))
        return Inputs(
            context=self.context.rows(rows),
            infos=run.infos,
            first=np.int32(run.skipped),
            keys=np.asarray(jax.random.key_data(keys)),
            also=tuple(map(np.float32, run.course.also)),
            rescale=np.float32(rescale) if rescale else None,
            guides=tuple(one.of(indices) for one in run.guides),
        )

    def checked(self) -> Plan:
        """Returns the plan once it is sure that its conditions can be; raises UserError if not."""
        _ = self.context
        return self


def open_retriever(encoder: ClipEncoder, database: Databases | None) -> Retriever:
    """Returns what finds neighbours in a database, or in several.

    Raises:
      UserError: none was given, one is unknown, or it was made by another encoder.
    """
    if database is None:
        raise UserError(
            f"neighbors need a database (known: {', '.join(Database.names()) or 'none'}); "
            "name one, give the folder of one, or draw with condition 'text'"
        )
    if isinstance(database, Retriever):
        return database
    if isinstance(database, Mixture):
        return Retriever(encoder, database.databases, database.weights)
    several = [database] if isinstance(database, str | Path | Database) else database
    return Retriever(encoder, [one if isinstance(one, Database) else Database.open(one) for one in several])


def open_run(settings: Settings, scene: GuideContext, finder: Finder) -> Run:
    """Returns what all pictures of a run share: files are read, references encoded, steps planned.

    Args:
      settings: how to draw.
      scene: the model, for guides.
      finder: what makes tokens.

    Raises:
      UserError: a file, a guide, a condition, the sampler or the size cannot be.
    """
    sampler = factory.sampler_from(settings.sampler, settings.eta, settings.spacing)
    planned = sampler.plan(factory.schedule_from(scene.bundle.config["diffusion"]), settings.steps)
    total = num_steps(planned)
    skipped = min(round((1.0 - settings.strength) * total), total - 1) if settings.init else 0
    steps = slice_steps(planned, skipped, total)
    conditions = settings.conditions
    return Run(
        sampler=sampler,
        steps=steps,
        skipped=skipped,
        course=course_of(conditions, _course(settings, steps, scene.timesteps)),
        start=_start(settings, steps, scene),
        guides=bind_guides(settings.guides, scene),
        conditions=conditions,
        finder=finder,
    )


def finder_of(settings: Settings, scene: GuideContext, retriever: Retriever | None) -> Finder:
    """Returns what turns prompts, pictures and databases into tokens.

    Args:
      settings: how to draw.
      scene: the model.
      retriever: of the run's own databases; None where the condition has no neighbours.
    """
    config, width = scene.bundle.config, scene.encoder.identity["width"]
    null = factory.null_token(config)
    unit = bool(config["conditioning"].get("unit_tokens", False))

    def retrieve(queries: Float[np.ndarray, "q d"], database: str) -> Float[np.ndarray, "q k d"] | None:
        """Returns the vectors of the queries' neighbours."""
        if retriever is None:
            if database:
                raise UserError(f"condition 'text' looks at no database, and {database!r} is given; draw with another")
            return None
        asked = open_retriever(scene.encoder, database) if database else retriever
        return asked.retrieve(queries, settings.neighbors).embeddings

    return Finder(
        encoder=scene.encoder,
        latent=scene.latent[:2],
        size=scene.size,
        queries=np.zeros((0, width), np.float32),
        retrieve=retrieve,
        tokens=functools.partial(factory.context_tokens, settings.condition, unit=unit),
        query_tokens=int(settings.condition != "neighbors"),
        null=np.zeros(width, np.float32) if null is None else null,
    )


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


def _start(settings: Settings, steps: StepInfo, scene: GuideContext) -> Start:
    """Returns what a run starts from: noise, a picture made noisy, or the noise of a file."""
    one, nothing = np.ones((), np.float32), np.zeros((), np.float32)
    if not settings.init:
        return Start(np.zeros((1, *scene.latent), np.float32), nothing, one)
    if settings.init.endswith(".npy"):
        return Start(read_noise(settings.init, scene.latent), one, nothing)
    alpha, sigma = (np.asarray(steps.coefficients[name][0], np.float32) for name in ("alpha", "sigma"))
    return Start(scene.latent_of(settings.init), alpha, sigma)


def _course(settings: Settings, steps: StepInfo, timesteps: int) -> Course:
    """Returns the course of a run before its conditions: guidance within its interval."""
    times = np.asarray(steps.t, np.float32)
    guided = (times >= settings.guidance_from * timesteps - 0.5) & (times <= settings.guidance_to * timesteps + 0.5)
    whole = np.ones(len(times), np.float32)
    scale = np.where(guided, np.float32(settings.guidance_scale), whole)
    return Course(guidance=scale, share=whole, null_share=whole)
