"""Each network that a step asks, compiled alone: a scan over as many steps, in the shapes of a run and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rdm_jax.run import Plan

from draws.cases import Case
from draws.job import Job
from rdm_jax import factory, program
from rdm_jax.bundle import Bundle
from rdm_jax.guidance import CLIPGuidance
from rdm_jax.models.condition import Condition

CHUNK = 10  # steps of one call
LITTLE = 1e-3  # of what a network says is added to what it is shown next, for every call to be needed

Step = Callable[[Any, Any, Any], Any]
"""Parameters, what is shown and the time to an array of the shape of what is shown."""


def gradient(forward: Step) -> Step:
    """Returns the step that takes what a network says back to what it was shown."""

    def step(params: Any, x: Any, t: Any) -> Any:
        """Returns the gradient of half of the sum of squares, as the network's own outputs are the cotangents."""
        said, back = jax.vjp(lambda shown: forward(params, shown, t), x)
        return back(said)[0]

    return step


def unet(bundle: Bundle, plan: Plan) -> Step:
    """Returns the U-Net's step under all conditions of a plan at once, as classifier-free guidance asks it."""
    context = plan.context.rows(np.asarray(plan.rows))
    several = [context.null, context.given, *context.also] if plan.run.guided else [context.given]
    tokens = jnp.concatenate([jnp.asarray(one.tokens, jnp.float32) for one in several])
    weighted = [jnp.asarray(one.weights) for one in several if one.weights is not None]
    weights = jnp.concatenate(weighted) if weighted else None

    def step(params: Any, x: Any, t: Any) -> Any:
        """Returns the mean of what is said under all of them."""
        times = jnp.full(len(x) * len(several), t)
        said: Any = bundle.denoiser.apply(
            {"params": params}, jnp.concatenate([x] * len(several)), times, Condition(tokens, weights)
        )
        return jnp.mean(said[..., : x.shape[-1]].reshape(len(several), *x.shape), axis=0)

    return step


def noised(bundle: Bundle, part: str, *, maps: bool) -> Step:
    """Returns the step of a network of noisy latents, with what its levels saw or the vector alone."""
    module: Any = getattr(bundle, part)

    def step(params: Any, x: Any, t: Any) -> Any:
        """Returns the vector and, if they are asked for, the maps."""
        vector, seen = module.apply({"params": params}, x, jnp.full(len(x), t), mutable=["intermediates"])
        return (vector, seen["intermediates"]) if maps else vector

    return step


def summed(forward: Step) -> Step:
    """Returns the step of a network asked without a gradient: what is shown, plus the mean of all that is said."""

    def step(params: Any, x: Any, t: Any) -> Any:
        """Returns the sum."""
        leaves = jax.tree.leaves(forward(params, x, t))
        return x + jnp.mean(jnp.stack([jnp.mean(leaf) for leaf in leaves]))

    return step


def clip(bundle: Bundle) -> Step:
    """Returns the step of CLIP's image tower."""

    def step(params: Any, x: Any, t: Any) -> Any:
        """Returns the vectors."""
        return bundle.clip.apply({"params": params}, x, method="encode_image")

    return step


def decoder(bundle: Bundle) -> Step:
    """Returns the step of the decoder."""
    decode = factory.decoder_from(bundle.autoencoder, bundle.config["latents"])
    return lambda params, x, t: decode(params, x)


OTHERS: Mapping[str, tuple[str, Callable[[Bundle], Step]]] = {
    "tower": ("noised_clip", lambda bundle: gradient(noised(bundle, "noised_clip", maps=False))),
    "tower, maps": ("noised_clip", lambda bundle: gradient(noised(bundle, "noised_clip", maps=True))),
    "tower, reference": ("noised_clip", lambda bundle: summed(noised(bundle, "noised_clip", maps=True))),
    "classifier": ("noised_classifier", lambda bundle: gradient(noised(bundle, "noised_classifier", maps=False))),
    "decoder": ("autoencoder", lambda bundle: gradient(decoder(bundle))),
    "clip": ("clip", lambda bundle: gradient(clip(bundle))),
}
"""Beside the U-Net, by name: the part of the bundle that is read, and its step."""


def alone(step: Step, params: Any, x: jax.Array, options: Any) -> Callable[[], Any]:
    """Returns the call of a scan of `CHUNK` steps of one network, compiled as a run is, which waits for its end."""

    def chunk(params: Any, x: Any, times: Any) -> Any:
        """Returns what is shown at the end."""

        def body(shown: Any, t: Any) -> tuple[Any, None]:
            """Asks the network once."""
            # As in a run: nothing is made of the parameters before the first step.
            tied, shown = jax.lax.optimization_barrier((params, shown))
            return shown + LITTLE * step(tied, shown, t), None

        return jax.lax.scan(body, x, times)[0]

    times = jnp.linspace(900, 100, CHUNK).astype(jnp.int32)
    compiled = jax.jit(chunk).lower(params, x, times).compile(options)
    return lambda: jax.block_until_ready(compiled(params, x, times))


def shown_to(name: str, job: Job, plan: Plan) -> jax.Array:
    """Returns what a network is shown: noise of the shape of a run's latents, or of the cutouts of its pictures."""
    latent = plan.run.start.latent.shape[1:]
    shape = (len(plan.indices), *latent)
    if name == "clip":
        size = job.generator.bundle.clip.vision.image_size
        shape = (len(plan.indices) * CLIPGuidance().cutouts, size, size, 3)
    return jax.random.normal(jax.random.key(0), shape)


class Alone:
    """The networks of several plans, each compiled once."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.calls: dict[str, Callable[[], Any]] = {}
        self._unets: dict[Any, str] = {}
        self._options = program.compiler_options(job.generator.bundle)

    def of(self, case: Case, plan: Plan) -> list[str]:
        """Returns the names in `calls` of the networks that one step of a plan asks."""
        return [self._unet(case, plan), *(self._other(name, plan) for name in case.reads)]

    def _unet(self, case: Case, plan: Plan) -> str:
        copies = 2 + len(plan.run.course.also) if plan.run.guided else 1
        context = plan.context
        tokens = context.given.tokens.shape[1:]
        weights = None if context.given.weights is None else context.given.weights.shape[1:]
        key = copies, tokens, weights, case.through
        if key not in self._unets:
            bundle, words = self.job.generator.bundle, ("" if weights is None else ", weighted")
            name = f"U-Net, {copies} conditions of {tokens[0]} tokens{words}{', gradient' if case.through else ''}"
            step = gradient(unet(bundle, plan)) if case.through else unet(bundle, plan)
            self.calls[name] = alone(
                step, bundle.params["denoiser"], shown_to("denoiser", self.job, plan), self._options
            )
            self._unets[key] = name
        return self._unets[key]

    def _other(self, name: str, plan: Plan) -> str:
        if name not in self.calls:
            part, make = OTHERS[name]
            bundle = self.job.generator.bundle
            shown = shown_to(name, self.job, plan)
            self.calls[name] = alone(make(bundle), bundle.params[part], shown, self._options)
        return name
