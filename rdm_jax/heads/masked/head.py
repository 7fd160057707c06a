"""The masked head: see `heads.base.Head`."""

from __future__ import annotations

import dataclasses
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
from rdm_jax.heads.masked.cascade import CascadeProgram, CascadeShape, compile_cascade
from rdm_jax.heads.masked.decoding import UNKNOWN, Steps, plan_steps
from rdm_jax.heads.masked.options import Options
from rdm_jax.heads.masked.program import BASE, FINE, MaskedProgram, Run, Stage, compile_program, conditions_of
from rdm_jax.request import Request

MAX_CHUNK = 4  # steps between two reports of progress: one compiled scan runs so many, or a divisor of all
GENERATED = 0.5  # a mask's value from which on a code is generated
OWN = frozenset({"init", "known_region"})


class MaskedHead:
    """Predicts all codes of an image at once, and again those that are the least certain; in one stage or in two."""

    name = "masked"
    network = "transformer"
    Options = Options

    def plan(self, request: Request, options: Options, model: Model) -> Run:
        """Returns what all images of a run share; raises UserError for what is invalid."""
        options.check()
        bundle = model.bundle
        check_bidirectional(bundle)
        _warn_unused(request, options, bundle)
        fine = FINE if bundle.has(FINE.network) else None
        for stage in (BASE, *((fine,) if fine else ())):
            bundle.require(stage.first_stage)
            factory.check_one_code(f"model {bundle.name!r}", getattr(bundle, stage.first_stage))
        edit = edited_pixels(options, request, bundle, fine or BASE)
        micro = bundle.config["conditioning"].get("micro_conditions", ())
        sizes = (float(request.width), float(request.height)) if micro else ()
        run = plan_stage(request, options, bundle, BASE, edit)
        if fine:
            own = dataclasses.replace(options, steps=options.fine_steps or options.steps)
            run = dataclasses.replace(run, fine=plan_stage(request, own, bundle, fine, edit))
        return dataclasses.replace(run, kept=edit.kept, micro=(*sizes, *map(float, micro)))

    def shape(self, plan: Plan, batch: int) -> Shape | CascadeShape:
        """Returns what a plan's program is compiled for."""
        base = _shape(plan, plan.run, batch)
        return base if plan.run.fine is None else CascadeShape(base, _shape(plan, plan.run.fine, batch))

    def compile(self, shape: Shape | CascadeShape, plan: Plan, compiler: Compiler) -> MaskedProgram | CascadeProgram:
        """Returns the program of a shape."""
        if isinstance(shape, CascadeShape):
            return compile_cascade(shape, plan, compiler)
        return compile_program(shape, plan.run, conditions_of(plan, np.zeros(shape.batch, np.int64)), compiler)

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
        return stage_size(request, bundle, BASE)

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


def stage_size(request: Request, bundle: Bundle, stage: Stage) -> tuple[int, int]:
    """Returns (h, w) of a stage's codes; raises UserError if the model cannot make images of the request's size.

    The images of a model of two stages are those of the second one, which has one size; so then has the first.
    """
    last = FINE if bundle.has(FINE.network) else BASE
    network, first_stage = getattr(bundle, last.network), getattr(bundle, last.first_stage)
    size = factory.latent_size(network, first_stage, request.height, request.width, padded=bool(request.fit))
    if stage == last:
        return size
    side = bundle.transformer.latent_size
    return side, side


def plan_stage(request: Request, options: Options, bundle: Bundle, stage: Stage, edit: Edit) -> Run:
    """Returns what all images of a run share in one stage.

    Raises:
      UserError: there are more steps than codes, or the model cannot make the size.
    """
    size = stage_size(request, bundle, stage)
    tokens = size[0] * size[1]
    if options.steps > tokens:
        raise UserError(
            f"{'fine_steps' if stage == FINE else 'steps'} {options.steps} is too large: every step decides a code or "
            f"more, and an image has {tokens}; use 1 to {tokens}"
        )
    codes = known_codes(edit, bundle, stage, size)
    steps, hidden = _steps(options, codes)
    return Run(steps, options.temperature, size, codes, hidden)


