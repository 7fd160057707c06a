"""The latents that diffusion models and noised networks are trained on: encoded ahead, or in every step."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key, UInt8

from rdm_jax.bundle import Bundle
from rdm_jax.core import paths
from rdm_jax.core.errors import UserError
from rdm_jax.core.images import to_float
from rdm_jax.core.progress import ProgressCallback, StageProgressCallback
from rdm_jax.data.batches import Record
from rdm_jax.data.image_set import ImageSet, cached_array
from rdm_jax.factory import scaling_from
from rdm_jax.models.autoencoder import LOGVAR_RANGE, AutoencoderKL, sample_moments
from rdm_jax.training.config import Config

ENCODE_BATCH = 64
MEASURED = 4096


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scaling:
    """The `latents` section: a model's latents are (z - shift) scale of the first stage's z.

    Attributes:
      scale: of all channels, or of each.
      shift: of each channel; 0 if empty.
      quantize: whether a VQ first stage takes the nearest codes before it decodes.
    """

    scale: float | tuple[float, ...]
    shift: tuple[float, ...] = ()
    quantize: bool = True


@dataclasses.dataclass(frozen=True)
class Latents:
    """Images as a first stage encodes them, scaled to zero mean and unit variance.

    Attributes:
      base: the bundle with the autoencoder.
      images: what is encoded.
      moments: [n, h, w, m] float16, the autoencoder's output for every image (of a VQ first stage the latents
        themselves); None encodes images in every step.
      scaling: {"scale", "shift"} of the latents.
      mirror: whether half of the images are mirrored, where they are encoded in every step.
    """

    base: Bundle
    images: ImageSet
    moments: Float[np.ndarray, "n h w m"] | None
    scaling: Mapping[str, Any]
    mirror: bool = False

    @functools.cached_property
    def shape(self) -> tuple[int, int, int]:
        """(h, w, c) of a latent."""
        module = self.base.autoencoder
        side = self.images.images.shape[1] // module.downsampling
        return side, side, module.embed_dim

    @property
    def frozen(self) -> dict[str, Any]:
        """The autoencoder's parameters, where images are encoded in every step."""
        return {"autoencoder": self.base.params["autoencoder"]} if self.moments is None else {}

    def read(self, image: int, generator: np.random.Generator) -> Record:
        """Returns an image's moments [h, w, m], or the image [size, size, 3] itself."""
        if self.moments is not None:
            return {"moments": np.asarray(self.moments[image])}
        return {"image": mirrored(np.asarray(self.images.images[image]), generator, self.mirror)}

    def x0(self, frozen: Any, batch: Mapping[str, Array], key: Key[Array, ""]) -> Float[Array, "b h w c"]:
        """Returns the latents of a batch of what `read` returned, sampled from the posterior of a KL first stage."""
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


def open_latents(base: Bundle, images: ImageSet, config: Config, progress: StageProgressCallback) -> Latents:
    """Returns the latents of images; encodes all of them first if `config.data.cache_latents` is set.

    Args:
      base: the bundle with the autoencoder.
      images: what is encoded.
      config: `data` (`cache_latents`, `mirror`, `data_dir`) and `latents`: the scaling, measured if it is empty.
      progress: called with (what, done, total).
    """
    report = functools.partial(progress, "encoding latents")
    moments = encode_moments(base, images, cache_folder(config.data), report) if config.data.cache_latents else None
    module: Any = base.autoencoder
    measure = functools.partial(latent_statistics, gaussian=isinstance(module, AutoencoderKL), scales=module.scales)
    scaling = config.latents.to_dict() or measure(_some(base, images, moments))
    return Latents(base, images, moments, scaling, config.data.mirror)


def cache_folder(data: Config) -> Path:
    """Returns the folder of what is computed ahead: in `data.data_dir`, or in data/ where that is in object storage."""
    folder = data.data_dir or "data"
    return paths.local("data" if paths.is_remote(folder) else folder) / "cache"


