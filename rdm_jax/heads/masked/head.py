"""The masked head: see `heads.base.Head`."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from jaxtyping import Int, UInt8

from rdm_jax import factory
from rdm_jax.bundle import Bundle
from rdm_jax.core import images
from rdm_jax.core.errors import UserError
from rdm_jax.guidance.common import KnownRegion, latent_mask
from rdm_jax.heads.base import FEATURES, Model, Plan, negative_conditions, warn_unused
from rdm_jax.heads.codes import Shape
from rdm_jax.heads.compiling import Compiler, chunk_size
from rdm_jax.heads.masked.decoding import UNKNOWN, Steps, plan_steps
from rdm_jax.heads.masked.options import Options
from rdm_jax.heads.masked.program import MaskedProgram, Run, compile_program
from rdm_jax.request import Request

MAX_CHUNK = 4  # steps between two reports of progress: one compiled scan runs so many, or a divisor of all
GENERATED = 0.5  # a mask's value from which on a code is generated
OWN = frozenset({"init", "known_region"})


class MaskedHead:
    """Predicts all codes of an image at once, and again those that are the least certain."""

    name = "masked"
    network = "transformer"
    Options = Options

    def plan(self, request: Request, options: Options, model: Model) -> Run:
        """Returns what all images of a run share; raises UserError for what is invalid."""
        options.check()
        bundle = model.bundle
        check_bidirectional(bundle)
        factory.check_one_code(f"model {bundle.name!r}", bundle.autoencoder)
        size = self.size(request, bundle)
        tokens = size[0] * size[1]
        if options.steps > tokens:
            raise UserError(
                f"steps {options.steps} is too large: every step decides a code or more, and an image has {tokens}; "
                f"use 1 to {tokens}"
            )
        _warn_unused(request, options)
        codes, kept = np.full(tokens, UNKNOWN, np.int32), None
        if options.guides:
            codes, kept = kept_codes(options.guides[0], request, bundle, size)
        elif options.init:
            codes = image_codes(
                images.fit(images.read_image(options.init), request.height, request.width), bundle, size
            )
        steps, hidden = _steps(options, codes)
        micro = bundle.config["conditioning"].get("micro_conditions", ())
        sizes = (float(request.width), float(request.height)) if micro else ()
        return Run(steps, options.temperature, size, codes, hidden, kept, (*sizes, *map(float, micro)))

    def shape(self, plan: Plan, batch: int) -> Shape:
        """Returns what a plan's program is compiled for."""
        run: Run = plan.run
        return Shape(
            guided=plan.options.guidance_scale != 1,
            chunk=chunk_size(run.total, MAX_CHUNK),
            batch=batch,
            size=run.size,
            tokens=len(run.codes),
            context=plan.context.form,
        )

    def compile(self, shape: Shape, plan: Plan, compiler: Compiler) -> MaskedProgram:
        """Returns the program of a shape."""
        return compile_program(shape, plan, compiler)

    def with_content(self, plan: Plan, model: Model) -> Plan:
        """Returns the plan: the head takes nothing from content."""
        return plan

    def edited(self, options: Options, bundle: Bundle) -> tuple[int, int] | None:
        """Returns (height, width) of the image that the run starts from, or keeps a part of."""
        if options.init:
            return images.read_image(options.init).shape[:2]
        return options.guides[0].edited() if options.guides else None

    def size(self, request: Request, bundle: Bundle) -> tuple[int, int]:
        """Returns (h, w) of the codes; raises UserError if the model cannot make images of the request's size."""
        height, width = request.height, request.width
        return factory.latent_size(bundle.transformer, bundle.autoencoder, height, width, padded=bool(request.fit))

    def finish(self, plan: Plan, images: UInt8[np.ndarray, "b h w 3"]) -> UInt8[np.ndarray, "b h w 3"]:
        """Returns finished images with the known pixels of the one of which a part is kept."""
        if plan.run.kept is None:
            return images
        guide, pixels = plan.run.kept
        return guide.finish(images, pixels)

    def supports(self, feature: str, bundle: Bundle) -> str | None:
        """Returns why a feature is not supported: there are no latents that denoising changes step by step."""
        if feature in OWN or feature in bundle.transformer.supports:
            return None
        return f"a model of masked codes does not support {FEATURES[feature]}"


def check_bidirectional(bundle: Bundle) -> None:
    """Raises UserError if a model's transformer sees the codes before a position alone."""
    if bundle.transformer.causal:
        raise UserError(
            f"the transformer of model {bundle.name!r} is causal, and the head 'masked' takes one that sees all codes "
            "(transformer.causal=false); use the head 'autoregressive'"
        )


def image_codes(image: UInt8[np.ndarray, "h w 3"], bundle: Bundle, size: tuple[int, int]) -> Int[np.ndarray, " l"]:
    """Returns the codes of an image, padded to (h, w) of the codes, in row-major order."""
    factor = bundle.autoencoder.downsampling
    padded = images.pad(image, size[0] * factor, size[1] * factor)
    encode = jax.jit(factory.codes_encoder_from(bundle.autoencoder))
    return np.asarray(encode(bundle.params["autoencoder"], images.to_float(padded[None])))[0].astype(np.int32)


def kept_codes(
    guide: KnownRegion, request: Request, bundle: Bundle, size: tuple[int, int]
) -> tuple[Int[np.ndarray, " l"], tuple[KnownRegion, dict[str, UInt8[np.ndarray, "..."]]]]:
    """Returns the codes of an image, `UNKNOWN` where it is generated, and the guide with its pixels.

    A code is generated if one of its pixels is.

    Raises:
      UserError: the mask leaves nothing to generate, or a file cannot be read.
    """
    factor = bundle.autoencoder.downsampling
    pixels = guide.pixels((request.height, request.width), (size[0] * factor, size[1] * factor))
    generated = latent_mask(pixels["generated_pixels"], size).reshape(-1) >= GENERATED
    if not generated.any():
        raise UserError("the mask leaves nothing to generate; paint what is to be generated white")
    codes = image_codes(pixels["known_pixels"], bundle, size)
    return np.where(generated, UNKNOWN, codes).astype(np.int32), (guide, pixels)


def _steps(options: Options, codes: Int[np.ndarray, " l"]) -> tuple[Steps, int]:
    """Returns the steps of a run, and how many of its known codes are masked before them.

    A run from an image leaves out the first steps, and masks as many codes as are masked after those.
    """
    steps, tokens = options.steps, len(codes)
    whole = plan_steps(
        options.mask_schedule,
        steps,
        tokens,
        masked=1.0 if options.init else float((codes == UNKNOWN).mean()),
        choice_temperature=options.choice_temperature,
        guidance_scale=options.guidance_scale,
        growing=options.guidance_schedule == "growing",
    )
    if not options.init:
        return whole, 0
    count = max(1, round(options.strength * steps))
    left_out = steps - count
    return whole.chunk(left_out, count), int(whole.left[left_out - 1]) if left_out else tokens


def _warn_unused(request: Request, options: Options) -> None:
    """Warns of options that have no effect on this run."""
    warn_unused({f"strength {options.strength:g}": options.strength != 1 and not options.init}, "there is no --init")
    if options.guidance_scale == 1:
        growing = {f"guidance schedule {options.guidance_schedule}": options.guidance_schedule != "constant"}
        warn_unused({**growing, **negative_conditions(request)}, "the guidance scale is 1")


HEAD: Any = MaskedHead()