@dataclasses.dataclass(frozen=True)
class Edit:
    """The image that a run edits.

    Attributes:
      image: [h, w, 3] padded to what is generated; None where none is edited.
      generated: [h, w] 255 where pixels are generated; None where a run starts from the image.
      kept: the guide that keeps a part of it, with its pixels; None without.
    """

    image: UInt8[np.ndarray, "h w 3"] | None = None
    generated: UInt8[np.ndarray, "h w"] | None = None
    kept: tuple[KnownRegion, dict[str, UInt8[np.ndarray, "..."]]] | None = None


def edited_pixels(options: Options, request: Request, bundle: Bundle, last: Stage) -> Edit:
    """Returns the image that a run edits, at the size of the last stage; raises UserError if it cannot be read."""
    factor = getattr(bundle, last.first_stage).downsampling
    height, width = (factor * side for side in stage_size(request, bundle, last))
    if options.guides:
        guide = options.guides[0]
        pixels = guide.pixels((request.height, request.width), (height, width))
        return Edit(pixels["known_pixels"], pixels["generated_pixels"], (guide, pixels))
    if options.init:
        image = images.fit(images.read_image(options.init), request.height, request.width)
        return Edit(images.pad(image, height, width))
    return Edit()


def known_codes(edit: Edit, bundle: Bundle, stage: Stage, size: tuple[int, int]) -> Int[np.ndarray, " l"]:
    """Returns the codes (h, w) of an edited image in one stage, `UNKNOWN` where they are generated.

    A code is generated if one of its pixels is.

    Raises:
      UserError: the mask leaves nothing to generate.
    """
    if edit.image is None:
        return np.full(size[0] * size[1], UNKNOWN, np.int32)
    codes = image_codes(edit.image, bundle, stage, size)
    if edit.generated is None:
        return codes
    generated = latent_mask(edit.generated, size).reshape(-1) >= GENERATED
    if not generated.any():
        raise UserError("the mask leaves nothing to generate; paint what is to be generated white")
    return np.where(generated, UNKNOWN, codes).astype(np.int32)


def image_codes(
    image: UInt8[np.ndarray, "h w 3"], bundle: Bundle, stage: Stage, size: tuple[int, int]
) -> Int[np.ndarray, " l"]:
    """Returns the codes (h, w) of an image in one stage, scaled to its size, in row-major order."""
    first_stage = getattr(bundle, stage.first_stage)
    scaled = images.fit(image, *(side * first_stage.downsampling for side in size))
    encode = jax.jit(factory.codes_encoder_from(first_stage))
    return np.asarray(encode(bundle.params[stage.first_stage], images.to_float(scaled[None])))[0].astype(np.int32)


def _shape(plan: Plan, run: Run, batch: int) -> Shape:
    """Returns what the program of one stage is compiled for."""
    return Shape(
        guided=plan.options.guidance_scale != 1,
        chunk=chunk_size(run.total, MAX_CHUNK),
        batch=batch,
        size=run.size,
        tokens=len(run.codes),
        context=plan.context.form,
    )


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


def _warn_unused(request: Request, options: Options, bundle: Bundle) -> None:
    """Warns of options that have no effect on this run."""
    fine = bool(options.fine_steps) and not bundle.has(FINE.network)
    warn_unused({f"fine_steps {options.fine_steps}": fine}, "this model does not generate from coarse to fine")
    warn_unused({f"strength {options.strength:g}": options.strength != 1 and not options.init}, "there is no --init")
    if options.guidance_scale == 1:
        growing = {f"guidance schedule {options.guidance_schedule}": options.guidance_schedule != "constant"}
        warn_unused({**growing, **negative_conditions(request)}, "the guidance scale is 1")


HEAD: Any = MaskedHead()
