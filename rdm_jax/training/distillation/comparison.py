"""How far a student's images are from its teacher's, from the same noise and under the same conditions."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, UInt8

from rdm_jax import factory
from rdm_jax.core import sheets
from rdm_jax.core.images import to_uint8
from rdm_jax.core.keys import image_keys, normal
from rdm_jax.diffusion.samplers import SAMPLERS, sample, with_keys
from rdm_jax.training.model_record import steps_of

BATCHES = 4
SHOWN = 8
REFERENCE = "ddim", "trailing"  # the teacher's sampler


@dataclasses.dataclass(frozen=True, eq=False)
class Comparison:
    """Evaluates a distillation task on its held-out images.

    Attributes:
      task: a `training.tasks.distill.DistillTask`.
    """

    task: Any
    _programs: dict[tuple[bool, int], Callable[..., Array]] = dataclasses.field(default_factory=dict)
    _distances: dict[int, float] = dataclasses.field(default_factory=dict)

    def distances(self, params: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
        """Yields the root mean square distance of latents to the teacher's in many steps.

        Args:
          params: of the task: those of the student, and its number of steps.

        Yields:
          `distance`: of the student's; `teacher_distance`: of the guided teacher's in as many steps. Nothing if there
          is not one batch of held-out images.
        """
        if not self._examples:
            return
        steps = steps_of(params)
        yield "distance", self._distance(self._results(params["denoiser"], guided=False, steps=steps))
        if steps not in self._distances:
            self._distances[steps] = self._distance(self._results(self._teacher, guided=True, steps=steps))
        yield "teacher_distance", self._distances[steps]

    def figures(self, params: Mapping[str, Any]) -> Iterator[tuple[str, UInt8[np.ndarray, "h w 3"]]]:
        """Yields one sheet: images of the teacher in many steps, and of the student in its own number of steps."""
        if not self._examples:
            return
        steps, decoder = steps_of(params), self.task.teacher.params["autoencoder"]
        first = self._results(params["denoiser"], guided=False, steps=steps, batches=1)[0][:SHOWN]
        latents = {"teacher": self._reference[0][: len(first)], f"{steps} steps": first}
        images = [to_uint8(np.asarray(self._decode(decoder, one))) for one in latents.values()]
        yield "samples", sheets.grid(np.stack(images), row_labels=list(latents), zoom=1)

    @functools.cached_property
    def _decode(self) -> Callable[..., Array]:
        bundle = self.task.teacher
        return jax.jit(factory.decoder_from(bundle.autoencoder, bundle.config["latents"]))

    @property
    def _teacher(self) -> Any:
        """The teacher's parameters, with those that its network alone does not have."""
        return self.task.first_network

    @functools.cached_property
    def _examples(self) -> list[Any]:
        """The held-out examples, in batches."""
        batches = list(itertools.islice(self.task.inner.held_out_batches(), BATCHES))
        if not batches:
            return []
        frozen, examples = jax.device_put(self.task.frozen), jax.jit(self.task.examples)
        return [examples(frozen, batch, jax.random.key(i)) for i, batch in enumerate(batches)]

    @functools.cached_property
    def _reference(self) -> list[Array]:
        """The teacher's latents in many steps."""
        return self._results(self._teacher, guided=True, steps=self.task.config.reference_steps)

    def _distance(self, results: list[Array]) -> float:
        squares = [jnp.mean(jnp.square(a - b)) for a, b in zip(results, self._reference, strict=True)]
        return float(jnp.sqrt(jnp.mean(jnp.stack(squares))))

    def _results(self, params: Any, *, guided: bool, steps: int, batches: int = BATCHES) -> list[Array]:
        """Returns the latents that a network generates from the noise of each batch."""
        if (guided, steps) not in self._programs:
            self._programs[guided, steps] = jax.jit(functools.partial(self._generate, guided, steps))
        program = self._programs[guided, steps]
        return [program(params, examples, i) for i, examples in enumerate(self._examples[:batches])]

    def _generate(self, guided: bool, steps: int, params: Any, examples: Any, batch: Array) -> Array:
        """Returns latents of one batch, whose image i has the key of its number in all batches."""
        task, count = self.task, len(examples.x0)
        name, spacing = REFERENCE if guided else (task.method.sampler, task.method.spacing)
        sampler = SAMPLERS[name](spacing=spacing)
        keys = image_keys(0, batch * count + jnp.arange(count))
        plan = sampler.plan(task.schedule, steps)
        plan = with_keys(plan, keys) if sampler.needs_noise else plan
        scale = jnp.full((count,), task.config.guidance_scale) if task.guided else None
        denoiser = (task.guided_teacher if guided else task.student)(params, examples, scale)
        return sample(sampler, plan, normal(keys, examples.x0.shape[1:]), denoiser)
