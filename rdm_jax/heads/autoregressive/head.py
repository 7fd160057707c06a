"""The autoregressive head: see `heads.base.Head`."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
from jaxtyping import UInt8

from rdm_jax.bundle import Bundle
from rdm_jax.core.errors import UserError
from rdm_jax.factory import code_count
from rdm_jax.heads.autoregressive.options import Options
from rdm_jax.heads.autoregressive.program import AutoregressiveProgram, compile_program
from rdm_jax.heads.autoregressive.sampling import Sampling, check_sampling
from rdm_jax.heads.base import FEATURES, Model, Plan, negative_conditions, warn_unused
from rdm_jax.heads.codes import Shape
from rdm_jax.heads.compiling import Compiler, chunk_size
from rdm_jax.request import Request, check_guidance

MAX_CHUNK = 64  # tokens between two reports of progress: one compiled loop decodes so many, or a divisor of all


@dataclasses.dataclass(frozen=True)
class Run:
    """What all images of a run share.

    Attributes:
      sampling: how codes are chosen.
      size: (h, w) of an image's latents.
      tokens: the codes of an image.
    """

    sampling: Sampling
    size: tuple[int, int]
    tokens: int


class AutoregressiveHead:
    """Decodes the codes of an image one after another."""

    name = "autoregressive"
    network = "transformer"
    Options = Options

    def plan(self, request: Request, options: Options, model: Model) -> Run:
        """Returns what all images of a run share; raises UserError for what is invalid."""
        if not model.bundle.transformer.causal:
            raise UserError(
                f"the transformer of model {model.bundle.name!r} sees all codes, and the head 'autoregressive' takes a "
                "causal one (transformer.causal=true); use the head 'masked'"
            )
        check_guidance(options.guidance_scale)
        if options.guidance_scale == 1:
            warn_unused(negative_conditions(request), "the guidance scale is 1")
        sampling = check_sampling(**dataclasses.asdict(options), num_codes=model.bundle.autoencoder.num_codes)
        return Run(sampling, self.size(request, model.bundle), model.bundle.transformer.num_tokens)

    def shape(self, plan: Plan, batch: int) -> Shape:
        """Returns what a plan's program is compiled for."""
        run: Run = plan.run
        return Shape(
            guided=plan.options.guidance_scale != 1,
            chunk=chunk_size(run.tokens, MAX_CHUNK),
            batch=batch,
            size=run.size,
            tokens=run.tokens,
            context=plan.context.form,
        )

    def compile(self, shape: Shape, plan: Plan, compiler: Compiler) -> AutoregressiveProgram:
        """Returns the program of a shape."""
        return compile_program(shape, plan, compiler)

    def with_content(self, plan: Plan, model: Model) -> Plan:
        """Returns the plan: the head takes nothing from content."""
        return plan

    def edited(self, options: Options, bundle: Bundle) -> None:
        """Returns None: the head edits no image."""

    def size(self, request: Request, bundle: Bundle) -> tuple[int, int]:
        """Returns (h, w) of the latents; raises UserError unless the transformer has a position for each code."""
        stage, tokens = bundle.autoencoder, bundle.transformer.num_tokens
        factor = stage.downsampling
        height, width = request.height // factor, request.width // factor
        exact = (height * factor, width * factor) == (request.height, request.width)
        if not exact or code_count(stage, (height, width)) != tokens or height != width:
            side = math.isqrt(tokens // code_count(stage, (1, 1))) * factor
            raise UserError(
                f"size {request.width}x{request.height} is not possible: this model generates {tokens} tokens, "
                f"images of {side}x{side}"
            )
        return height, width

    def finish(self, plan: Plan, images: UInt8[np.ndarray, "b h w 3"]) -> UInt8[np.ndarray, "b h w 3"]:
        """Returns the images as they are."""
        return images

    def supports(self, feature: str, bundle: Bundle) -> str | None:
        """Returns why a feature is not supported: the transformer weighs tokens, and has no steps of denoising."""
        if feature in bundle.transformer.supports:
            return None
        return f"an autoregressive model does not support {FEATURES[feature]}"


HEAD: Any = AutoregressiveHead()