def sets_folder(data: Config) -> str | None:
    """Returns the folder or the address of TFDS sets, None for the default of TFDS."""
    return paths.expanded(data.data_dir) if data.data_dir else None


def _some(base: Bundle, images: ImageSet, moments: np.ndarray | None) -> np.ndarray:
    if moments is not None:
        return moments
    rows = np.linspace(0, len(images) - 1, min(len(images), 4 * ENCODE_BATCH)).astype(int)
    return np.concatenate(list(_encoded(base, images.take(rows), lambda *_: None)))


def mirrored(
    image: UInt8[np.ndarray, "h w 3"], generator: np.random.Generator, wanted: bool
) -> UInt8[np.ndarray, "h w 3"]:
    """Returns the image, mirrored with probability 1/2 if `wanted`."""
    mirror = wanted and generator.random() < 0.5
    return np.ascontiguousarray(image[:, ::-1]) if mirror else image


def encode_moments(
    bundle: Bundle, images: ImageSet, folder: Path, progress: ProgressCallback
) -> Float[np.ndarray, "n h w m"]:
    """Returns the autoencoder's moments of all images in float16, cached in `folder` by the hashes of both."""
    name = f"moments-{bundle.hashes['autoencoder'][:16]}-{images.fingerprint[:16]}-{images.images.shape[1]}"
    return cached_array(folder / name, len(images), lambda: _encoded(bundle, images, progress))


def _encoded(bundle: Bundle, images: ImageSet, progress: ProgressCallback) -> Iterator[np.ndarray]:
    """Yields the moments of one batch of images after another."""
    module: Any = bundle.autoencoder
    encode = jax.jit(lambda p, x: module.apply({"params": p}, x, method="encode").astype(jnp.float16))
    params = jax.device_put(bundle.params["autoencoder"])
    for start in range(0, len(images), ENCODE_BATCH):
        batch = to_float(np.asarray(images.images[start : start + ENCODE_BATCH]))
        padding = ((0, ENCODE_BATCH - len(batch)), (0, 0), (0, 0), (0, 0))
        yield np.asarray(encode(params, np.pad(batch, padding)))[: len(batch)]
        progress(min(start + ENCODE_BATCH, len(images)), len(images))


def latent_statistics(
    encoded: Float[np.ndarray, "n h w m"], rows: int = MEASURED, *, gaussian: bool = True, scales: int = 1
) -> dict[str, Any]:
    """Returns the {"scale", "shift"} of latents with zero mean in each channel and unit variance over all.

    Args:
      encoded: a first stage's output for n images.
      rows: at most so many images are used.
      gaussian: whether the output is the means and log-variances of a KL first stage; otherwise it is the latents.
      scales: the equal parts of the channels that have unit variance each; of several, "scale" has one number for each
        channel (Frido's program).

    Raises:
      UserError: the latents are not finite, or all alike.
    """
    some = encoded[np.linspace(0, len(encoded) - 1, min(rows, len(encoded))).astype(int)].astype(np.float64)
    mean, logvar = np.split(some, 2, axis=-1) if gaussian else (some, None)
    shift = mean.mean(axis=(0, 1, 2))
    posterior = 0.0 if logvar is None else np.mean(np.exp(np.clip(logvar, *LOGVAR_RANGE)))
    factors = [_unit_scale(float(np.mean(part**2) + posterior)) for part in np.split(mean - shift, scales, axis=-1)]
    per_channel = [factor for factor in factors for _ in range(len(shift) // scales)]
    return {
        "scale": factors[0] if scales == 1 else per_channel,
        "shift": [round(float(value), 6) for value in shift],
    }


def _unit_scale(variance: float) -> float:
    """Returns the factor that makes a variance 1; raises UserError if there is none."""
    if not 0.0 < variance < np.inf:
        raise UserError(
            f"the first stage's latents of these images have the variance {variance:g}, so no scale makes it 1; train "
            "the first stage longer, or set latents.scale"
        )
    return round(float(variance**-0.5), 6)
