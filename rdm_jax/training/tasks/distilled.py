"""Distillation: a finished diffusion model becomes one that samples in a few evaluations, guidance included.

The teacher's own task supplies images and the mixture of conditions that the teacher was trained on, rows without a
condition among them. The student starts as a copy of the teacher. A run has stages, in each of which the teacher is the
averaged student of the one before: it lies in the state's stats, so that a checkpoint holds all that a stage needs.
"""

from __future__ import annotations

import abc
import dataclasses
import functools
from collections.abc import Iterator, Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key, UInt8

from rdm_jax import factory, models
from rdm_jax.bundle import Bundle
from rdm_jax.core import trees
from rdm_jax.core.errors import UserError
from rdm_jax.core.progress import StageProgressCallback
from rdm_jax.data.batches import Record
from rdm_jax.data.image_set import ImageSet
from rdm_jax.diffusion.denoiser import Apply, Denoiser, make_denoiser
from rdm_jax.diffusion.experts import Experts
from rdm_jax.diffusion.objective import sample_timesteps
from rdm_jax.diffusion.schedule import Schedule
from rdm_jax.guidance.classifier_free import classifier_free_denoiser
from rdm_jax.heads.diffusion.few_steps import SECTION, Distilled
from rdm_jax.models.condition import Condition
from rdm_jax.training.config import Config
from rdm_jax.training.distillation import Method, Networks
from rdm_jax.training.distillation.comparison import Comparison
from rdm_jax.training.distillation.settings import method_of
from rdm_jax.training.model_record import STEPS, ModelRecord
from rdm_jax.training.state import Extras, State
from rdm_jax.training.step import with_params
from rdm_jax.training.tasks.base import Task
from rdm_jax.training.tasks.conditioned import open_base

GUIDANCE_DIM = 256  # of the embedding of a scale, as in released consistency models
LEAST_ALPHA = 1e-3  # of an eps-prediction's noisiest time: beyond it the error of x0 is a thousand times that of eps


@flax.struct.dataclass
class Examples:
    """Training examples.

    Attributes:
      x0: [b, h, w, c] latents.
      condition: of each; where nothing is conditioned on, it equals `null`.
      null: no condition, of arrays that broadcast to those of `condition`.
      unstyled: the condition without style neighbors, where these have a scale of their own.
    """

    x0: Any
    condition: Condition
    null: Condition
    unstyled: Condition | None = None


