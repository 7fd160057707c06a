"""What a style encoder sees of an image: the image itself, or what another network of the model makes of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from rdm_jax.bundle import Bundle
from rdm_jax.conditioning.features import middle_features
from rdm_jax.core.errors import UserError, unknown
from rdm_jax.factory import encoder_from, image_encoder_from


@dataclasses.dataclass(frozen=True)
class View:
    """Makes what a style encoder takes of images.

    It can be hashed, so that it may be a static argument of a compiled function.

    Attributes:
      name: in `VIEWS`.
      networks: (part, module) of those that `name` needs.
      scale: of the first stage's latents, one number or one for each channel.
      shift: of each of their channels; empty is 0.
      mean: of the retrieval encoder's pixels.
      std: of the same.
    """

    name: str
    networks: tuple[tuple[str, Any], ...] = ()
    scale: tuple[float, ...] = (1.0,)
    shift: tuple[float, ...] = ()
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    @staticmethod
    def of(encoder: Mapping[str, Any], bundle: Bundle, denoiser: Any, latents: Mapping[str, Any]) -> View:
        """Returns the view of a style encoder.

        Args:
          encoder: its settings.
          bundle: with the first stage and the retrieval encoder.
          denoiser: the module.
          latents: their scale and shift.

        Raises:
          UserError: there is no such view, or the denoiser has no features in the middle.
        """
        name = encoder.get("view", "image")
        if name not in VIEWS:
            raise unknown("view", str(name), VIEWS)
        if name == "features" and not hasattr(denoiser, "channel_mult"):
            raise UserError("view 'features' is of a U-Net's middle block; choose another view, or kind=unet")
        modules = {"autoencoder": bundle.autoencoder, "clip": bundle.clip, "denoiser": denoiser}
        pixels = bundle.config["clip"]
        return View(
            name,
            tuple((part, modules[part]) for part in VIEWS[name][0]),
            tuple(np.atleast_1d(latents["scale"]).tolist()),
            tuple(latents.get("shift") or ()),
            tuple(pixels["mean"]),
            tuple(pixels["std"]),
        )

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts of a model whose parameters are needed."""
        return tuple(part for part, _ in self.networks)

    def __call__(self, params: Mapping[str, Any], images: Float[Array, "b s s 3"]) -> Float[Array, "b h w c"]:
        """Returns the maps of images in [-1, 1].

        Args:
          params: {part: parameters} of `parts`.
          images: of the size that the first stage takes.
        """
        return VIEWS[self.name][1](self, params, images)

    def network(self, part: str) -> Any:
        """Returns the module of a part."""
        return dict(self.networks)[part]


def _image(view: View, params: Any, images: Array) -> Array:
    return images


def _latent(view: View, params: Any, images: Array) -> Array:
    scaling = {"scale": view.scale, **({"shift": view.shift} if view.shift else {})}
    return encoder_from(view.network("autoencoder"), scaling)(params["autoencoder"], images)


def _vector(view: View, params: Any, images: Array) -> Array:
    clip = view.network("clip")
    encode, size = image_encoder_from(clip, {"mean": view.mean, "std": view.std}), clip.vision.image_size
    vectors = encode(params["clip"], jax.image.resize(images, (len(images), size, size, 3), "cubic"))
    return (vectors / jnp.linalg.norm(vectors, axis=-1, keepdims=True))[:, None, None]


def _features(view: View, params: Any, images: Array) -> Array:
    return middle_features(view.network("denoiser"), params["denoiser"], _latent(view, params, images))


VIEWS: Mapping[str, tuple[tuple[str, ...], Callable[[View, Any, Array], Array]]] = {
    "image": ((), _image),
    "latent": (("autoencoder",), _latent),
    "vector": (("clip",), _vector),
    "features": (("autoencoder", "denoiser"), _features),
}
"""By name: the parts that are needed, and the function (view, parameters, images in [-1, 1]) to maps [b, h, w, c]: the
image, its scaled latent, the retrieval encoder's vector of length 1, the U-Net's features at noise level zero."""
