"""The latents that diffusion models and what guides them learn on: encoded ahead, or in every step."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key, UInt8

from rdm_jax.bundle import Bundle
from rdm_jax.core.images import to_float
from rdm_jax.data.batches import Record
from rdm_jax.data.image_set import ImageSet, cached_array
from rdm_jax.factory import scaling_from
from rdm_jax.models.autoencoder import AutoencoderKL, sample_moments
from rdm_jax.training.config import Config

ENCODE_BATCH = 64
MEASURED = 4096


@dataclasses.dataclass(frozen=True)
class Latents:
    """Pictures as a first stage encodes them, brought to zero mean and unit variance.

    Attributes:
      base: the bundle with the autoencoder.
      pictures: what is encoded.
      moments: [n, h, w, m] float16, what the autoencoder gave for every picture; None encodes them in every step.
      scaling: {"scale", "shift"} of the latents.
      mirror: half of the pictures are mirrored, where they are encoded in every step.
    """

    base: Bundle
    pictures: ImageSet
    moments: Float[np.ndarray, "n h w m"] | None
    scaling: Mapping[str, Any]
    mirror: bool = False

    @functools.cached_property
    def shape(self) -> tuple[int, int, int]:
        """(h, w, c) of a latent."""
        module = self.base.autoencoder
        side = self.pictures.images.shape[1] // module.downsampling
        return side, side, module.embed_dim

    @property
    def frozen(self) -> dict[str, Any]:
        """The autoencoder's parameters, where pictures are encoded in every step."""
        return {"autoencoder": self.base.params["autoencoder"]} if self.moments is None else {}

    def read(self, picture: int, generator: np.random.Generator) -> Record:
        """Returns a picture's moments [h, w, m], or the picture [size, size, 3] itself."""
        if self.moments is not None:
            return {"moments": np.asarray(self.moments[picture])}
        return {"image": mirrored(np.asarray(self.pictures.images[picture]), generator, self.mirror)}

    def x0(self, frozen: Any, batch: Mapping[str, Array], key: Key[Array, ""]) -> Float[Array, "b h w c"]:
        """Returns the latents of a batch of what `read` gave, drawn from their distribution where they have one."""
        autoencoder: Any = self.base.autoencoder
        if "image" in batch:
            image = batch["image"].astype(jnp.float32) / 127.5 - 1.0
            encoded = autoencoder.apply({"params": frozen["autoencoder"]}, image, method="encode")
        else:
            encoded = batch["moments"].astype(jnp.float32)
        if isinstance(autoencoder, AutoencoderKL):
            encoded = sample_moments(encoded, jax.random.normal(key, (len(encoded), *self.shape)))
        scale, shift = scaling_from(self.scaling)
        return (encoded - shift) * scale


def open_latents(
    base: Bundle, pictures: ImageSet, config: Config, progress: Callable[[str, int, int], None]
) -> Latents:
    """Returns the latents of pictures; encodes them all first where `config.data.cache_latents` asks for that.

    Args:
      base: the bundle with the autoencoder.
      pictures: what is encoded.
      config: `data` (`cache_latents`, `mirror`, `data_dir`) and `latents`: the scaling, measured where it is empty.
      progress: called with (what, done, total).
    """
    told = functools.partial(progress, "encoding latents")
    moments = encode_moments(base, pictures, cache_folder(config.data), told) if config.data.cache_latents else None
    scaling = config.latents.to_dict() or latent_statistics(_some(base, pictures, moments))
    return Latents(base, pictures, moments, scaling, config.data.mirror)


def cache_folder(data: Config) -> Path:
    """Returns where what is computed ahead is kept."""
    return Path(data.data_dir or "data") / "cache"


def _some(base: Bundle, pictures: ImageSet, moments: np.ndarray | None) -> np.ndarray:
    if moments is not None:
        return moments
    rows = np.linspace(0, len(pictures) - 1, min(len(pictures), 4 * ENCODE_BATCH)).astype(int)
    return np.concatenate(list(_encoded(base, pictures.take(rows), lambda *_: None)))


def mirrored(
    image: UInt8[np.ndarray, "h w 3"], generator: np.random.Generator, wanted: bool
) -> UInt8[np.ndarray, "h w 3"]:
    """Returns the picture, mirrored half of the time where that is wanted."""
    turned = wanted and generator.random() < 0.5
    return np.ascontiguousarray(image[:, ::-1]) if turned else image


def encode_moments(
    bundle: Bundle, pictures: ImageSet, folder: Path, progress: Callable[[int, int], None]
) -> Float[np.ndarray, "n h w m"]:
    """Returns the autoencoder's moments of all pictures in float16, cached in `folder` by the hashes of both."""
    name = f"moments-{bundle.hashes['autoencoder'][:16]}-{pictures.fingerprint[:16]}-{pictures.images.shape[1]}"
    return cached_array(folder / name, len(pictures), lambda: _encoded(bundle, pictures, progress))


def _encoded(bundle: Bundle, pictures: ImageSet, progress: Callable[[int, int], None]) -> Iterator[np.ndarray]:
    """Yields the moments of one batch of pictures after another."""
    module: Any = bundle.autoencoder
    encode = jax.jit(lambda p, x: module.apply({"params": p}, x, method="encode").astype(jnp.float16))
    params = jax.device_put(bundle.params["autoencoder"])
    for start in range(0, len(pictures), ENCODE_BATCH):
        batch = to_float(np.asarray(pictures.images[start : start + ENCODE_BATCH]))
        padding = ((0, ENCODE_BATCH - len(batch)), (0, 0), (0, 0), (0, 0))
        yield np.asarray(encode(params, np.pad(batch, padding)))[: len(batch)]
        progress(min(start + ENCODE_BATCH, len(pictures)), len(pictures))


def latent_statistics(moments: Float[np.ndarray, "n h w m"], rows: int = MEASURED) -> dict[str, Any]:
    """Returns {"scale", "shift"} that bring the latents' means to zero mean by channel and unit variance over all."""
    some = moments[np.linspace(0, len(moments) - 1, min(rows, len(moments))).astype(int)].astype(np.float64)
    mean, logvar = np.split(some, 2, axis=-1)
    shift = mean.mean(axis=(0, 1, 2))
    variance = np.mean((mean - shift) ** 2) + np.mean(np.exp(logvar))
    return {"scale": round(float(variance**-0.5), 6), "shift": [round(float(value), 6) for value in shift]}