@dataclasses.dataclass(frozen=True)
class DistillTask(Task):
    """Distills a teacher.

    Attributes:
      inner: the teacher's own task, whose base is the teacher.
    """

    config: Config
    inner: Any

    @abc.abstractmethod
    def examples(self, frozen: Any, batch: Mapping[str, Array], key: Key[Array, ""]) -> Examples:
        """Returns the examples of a batch of the inner task.

        Args:
          frozen: what `frozen` has, on the devices.
          batch: of the inner task's records.
          key: of the random numbers.
        """

    @property
    def teacher(self) -> Bundle:
        """The model that is distilled."""
        return self.inner.base

    @property
    def schedule(self) -> Schedule:
        """The noise schedule."""
        return self.inner.schedule

    @property
    def style_scale(self) -> float:
        """The guidance scale of style neighbors; 0 is that of all."""
        return 0.0

    @functools.cached_property
    def method(self) -> Method:
        """How the student learns."""
        return method_of(self.config.method.to_dict())

    @functools.cached_property
    def settings(self) -> dict[str, Any]:
        """The configuration of the student's network."""
        embedded = {"guidance_dim": GUIDANCE_DIM} if self.config.guidance_range else {}
        return {**self.teacher.config["denoiser"], **embedded}

    @functools.cached_property
    def module(self) -> Any:
        """The student's network, which as its own teacher has the same parameters."""
        return models.build_denoiser(self.settings)

    @property
    def size(self) -> int:
        """The number of records in an epoch."""
        return self.inner.size

    @property
    def record(self) -> dict[str, str]:
        """Hashes of the data and of the teacher."""
        return self.inner.record

    @property
    def frozen(self) -> Any:
        """What the inner task's data need, and what makes conditions of the teacher."""
        return self.inner.frozen

    def read(self, row: int, generator: np.random.Generator) -> Record:
        """Returns a record of the inner task."""
        return self.inner.read(row, generator)

    def complete(self, batch: Record) -> Record:
        """Returns a batch of the inner task."""
        return self.inner.complete(batch)

    @property
    def stages(self) -> tuple[int, ...]:
        """The number of updates of each stage."""
        return tuple(self.config.updates)

    def init(self, key: Key[Array, ""]) -> tuple[Any, Any]:
        """Returns zeros in the shapes of the student and of its teacher; the first stage puts the teacher there."""
        shapes = trees.unflatten(models.abstract_params(self.module))

        def zeros() -> Any:
            return jax.tree.map(lambda shape: jnp.zeros(shape.shape, jnp.float32), shapes)

        names = ("teacher",) if self.method.target_decay is None else ("teacher", "target")
        return {"denoiser": zeros(), STEPS: {"count": jnp.zeros(())}}, {name: zeros() for name in names}

    def begin_stage(self, state: State, stage: int) -> State:
        """Returns the state in which student, average, teacher and target are the teacher's or the averaged student."""
        # A copy: on a CPU, JAX may use the memory of a NumPy array, which an update would then overwrite.
        network = state.ema["denoiser"] if stage else jax.tree.map(np.array, self.first_network)
        state = with_params(state, {"denoiser": network, STEPS: {"count": np.float32(self.config.stages[stage])}})

        def copied(old: Array, new: Array) -> Array:
            return jax.device_put(jnp.copy(new), old.sharding)

        stats = {name: jax.tree.map(copied, old, state.params["denoiser"]) for name, old in state.stats.items()}
        return dataclasses.replace(state, stats=stats)

    @functools.cached_property
    def first_network(self) -> Any:
        """The teacher's parameters, with zeros for those that embed a scale."""
        wanted, own = models.abstract_params(self.module), trees.flatten(self.teacher.params["denoiser"])
        added = {name: np.zeros(wanted[name].shape, np.float32) for name in wanted.keys() - own.keys()}
        return trees.unflatten({**own, **added})

    def loss(
        self, params: Any, extras: Extras, batch: dict[str, Array], key: Key[Array, ""], step: Array
    ) -> tuple[Array, tuple[dict[str, Array], Any]]:
        """Returns the method's loss, the number of steps of the student, and the target's new average."""
        example_key, noise_key, place_key, scale_key = jax.random.split(key, 4)
        examples, stats = self.examples(extras.frozen, batch, example_key), extras.stats
        steps = jnp.rint(jax.lax.stop_gradient(params[STEPS]["count"])).astype(jnp.int32)
        scale, target = self._scales(scale_key, len(examples.x0)), None
        if self.method.target_decay is not None:
            stats = {**stats, "target": self._average(stats["target"], params["denoiser"])}
            target = self.student(stats["target"], examples, scale)
        networks = Networks(
            self.student(params["denoiser"], examples, scale),
            self._teacher_of_stage(stats["teacher"], examples, scale, steps),
            target,
        )
        places = self.method.places(self._grid, steps)
        place = sample_timesteps(place_key, len(examples.x0), places)
        noise = jax.random.normal(noise_key, examples.x0.shape)
        losses = self.method.losses(networks, self._grid, steps, place, examples.x0, noise)
        return jnp.mean(losses), ({"student_steps": steps.astype(jnp.float32)}, stats)

    @functools.cached_property
    def _grid(self) -> Any:
        return self.method.grid(self.schedule, tuple(self.config.stages))

    def _scales(self, key: Key[Array, ""], count: int) -> Float[Array, " b"] | None:
        """Returns the guidance scale of each example, random where the student takes it; None without guidance."""
        if self.config.guidance_range:
            low, high = self.config.guidance_range
            return jax.random.uniform(key, (count,), minval=low, maxval=high)
        return jnp.full((count,), self.config.guidance_scale) if self.guided else None

    @property
    def guided(self) -> bool:
        """Whether the teacher is guided."""
        config = self.config
        return bool(config.guidance_scale != 1 or config.guidance_range or self.style_scale)

    def _average(self, target: Any, student: Any) -> Any:
        """Returns the moving average after one more part of a step; all parts have the same student."""
        assert self.method.target_decay is not None
        decay = self.method.target_decay ** (1.0 / self.config.accumulate)
        return jax.tree.map(lambda t, s: decay * t + (1.0 - decay) * jax.lax.stop_gradient(s), target, student)

    def _apply(self, params: Any) -> Apply:
        return lambda x, t, condition: self.module.apply({"params": params}, x, t, condition)

    @property
    def _prediction(self) -> str:
        return self.teacher.config["diffusion"]["prediction"]

    def student(self, params: Any, examples: Examples, scale: Float[Array, " b"] | None) -> Denoiser:
        """Returns a student under the examples' conditions, with the scale as an input where it takes it."""
        embedded = scale if self.config.guidance_range else None
        condition = dataclasses.replace(examples.condition, guidance=embedded)
        return make_denoiser(self._apply(params), condition, self._prediction)

    def guided_teacher(self, params: Any, examples: Examples, scale: Float[Array, " b"] | None) -> Denoiser:
        """Returns the first teacher, guided at a scale; the network without guidance if the scale is None."""
        apply, unstyled = self._apply(params), examples.unstyled
        if scale is None:
            return make_denoiser(apply, examples.condition, self._prediction)
        also = []
        if unstyled is not None:  # the same terms as in a run (`heads.diffusion.plan`)
            scale, also = jnp.full_like(scale, self.style_scale), [(unstyled, scale - self.style_scale)]
        return classifier_free_denoiser(apply, examples.condition, examples.null, scale, self._prediction, also=also)

    def _teacher_of_stage(
        self, params: Any, examples: Examples, scale: Float[Array, " b"] | None, steps: Array
    ) -> Denoiser:
        """Returns the teacher of a stage: guided in the first one, later a student, in which guidance is built in."""
        guided, student = self.guided_teacher(params, examples, scale), self.student(params, examples, scale)
        if not self.guided or len(self.config.stages) == 1:
            return guided
        return lambda z, info: jax.lax.cond(steps == self.config.stages[0], guided, student, z, info)

    def evaluate(self, params: Any) -> Iterator[tuple[str, float]]:
        """Yields distances to the teacher's result from the same noise (see `Comparison.distances`)."""
        yield from self._comparison.distances(params)

    def figures(self, params: Any) -> Iterator[tuple[str, UInt8[np.ndarray, "h w 3"]]]:
        """Yields images of the teacher and of the student from the same noise."""
        yield from self._comparison.figures(params)

    @functools.cached_property
    def _comparison(self) -> Comparison:
        return Comparison(self)

    @property
    def model(self) -> ModelRecord:
        """The teacher with the student's network in place of its own."""
        kept = {k: v for k, v in self.teacher.config.items() if k not in ("sha256", "schema", "training")}
        config, steps = self.config, self.config.stages[0]
        made = Distilled(
            teacher=self.teacher.name,
            method=config.method.kind,
            sampler=self.method.sampler,
            spacing=self.method.spacing,
            steps=0 if self.method.any_steps else steps,
            guidance_scale=config.guidance_scale,
            style_scale=self.style_scale,
            guidance_range=tuple(config.guidance_range),
        )
        changed = {
            "name": config.name,
            "denoiser": self.settings,
            "sampling": {**made.sampling(kept["sampling"]), "steps": steps},
            SECTION: made.section(),
        }
        parts = tuple(part for part in self.teacher.params if part != "denoiser")
        return ModelRecord.of({**kept, **changed}, self.teacher, config.teacher, parts)

    def export(self, params: Any) -> Bundle:
        """Returns the model with averaged parameters."""
        return self.model.bundle(params, self.teacher)


