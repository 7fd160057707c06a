"""What several methods share: images of which a part is known, noise for references, another x0 in a prediction."""

from __future__ import annotations

import abc
import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Array, Float, UInt8

from rdm_jax.core import images
from rdm_jax.core.calls import File
from rdm_jax.core.checks import required
from rdm_jax.diffusion.denoiser import Prediction, StepInfo
from rdm_jax.diffusion.parameterization import per_image
from rdm_jax.guidance.base import GuidanceMethod, GuideContext


def noised(x0: Float[Array, "#b h w c"], noise: Float[Array, "b h w c"], info: StepInfo) -> Float[Array, "b h w c"]:
    """Returns alpha x0 + sigma noise at the level where a step ends; x0 itself where that has no noise."""
    alpha, sigma = (per_image(info.coefficients[name], noise.ndim) for name in ("alpha_next", "sigma_next"))
    return alpha * x0 + sigma * noise


def with_x0(
    prediction: Prediction, x0: Float[Array, "b h w c"], x_t: Float[Array, "b h w c"], info: StepInfo
) -> Prediction:
    """Returns the prediction with another x0 and its eps: x_t = alpha x0 + sigma eps still holds."""
    alpha, sigma = (per_image(info.coefficients[name], x_t.ndim) for name in ("alpha", "sigma"))
    # The change alone is divided by sigma: where nothing changes, eps stays to the last bit.
    return dataclasses.replace(prediction, x0=x0, eps=prediction.eps - alpha / sigma * (x0 - prediction.x0))


def latent_mask(generated: UInt8[np.ndarray, "h w"], size: tuple[int, int]) -> Float[np.ndarray, "1 h2 w2 1"]:
    """Returns the mask of latent pixels in [0, 1], the maximum over the image pixels of each.

    Args:
      generated: of image pixels, 255 where they are generated.
      size: (h, w) of the latent.
    """
    height, width = size
    blocks = generated.reshape(1, height, generated.shape[0] // height, width, generated.shape[1] // width, 1)
    return blocks.max(axis=(2, 4)).astype(np.float32) / 255.0


@dataclasses.dataclass(frozen=True)
class KnownRegion(GuidanceMethod):
    """An image file, part of which is known and stays as it is."""

    image: File = ""

    @abc.abstractmethod
    def fitted(self, size: tuple[int, int]) -> tuple[UInt8[np.ndarray, "h w 3"], UInt8[np.ndarray, "h w"]]:
        """Returns the image and its mask, 255 where it is generated, at the size of a finished image."""

    def inputs(self, context: GuideContext) -> dict[str, Any]:
        """Returns the image's latent and its mask."""
        pixels = self.pixels(context.image_size, context.size)
        mask = latent_mask(pixels["generated_pixels"], context.latent[:2])
        return {"known": context.encode(images.to_float(pixels["known_pixels"][None])), "mask": mask, **pixels}

    def pixels(self, image_size: tuple[int, int], size: tuple[int, int]) -> dict[str, UInt8[np.ndarray, "h w ..."]]:
        """Returns the known image [h, w, 3] and its mask [h, w], 255 where it is generated.

        Args:
          image_size: (height, width) of a finished image.
          size: (h, w) of what is generated, which pads it.
        """
        known, generated = self.fitted(image_size)
        padded = images.pad(generated[..., None], *size)[..., 0]
        return {"known_pixels": images.pad(known, *size), "generated_pixels": padded}

    def finish(self, pixels: UInt8[np.ndarray, "b h w 3"], inputs: dict[str, Any]) -> UInt8[np.ndarray, "b h w 3"]:
        """Returns the images with the known pixels restored; where the mask is gray, both are mixed."""
        new = inputs["generated_pixels"][None, :, :, None].astype(np.float32) / 255.0
        return np.round(new * pixels + (1.0 - new) * inputs["known_pixels"]).astype(np.uint8)


@dataclasses.dataclass(frozen=True)
class MaskedImage(KnownRegion):
    """An image file that is known where the mask in another file is black."""

    mask: File = ""

    def edited(self) -> tuple[int, int] | None:
        """Returns (height, width) of the image."""
        return images.read_image(required("image", self.image, "an image file")).shape[:2]

    def fitted(self, size: tuple[int, int]) -> tuple[UInt8[np.ndarray, "h w 3"], UInt8[np.ndarray, "h w"]]:
        """Returns both; raises UserError unless the files are images of one size."""
        image = images.read_image(required("image", self.image, "an image file"))
        mask = images.read_mask(required("mask", self.mask, "a mask file"), image.shape[:2])
        gray = np.repeat(np.round(mask * 255.0).astype(np.uint8)[..., None], 3, axis=-1)
        return images.fit(image, *size), images.fit(gray, *size)[..., 0]
