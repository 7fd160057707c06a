"""Disentangled editing: two conditions mixed, one weight for each step (Wu et al. 2022,
https://arxiv.org/abs/2212.08698).

Replacing a condition in some of the steps changes an attribute and keeps the rest. The weights, about 50 numbers, are
learned by Adam, through all steps of a run, with a directional CLIP loss and a perceptual loss (eq. 4). They also apply
to other images and seeds. The two conditions may be two texts, or the neighbors from two databases: a style as 50
numbers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from rdm_jax import factory
from rdm_jax.bundle import Bundle
from rdm_jax.conditioning import Mix, Switch
from rdm_jax.core.errors import UserError
from rdm_jax.core.keys import normal
from rdm_jax.core.progress import ProgressCallback
from rdm_jax.core.vectors import unit
from rdm_jax.diffusion.denoiser import Denoiser, StepInfo
from rdm_jax.diffusion.samplers import Sampler
from rdm_jax.editing.support import require
from rdm_jax.generator import Generator, Plan
from rdm_jax.heads.diffusion.plan import Run
from rdm_jax.heads.diffusion.program import Inputs, conditioned_denoiser, inputs_of

PERCEPTUAL_WEIGHT = 0.05  # of the loss that preserves the image, as in the paper
LEARNING_RATE = 0.05
KEPT_AT_FIRST = 0.4  # the fraction of steps with the first condition at the start: 20 of 50 in the paper


@dataclasses.dataclass(frozen=True)
class Learned:
    """The result of learning.

    Attributes:
      weights: [n] of the first condition in each step.
      losses: the loss before each update, and at the end.
      bytes: the peak temporary memory of the compiled program.
    """

    weights: Float[np.ndarray, " n"]
    losses: list[float]
    bytes: int


def first_weights(steps: int, kept: float = KEPT_AT_FIRST) -> Float[np.ndarray, " n"]:
    """Returns the initial weights: 1 in a fraction of the steps, the noisiest, and 0 in the others."""
    return (np.arange(steps) < round(kept * steps)).astype(np.float32)


def trajectory(sampler: Sampler, steps: StepInfo, x_T: Float[Array, "b h w c"], denoiser: Denoiser) -> Array:
    """Returns the latent at the end of a plan; its gradient stores only one carry for each step."""

    @jax.checkpoint
    def step(carry: Any, info: StepInfo) -> tuple[Any, None]:
        """Returns the carry after one step."""
        return sampler.step(carry, info, denoiser)[0], None

    return jax.lax.scan(step, sampler.init(x_T), steps)[0].x


def directional_loss(
    edited: Float[Array, "b d"], plain: Float[Array, "b d"], direction: Float[Array, "b d"]
) -> Float[Array, " b"]:
    """Returns 1 - cos(edited - plain, direction) of CLIP vectors (StyleGAN-NADA, https://arxiv.org/abs/2108.00946)."""
    change = edited - plain
    towards = direction / jnp.maximum(jnp.linalg.norm(direction, axis=-1, keepdims=True), 1e-12)
    # Without any change there is no direction, and the norm has no gradient.
    return 1.0 - jnp.sum(change * towards, axis=-1) / jnp.sqrt(jnp.sum(jnp.square(change), axis=-1) + 1e-8)


def perceptual_loss(maps: Sequence[Float[Array, "b _ _ _"]], plain: Sequence[Float[Array, "b _ _ _"]]) -> Array:
    """Returns the mean absolute difference of feature maps, in units of their own size, summed over the maps, [b]."""
    axes = (1, 2, 3)
    distances = [
        jnp.mean(jnp.abs(a - b), axis=axes) / jnp.maximum(jnp.mean(jnp.abs(b), axis=axes), 1e-6)
        for a, b in zip(maps, plain, strict=True)
    ]
    return jnp.sum(jnp.stack(distances), axis=0)


def learn(
    generator: Generator,
    plan: Plan,
    *,
    iterations: int = 10,
    perceptual_weight: float = PERCEPTUAL_WEIGHT,
    learning_rate: float = LEARNING_RATE,
    progress: ProgressCallback = lambda done, total: None,
) -> Learned:
    """Learns the weights of a plan's two conditions from its images, all of them at once.

    Args:
      generator: the model; the perceptual loss compares feature maps of its noised CLIP at time 0.
      plan: with a condition that turns into another ("mix" or "switch"), whose weights are the initial ones.
      iterations: updates.
      perceptual_weight: of the loss that preserves the image.
      learning_rate: of Adam.
      progress: called with (updates done, updates in all).

    Raises:
      UserError: the model has no noised CLIP, the plan has nothing to mix or has guides, or the loss is not
        finite.
    """
    require(generator, "mixing")
    bundle, run = generator.bundle, plan.run
    if not bundle.has("noised_clip"):
        raise UserError(
            f"mixing needs the model's noised_clip, and {bundle.name!r} has none; train it by "
            "`rdm train --config noised_clip --config.base=MODEL` and `rdm export`"
        )
    if plan.context.given.target is None or run.guides:
        raise UserError("there is nothing to mix; plan with one condition that turns into another, and without guides")
    indices, rows = np.asarray(plan.indices), np.asarray(plan.rows)
    inputs = inputs_of(plan, indices, rows)
    noise = normal(jax.random.wrap_key_data(jnp.asarray(inputs.keys)), run.start.latent.shape[1:])
    x_T = jnp.asarray(run.start.add_noise(noise))
    params = {part: bundle.params[part] for part in ("denoiser", "autoencoder", "clip", "noised_clip")}
    features = jax.jit(feature_function(bundle, run))
    weights = jnp.asarray(run.schedule.weight)
    plain = features(params, inputs, x_T, jnp.ones_like(weights))
    direction = jnp.asarray(direction_of(plan)[rows])

    def loss(weights: Array, params: Any, inputs: Inputs, x_T: Array, plain: Any, direction: Array) -> Array:
        """Returns the mean loss of the images."""
        vectors, maps = features(params, inputs, x_T, weights)
        change = perceptual_loss(maps, plain[1])
        return jnp.mean(directional_loss(vectors, plain[0], direction) + perceptual_weight * change)

    arguments = (params, inputs, x_T, plain, direction)
    value_and_gradient = jax.jit(jax.value_and_grad(loss)).lower(weights, *arguments).compile()
    optimizer = optax.adam(learning_rate)
    state, losses = optimizer.init(weights), []
    for done in range(iterations + 1):
        value, gradient = value_and_gradient(weights, *arguments)
        losses.append(float(value))
        if not np.isfinite(losses[-1]):
            raise UserError(
                f"the loss is not finite after {done} updates; lower the learning rate, {learning_rate} now"
            )
        if done < iterations:
            updates, state = optimizer.update(gradient, state, weights)
            weights = jnp.asarray(optax.apply_updates(weights, updates))
        progress(done, iterations)
    memory = value_and_gradient.memory_analysis()
    return Learned(np.asarray(weights), losses, int(memory.temp_size_in_bytes) if memory else 0)


def feature_function(bundle: Bundle, run: Run) -> Callable[..., tuple[Array, list[Array]]]:
    """Returns the function (parameters, inputs, x_T, weights [n]) to the CLIP vectors of the images, and the feature
    maps of the noised CLIP at time 0."""
    decode = factory.decoder_from(bundle.autoencoder, bundle.config["latents"])
    encode = factory.image_encoder_from(bundle.clip, bundle.config["clip"])
    maps_of = factory.noised_encoder_from(bundle.noised_clip)
    size = int(bundle.clip.vision.image_size)

    def features(params: Any, inputs: Inputs, x_T: Array, weights: Array) -> tuple[Array, list[Array]]:
        """Samples the images and returns their features."""
        infos = inputs.keyed_steps() if run.sampler.needs_noise else inputs.infos
        infos = dataclasses.replace(infos, coefficients={**infos.coefficients, "weight": weights})
        denoiser = conditioned_denoiser(bundle, params, inputs, guided=run.guided)
        x0 = trajectory(run.sampler, infos, x_T, denoiser)
        images = decode(params["autoencoder"], x0)
        squares = jax.image.resize(images, (len(images), size, size, 3), "cubic")
        return encode(params["clip"], squares), maps_of(params["noised_clip"], x0, jnp.zeros(len(x0)))[1]

    return features


def direction_of(plan: Plan) -> Float[np.ndarray, "q d"]:
    """Returns the direction to a plan's second condition in CLIP's space, for each query.

    It is the sum of the differences of the query vectors and of the means of the neighbors' vectors, those that the
    condition has: between two texts, two databases, or both.

    Raises:
      UserError: both conditions are the same.
    """
    if plan.builder.reader is not None or plan.builder.encoders is not None:
        return _text_direction(plan)
    count, given = plan.builder.query_tokens, plan.context.given
    change = unit(given.target) - unit(given.tokens)
    direction = sum(part.mean(axis=1) for part in (change[:, :count], change[:, count:]) if part.shape[1])
    return _checked(np.asarray(direction))


def _text_direction(plan: Plan) -> Float[np.ndarray, "q d"]:
    """Returns the direction between two prompts in CLIP's space, where the context has another space."""
    turning = [one for one in plan.request.conditions if isinstance(one, Switch | Mix)]
    builder = dataclasses.replace(plan.builder, queries=plan.queries)
    return _checked(unit(turning[-1].query_vectors(builder)) - unit(plan.queries))


def _checked(direction: Float[np.ndarray, "q d"]) -> Float[np.ndarray, "q d"]:
    if (np.linalg.norm(direction, axis=-1) < 1e-6).any():
        raise UserError("both conditions are the same; give another prompt or another database to mix with")
    return direction
