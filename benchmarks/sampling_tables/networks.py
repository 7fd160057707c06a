"""The networks that a step evaluates, each compiled alone: a scan of as many steps, in the shapes of a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rdm_jax import factory
from rdm_jax.bundle import Bundle
from rdm_jax.guidance import CLIPGuidance
from rdm_jax.heads.base import Plan
from rdm_jax.heads.compiling import compiler_options
from rdm_jax.models.condition import Condition
from sampling_tables.cases import Case
from sampling_tables.job import Job

CHUNK = 10  # steps in one call
FEEDBACK = 1e-3  # the factor of an output that is added to the next input, so that no evaluation is optimized away

Step = Callable[[Any, Any, Any], Any]
"""(parameters, input, time) to an array of the input's shape."""


def gradient(forward: Step) -> Step:
    """Returns the step that evaluates a network and its gradient with respect to the input."""

    def step(params: Any, x: Any, t: Any) -> Any:
        """Returns the gradient of half the sum of squared outputs: the cotangents are the outputs themselves."""
        output, vjp = jax.vjp(lambda x: forward(params, x, t), x)
        return vjp(output)[0]

    return step


def denoiser(bundle: Bundle, plan: Plan) -> Step:
    """Returns the step of the denoiser under all conditions of a plan, in one batch as in classifier-free guidance."""
    context = plan.context.rows(np.asarray(plan.rows))
    several = [context.null, context.given, *context.also] if plan.run.guided else [context.given]
    tokens = jnp.concatenate([jnp.asarray(one.tokens, jnp.float32) for one in several])
    weighted = [jnp.asarray(one.weights) for one in several if one.weights is not None]
    weights = jnp.concatenate(weighted) if weighted else None

    def step(params: Any, x: Any, t: Any) -> Any:
        """Returns the mean output over the conditions."""
        times = jnp.full(len(x) * len(several), t)
        output: Any = bundle.denoiser.apply(
            {"params": params}, jnp.concatenate([x] * len(several)), times, Condition(tokens, weights)
        )
        return jnp.mean(output[..., : x.shape[-1]].reshape(len(several), *x.shape), axis=0)

    return step


def noised(bundle: Bundle, part: str, *, maps: bool) -> Step:
    """Returns the step of an encoder of noisy latents, with its feature maps or the vector alone."""
    module: Any = getattr(bundle, part)

    def step(params: Any, x: Any, t: Any) -> Any:
        """Returns the vector, or (vector, maps)."""
        vector, state = module.apply({"params": params}, x, jnp.full(len(x), t), mutable=["intermediates"])
        return (vector, state["intermediates"]) if maps else vector

    return step


def forward_only(forward: Step) -> Step:
    """Returns the step that evaluates a network without a gradient: the input plus the mean of all outputs."""

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
    "encoder": ("noised_clip", lambda bundle: gradient(noised(bundle, "noised_clip", maps=False))),
    "encoder, maps": ("noised_clip", lambda bundle: gradient(noised(bundle, "noised_clip", maps=True))),
    "encoder, reference": ("noised_clip", lambda bundle: forward_only(noised(bundle, "noised_clip", maps=True))),
    "classifier": ("noised_classifier", lambda bundle: gradient(noised(bundle, "noised_classifier", maps=False))),
    "decoder": ("autoencoder", lambda bundle: gradient(decoder(bundle))),
    "clip": ("clip", lambda bundle: gradient(clip(bundle))),
}
"""The networks beside the denoiser, by name: the part of the bundle, and its step."""


def compile_scan(step: Step, params: Any, x: jax.Array, options: Any) -> Callable[[], Any]:
    """Returns a function that calls the compiled scan of `CHUNK` steps of one network and waits for its end."""

    def chunk(params: Any, x: Any, times: Any) -> Any:
        """Returns the input after all steps."""

        def body(x: Any, t: Any) -> tuple[Any, None]:
            """Evaluates the network once."""
            # As in a run: nothing is computed from the parameters before the first step.
            tied, x = jax.lax.optimization_barrier((params, x))
            return x + FEEDBACK * step(tied, x, t), None

        return jax.lax.scan(body, x, times)[0]

    times = jnp.linspace(900, 100, CHUNK).astype(jnp.int32)
    compiled = jax.jit(chunk).lower(params, x, times).compile(options)
    return lambda: jax.block_until_ready(compiled(params, x, times))


def random_input(name: str, job: Job, plan: Plan) -> jax.Array:
    """Returns a network's input: noise of the shape of a run's latents, or of the cutouts of its images."""
    shape = (len(plan.indices), *plan.run.start.latent.shape[1:])
    if name == "clip":
        size = job.generator.bundle.clip.vision.image_size
        shape = (len(plan.indices) * CLIPGuidance().cutouts, size, size, 3)
    return jax.random.normal(jax.random.key(0), shape)


class SingleNetworks:
    """The networks of several plans, each compiled once; `calls` holds them by name."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.calls: dict[str, Callable[[], Any]] = {}
        self._options = compiler_options(job.generator.bundle, "denoiser")

    def of(self, case: Case, plan: Plan) -> list[str]:
        """Returns the names in `calls` of the networks that one step of a plan evaluates."""
        return [self._denoiser(case, plan), *(self._other(name, plan) for name in case.networks)]

    def _denoiser(self, case: Case, plan: Plan) -> str:
        copies = 2 + len(plan.run.schedule.also) if plan.run.guided else 1
        given = plan.context.given
        weighted = "" if given.weights is None else f", weights {list(given.weights.shape[1:])}"
        name = f"denoiser, {copies} x {given.tokens.shape[1]} tokens{weighted}"
        name += ", gradient" if case.backward else ""
        if name not in self.calls:
            step = denoiser(self.job.generator.bundle, plan)
            self._compile(name, "denoiser", gradient(step) if case.backward else step, plan)
        return name

    def _other(self, name: str, plan: Plan) -> str:
        if name not in self.calls:
            part, make = OTHERS[name]
            self._compile(name, part, make(self.job.generator.bundle), plan)
        return name

    def _compile(self, name: str, part: str, step: Step, plan: Plan) -> None:
        params = self.job.generator.bundle.params[part]
        self.calls[name] = compile_scan(step, params, random_input(name, self.job, plan), self._options)
