"""The settings of a training with two roles of neighbors."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any

from rdm_jax.core.schema import within
from rdm_jax.models import BACKBONES, SIZES, STYLE_ENCODER, STYLE_ENCODERS
from rdm_jax.training.denoising import DenoisingRun
from rdm_jax.training.restyling.settings import StyledData
from rdm_jax.training.schema import Count, LatentData, Positive, Probability, network

STYLE_SIZES = ("image_size", "token_dim", "input_shape")
"""Fields of style encoders that follow from the data."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RoleData(StyledData, LatentData):
    """Labeled images.

    Attributes:
      content: the attribute that names what an image shows; "" is its caption.
      family: the attribute that names the family of its style, whose shapes are alike.
      most_of_style: the most images of a style that an epoch generates, spread evenly over its images; 0 takes
        all. All of them are neighbors.
    """

    content: str = ""
    family: str = "group"
    most_of_style: Count = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Roles:
    """The `conditioning` section: what each example is conditioned on.

    Attributes:
      neighbors: style neighbors; half of the groups have all of them, the others 1 or more.
      group: images of one style in a record, which share their style neighbors.
      null_probability: of no condition at all.
      text_dropout: of an example without its caption.
      style_dropout: of one without style neighbors.
      content_dropout: of one without content.
      content_latents: whether the first stage's latents of content are further channels.
      content_odds: of content from the image's original, from a twin, and from a cousin (see `training.partners`).
      naming: the weight of the loss that names the style of each style neighbor.
    """

    neighbors: Positive = 4
    group: Positive = 4
    null_probability: Probability = 0.08
    text_dropout: Probability = 0.2
    style_dropout: Probability = 0.08
    content_dropout: Probability = 0.08
    content_latents: bool = True
    content_odds: tuple[float, float, float] = (0.3, 0.2, 0.5)
    naming: Annotated[float, within(0.0)] = 0.05


@dataclasses.dataclass(frozen=True, kw_only=True)
class Schema(DenoisingRun):
    """The settings of a model with two roles of neighbors.

    Attributes:
      base: the bundle with the encoder and the first stage.
      data: the images.
      conditioning: what each example is conditioned on.
      model: the denoiser, which takes channels beside the latent.
      style_encoder: of style neighbors; its other fields follow from the data.
    """

    base: str
    data: RoleData
    conditioning: Roles
    model: Annotated[Mapping[str, Any], network(BACKBONES, (*SIZES, "condition_channels"))]
    style_encoder: Annotated[Mapping[str, Any], network(STYLE_ENCODERS, STYLE_SIZES, default=STYLE_ENCODER)]
