"""What an inpainting model takes beside the noisy latent: a mask, and the image without what is to be generated.

Latent diffusion and Stable Diffusion have models with 1 + c such channels: the mask, and the c latents of the image
with the region empty. Without an image everything is to be generated.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import ClassVar

import numpy as np
from jaxtyping import Float, UInt8

from rdm_jax.conditioning.base import ConditionBuilder, Conditioner, Context, ScheduledCondition
from rdm_jax.conditioning.channels import LAYOUTS, Channels
from rdm_jax.core import images
from rdm_jax.core.calls import File
from rdm_jax.core.checks import required
from rdm_jax.core.errors import UserError

Encode = Callable[[Float[np.ndarray, "b h w 3"]], Float[np.ndarray, "b h2 w2 c"]]
FILLED = 0.5  # a mask's value from which on a pixel is generated


def inpainting_channels(
    encode: Encode,
    image: UInt8[np.ndarray, "h w 3"],
    mask: Float[np.ndarray, "h w"],
    factor: int,
    layout: Channels = LAYOUTS["inpainting"],
    low_resolution: Float[np.ndarray, "h2 w2 3"] | None = None,
) -> Float[np.ndarray, "h2 w2 n"]:
    """Returns the channels of an image and the mask of what is to be generated in it.

    Args:
      encode: images in [-1, 1] to latents.
      image: of a size that the first stage takes.
      mask: 1 where the image is generated; a latent takes the value of the first of its pixels.
      factor: pixels of a latent on each side.
      layout: of the channels.
      low_resolution: the image that is upscaled, at the latents' size; None where the layout has none.
    """
    filled = mask >= FILLED
    known = np.where(filled[..., None], np.float32(layout.hole), images.to_float(image))
    painted = np.where(filled[::factor, ::factor, None], layout.generated, layout.known).astype(np.float32)
    pieces = {"image": encode(known[None])[0], "mask": painted, "low_resolution": low_resolution}
    return np.concatenate([pieces[name] for name in layout.pieces], axis=-1)


def with_blank_channels(context: Context, builder: ConditionBuilder) -> Context:
    """Returns the context of a model that takes channels with those of no image, where it has none."""
    if not builder.channels or context.given.channels is not None:
        return context
    height, width = (side * builder.factor for side in builder.latent)
    gray, all_ = np.full((height, width, 3), 128, np.uint8), np.ones((height, width), np.float32)
    return _with_channels(context, _channels(builder, gray, all_))


def _channels(
    builder: ConditionBuilder, image: UInt8[np.ndarray, "h w 3"], mask: Float[np.ndarray, "h w"]
) -> Float[np.ndarray, "h2 w2 n"]:
    layout = LAYOUTS[builder.channels]
    return inpainting_channels(builder.encode, image, mask, builder.factor, layout, builder.low_resolution)


def _with_channels(context: Context, channels: Float[np.ndarray, "h w n"]) -> Context:
    """Returns the context with the same channels for all queries and all conditions."""

    def give(condition: ScheduledCondition) -> ScheduledCondition:
        shape = (len(condition.tokens), 1, *channels.shape)
        return dataclasses.replace(condition, channels=np.broadcast_to(channels, shape))

    return Context(give(context.given), give(context.null), tuple(map(give, context.also)))


@dataclasses.dataclass(frozen=True)
class Fill(Conditioner):
    """Gives an inpainting model an image and a mask, which is white where the image is to be generated."""

    image: File = ""
    mask: File = ""
    source: ClassVar[str] = "arXiv 2112.10752, section 4.5 (inpainting as a condition of the network)"
    requires: ClassVar[tuple[str, ...]] = ("channels",)

    def change_context(self, context: Context, builder: ConditionBuilder) -> Context:
        """Sets the channels of all conditions."""
        if not builder.channels or not LAYOUTS[builder.channels].inpaints:
            raise UserError(
                "condition fill needs a model with inpainting channels, and this one has none; use "
                "--guide \"inpaint(image='FILE', mask='FILE')\""
            )
        image = images.read_image(required("image", self.image, "an image file"))
        mask = images.read_mask(required("mask", self.mask, "a mask file"), image.shape[:2])
        gray = np.repeat(np.round(mask * 255.0).astype(np.uint8)[..., None], 3, axis=-1)
        size = tuple(side * builder.factor for side in builder.latent)
        fitted, painted = (images.pad(images.fit(one, *builder.size), *size) for one in (image, gray))
        return _with_channels(context, _channels(builder, fitted, painted[..., 0].astype(np.float32) / 255.0))