def open_teacher(
    config: Config, progress: StageProgressCallback, start: Bundle | None
) -> tuple[Config, Bundle, ImageSet]:
    """Returns the configuration of the teacher's own task, the teacher, and the training images.

    Raises:
      UserError: the teacher lacks a part or a null condition, does not fit the images, or cannot be distilled.
    """
    if start is not None:
        raise UserError("a student starts from its teacher; leave --init-from out")
    inner = config.copy_and_resolve_references().unlock()
    inner.base = config.teacher
    teacher, images = open_base(inner, progress)
    teacher.require("denoiser")
    factory.check_settings(teacher.config)
    check_teacher(config, teacher)
    factory.latent_shape(teacher.denoiser, teacher.autoencoder, config.data.size, config.data.size)
    for section in ("latents", "diffusion"):
        inner[section] = type(inner)(teacher.config[section])
    return inner, teacher, images


def check_teacher(config: Config, teacher: Bundle) -> None:
    """Raises UserError unless a teacher can be distilled with the guidance of a run."""
    name, before = teacher.name, Distilled.of(teacher)
    if Experts.of(teacher.config["diffusion"]) is not None:
        raise UserError(f"teacher {name!r} has experts for ranges of noise; distill one of the models it is made of")
    if teacher.denoiser.stages > 1:
        raise UserError(
            f"teacher {name!r} generates from coarse to fine, and a student denoises whole latents; give a teacher of "
            "one stage"
        )
    guided = config.guidance_scale != 1 or config.guidance_range or config.get("style_scale")
    if before and (before.guidance_range or guided):
        raise UserError(
            f"teacher {name!r} was distilled already and has guidance built in; distill its own teacher, "
            f"{before.teacher!r}" + ("" if before.guidance_range else ", or set --config.guidance_scale=1")
        )
    if guided and not config.conditioning.null_probability:
        raise UserError(
            f"teacher {name!r} has no null condition (conditioning.null_probability=0), so there is no guidance to "
            "reproduce; set --config.guidance_scale=1, or give the probability that it was trained with"
        )
    diffusion = teacher.config["diffusion"]
    least = factory.schedule_from(diffusion).signal[-1]
    if diffusion["prediction"] == "eps" and least < LEAST_ALPHA:
        raise UserError(
            f"teacher {name!r} predicts eps, and at its noisiest time the image has the factor {least:.1g}, so that "
            "one step cannot start there; train a teacher that predicts v"
        )
