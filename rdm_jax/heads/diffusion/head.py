"""The diffusion head: see `heads.base.Head`."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from rdm_jax import factory
from rdm_jax.bundle import Bundle
from rdm_jax.conditioning.roles import two_roles
from rdm_jax.core.errors import UserError
from rdm_jax.core.images import pad, to_float
from rdm_jax.diffusion.samplers.coarse_to_fine import CoarseToFine
from rdm_jax.guidance.base import GuideContext
from rdm_jax.heads.base import Model, Plan, negative_conditions, warn_unused
from rdm_jax.heads.compiling import Compiler, chunk_size
from rdm_jax.heads.diffusion.few_steps import warn_other_use
from rdm_jax.heads.diffusion.options import Options
from rdm_jax.heads.diffusion.plan import Run, edited_size, plan_run, starts_from_image
from rdm_jax.heads.diffusion.program import DiffusionProgram, Shape, compile_program
from rdm_jax.models.condition import FEATURES as NETWORK_FEATURES
from rdm_jax.request import Request
from rdm_jax.retrieval.encoder import SMALL_BATCH

OF_WHOLE_LATENTS = ("channels", "known_region", "inversion", "mixing")
"""Features that a model which denoises one scale of its latents after another does not support."""

MAX_CHUNK = 10  # steps between two reports of progress: one compiled scan runs so many, or a divisor of all


class DiffusionHead:
    """Denoises latents step by step."""

    name = "diffusion"
    network = "denoiser"
    Options = Options

    def plan(self, request: Request, options: Options, model: Model) -> Run:
        """Returns what all images of a run share; raises UserError for what is invalid."""
        check_style_scale(request, options, model.bundle)
        timesteps = len(factory.schedule_from(model.bundle.config["diffusion"]))
        latent = self._latent(request, model.bundle)
        size = (request.height, request.width)
        context = GuideContext(model.bundle, model.encoder, latent, size, timesteps, model.encode_latent)
        run = plan_run(options, request.conditions, context)
        self._warn_unused(request, options, run)
        warn_other_use(options, model.bundle)
        return run

    def with_content(self, plan: Plan, model: Model) -> Plan:
        """Returns the plan with the latents of its content, where its images start from them.

        Raises:
          UserError: they do, and there is no content.
        """
        strength = plan.options.content_strength
        if strength == 1:
            return plan
        if plan.content is None:
            raise UserError(
                f"content_strength {strength:g}: there is no content to start from; it needs a model with two roles of "
                "neighbors and a content database"
            )
        latents = _latents(plan.content.images, plan.run.start.latent.shape[1:], model)
        return dataclasses.replace(plan, run=dataclasses.replace(plan.run, contents=latents))

    def shape(self, plan: Plan, batch: int) -> Shape:
        """Returns what a plan's program is compiled for."""
        run: Run = plan.run
        return Shape(
            sampler=run.sampler,
            guided=run.guided,
            chunk=chunk_size(run.total, MAX_CHUNK),
            batch=batch,
            latent=tuple(run.start.latent.shape[1:]),
            context=plan.context.form,
            rescaled=bool(run.rescale),
            guides=tuple(one.form for one in run.guides),
        )

    def compile(self, shape: Shape, plan: Plan, compiler: Compiler) -> DiffusionProgram:
        """Returns the program of a shape."""
        return compile_program(shape, plan, compiler)

    def edited(self, options: Options, bundle: Bundle) -> tuple[int, int] | None:
        """Returns (height, width) of the image or noise that the run starts from, or of the one that guides keep."""
        return edited_size(options, bundle.autoencoder.downsampling)

    def size(self, request: Request, bundle: Bundle) -> tuple[int, int]:
        """Returns (h, w) of the latents; raises UserError if the model cannot make images of that size."""
        return self._latent(request, bundle)[:2]

    def finish(self, plan: Plan, images: UInt8[np.ndarray, "b h w 3"]) -> UInt8[np.ndarray, "b h w 3"]:
        """Returns finished images after the guides that act on pixels."""
        for guide in plan.run.guides:
            images = guide.method.finish(images, guide.inputs)
        return images

    def supports(self, feature: str, bundle: Bundle) -> str | None:
        """Returns why a feature is not supported: only the network may lack one."""
        if feature in OF_WHOLE_LATENTS and bundle.denoiser.stages > 1:
            return f"its denoiser, a {bundle.config['denoiser']['kind']}, denoises one scale of a latent after another"
        if feature not in NETWORK_FEATURES or feature in bundle.denoiser.supports:
            return None
        return f"its denoiser, a {bundle.config['denoiser']['kind']}, does not support {NETWORK_FEATURES[feature]}"

    def _warn_unused(self, request: Request, options: Options, run: Run) -> None:
        """Warns of options that have no effect on this run."""
        start = {f"strength {options.strength:g}": options.strength != 1 and not starts_from_image(options)}
        warn_unused(start, "the run starts from no image (--init)")
        at_once = not isinstance(run.sampler, CoarseToFine)
        stages = {f"fine_steps {options.fine_steps}": bool(options.fine_steps) and at_once}
        warn_unused(stages, "this model does not generate from coarse to fine")
        if not run.guided:
            begin, end = options.guidance_interval
            unused = {
                f"guidance interval {begin:g} to {end:g}": (begin, end) != (0.0, 1.0) and not run.embedded,
                f"guidance rescale {options.guidance_rescale:g}": options.guidance_rescale != 0,
            }
            reason = (
                "this model takes the scale as an input" if run.embedded else "the guidance scale is 1 in every step"
            )
            warn_unused(unused | negative_conditions(request), reason)

    def _latent(self, request: Request, bundle: Bundle) -> tuple[int, int, int]:
        size, padded = (request.height, request.width), bool(request.fit)
        return factory.latent_shape(bundle.denoiser, bundle.autoencoder, *size, padded=padded)


def _latents(
    images: UInt8[np.ndarray, "q n h w 3"], latent: tuple[int, ...], model: Model
) -> Float[np.ndarray, "q n h2 w2 c"]:
    """Returns the latents of content, in small batches of one shape."""
    factor = model.bundle.autoencoder.downsampling
    flat = [pad(image, latent[0] * factor, latent[1] * factor) for image in images.reshape(-1, *images.shape[2:])]
    groups = [flat[begin : begin + SMALL_BATCH] for begin in range(0, len(flat), SMALL_BATCH)]
    filled = [np.stack([*group, *group[:1] * (SMALL_BATCH - len(group))]) for group in groups]
    encoded = np.concatenate([model.encode_latent(to_float(batch)) for batch in filled])
    return encoded[: len(flat)].reshape(*images.shape[:2], *latent)


def check_style_scale(request: Request, options: Options, bundle: Bundle) -> None:
    """Raises UserError if style neighbors have a guidance scale and there are none."""
    if not options.style_scale:
        return
    if not two_roles(bundle):
        raise UserError(
            f"style_scale {options.style_scale:g}: model {bundle.name!r} has one role of neighbors; leave it out, or "
            "use guidance_scale"
        )
    if request.condition == "text":
        raise UserError(
            f"style_scale {options.style_scale:g}: condition 'text' has no style neighbors; leave it out, or use "
            "condition 'text+neighbors'"
        )


HEAD: Any = DiffusionHead()
