"""From a bundle's plain configuration to the objects of a run: schedule, sampler, encoders and decoders.

The functions that it calls take plain arguments and no configuration.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from ml_collections import ConfigDict

from rdm_jax import parts
from rdm_jax.core import trees
from rdm_jax.core.calls import Call, build, parse_call
from rdm_jax.core.errors import UserError, bounded, unknown
from rdm_jax.core.images import DECODED_PIXELS
from rdm_jax.diffusion import samplers
from rdm_jax.diffusion.parameterization import PREDICTIONS
from rdm_jax.diffusion.patches import Patches
from rdm_jax.diffusion.schedule import Schedule, build_schedule
from rdm_jax.diffusion.spacing import check_spacing
from rdm_jax.models.autoencoder import AutoencoderKL, split_moments
from rdm_jax.models.noised_clip import NoisedCLIP


def parameter_counts(config: Mapping[str, Any] | ConfigDict) -> dict[str, int]:
    """Returns the number of parameters of each part of a configuration, {part: count}, without creating any.

    Args:
      config: of a file in configs/models/ or of a bundle.

    Raises:
      UserError: a part's settings lack a key or have an unknown one.
    """
    config = config.to_dict() if isinstance(config, ConfigDict) else config
    return {part: trees.count(parts.abstract_params(config, part)) for part in parts.PARTS if part in config}


def schedule_from(diffusion: Mapping[str, Any]) -> Schedule:
    """Returns the schedule of a bundle's "diffusion" settings.

    Raises:
      UserError: the settings lack a number, or describe no schedule.
    """
    if "prediction" not in diffusion:
        raise UserError("the model's diffusion settings lack prediction; export or convert it again")
    if diffusion["prediction"] not in PREDICTIONS:
        raise unknown("prediction", str(diffusion["prediction"]), PREDICTIONS)
    return build_schedule(diffusion)


def check_settings(config: Mapping[str, Any]) -> None:
    """Raises UserError if the settings of a bundle beside its parts are of other types, or out of range.

    Args:
      config: of a bundle that generates.
    """
    with bounded(f"the settings of model {config.get('name')!r} are damaged", "export or convert it again"):
        if "diffusion" in config:
            schedule_from(config["diffusion"])
        if "latents" in config:
            scale, shift = scaling_from(config["latents"])
            if not (np.isfinite(scale).all() and np.all(scale) and np.isfinite(shift).all()):
                raise UserError(
                    f"latents.scale is {config['latents']['scale']}, and scale and shift are finite numbers, the scale "
                    "not 0"
                )
        neighbors = config["conditioning"]["neighbors"]
        if not isinstance(neighbors, int) or neighbors < 0:
            raise UserError(f"conditioning.neighbors is {neighbors!r}, and is a whole number of 0 or more")
        dict(config["sampling"])


def sampler_from(text: str, eta: float, spacing: str = "") -> samplers.Sampler:
    """Returns the sampler that a text names; for a sampler without eta, eta must be 0.

    Args:
      text: a name, or a call with options: "euler(churn=20)", "ddpm(variance='large')".
      eta: of DDIM; it is also one of its options.
      spacing: of the timesteps (`diffusion.spacing.check_spacing`); the sampler's own if empty.

    Raises:
      UserError: a name or an option is unknown, or a number is out of range.
    """
    call = parse_call(text, "sampler")
    given = ({"eta": eta} if eta else {}) | ({"spacing": spacing} if spacing else {})
    for name in given.keys() & call.options.keys():
        if given[name] != call.options[name]:
            raise UserError(f"{name} is {given[name]} and in the sampler {call.options[name]}; give it once")
    if eta and call.name in samplers.SAMPLERS and not hasattr(samplers.SAMPLERS[call.name], "eta"):
        raise UserError(f"eta {eta}: sampler {call.name!r} has none; leave eta at 0, or use sampler 'ddim'")
    if spacing:
        check_spacing(spacing)
    return build(samplers.SAMPLERS, Call(call.name, {**given, **call.options}), "sampler")


def scaling_from(latents: Mapping[str, Any]) -> tuple[Float[Array, "1 1 1 _"], Float[Array, "1 1 1 _"]]:
    """Returns scale and shift of a bundle's "latents" settings: the diffusion model's latents are (z - shift) scale.

    Each is one number for all channels, or one for each of them.
    """
    given = latents["scale"], latents.get("shift", 0.0)
    scale, shift = (jnp.asarray(value, jnp.float32).reshape(1, 1, 1, -1) for value in given)
    return scale, shift


def decoder_from(
    autoencoder: Any, latents: Mapping[str, Any]
) -> Callable[[Any, Float[Array, "b h w c"]], Float[Array, "b h2 w2 3"]]:
    """Returns the function (parameters, latents of the diffusion model) to images in about [-1, 1], float32.

    Args:
      autoencoder: the first stage's module.
      latents: the bundle's "latents" settings: the diffusion model's latents are (z - shift) * scale; "quantize" says
        whether a VQ first stage takes the nearest codes before it decodes, which is the default; "patches" divides
        large latents (`diffusion.patches`).
    """
    scale, shift = scaling_from(latents)
    full = autoencoder.clone(dtype="float32")
    quantize = {"quantize": bool(latents["quantize"])} if "quantize" in latents else {}
    patches = Patches.of(latents)

    def decoded(params: Any, z: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 3"]:
        def on_patch(part: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 3"]:
            return full.apply({"params": params}, part, method="decode", **quantize)

        return on_patch(z) if patches is None else patches.apply(on_patch, z)

    def decode(params: Any, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 3"]:
        """Maps latents [b, h, w, c] to images [b, f h, f w, 3], one slice after another where they are large."""

        def one(latent: Float[Array, "h w c"]) -> Float[Array, "h2 w2 3"]:
            return decoded(params, latent[None])[0]

        z = x.astype(jnp.float32) / scale + shift
        pixels = z.shape[1] * z.shape[2] * full.downsampling**2
        if z.shape[0] * pixels <= DECODED_PIXELS:
            return decoded(params, z)
        return jax.lax.map(one, z, batch_size=max(1, DECODED_PIXELS // pixels))

    return decode


def codes_decoder_from(
    autoencoder: Any, size: tuple[int, int]
) -> Callable[[Any, Int[Array, "b l"]], Float[Array, "b h2 w2 3"]]:
    """Returns the function (parameters, codes) to images in about [-1, 1], float32.

    Args:
      autoencoder: a VQ first stage.
      size: (h, w) of an image's latents; codes are in row-major order, those of one latent side by side.
    """
    full = autoencoder.clone(dtype="float32")

    def decode(params: Any, codes: Int[Array, "b l"]) -> Float[Array, "b h2 w2 3"]:
        """Maps codes [b, l] to images [b, f h, f w, 3]; those below 0, which are unknown, as code 0."""
        indices = jnp.maximum(codes, 0).reshape(len(codes), *size, *full.code_shape)
        return full.apply({"params": params}, indices, method="decode_codes")

    return decode


def code_count(autoencoder: Any, size: tuple[int, int]) -> int:
    """Returns the number of codes of an image whose latents are of a size (h, w)."""
    return math.prod((*size, *autoencoder.code_shape))


def check_one_code(what: str, autoencoder: Any) -> None:
    """Raises UserError if a latent has several codes, which are predicted one after another alone.

    Args:
      what: whose first stage it is, for the error.
      autoencoder: the first stage's module.
    """
    if autoencoder.code_shape:
        raise UserError(
            f"the first stage of {what} has {autoencoder.code_shape[0]} codes for each latent, and the head 'masked' "
            "predicts one; use the head 'autoregressive', or a first stage with levels=1"
        )


def codes_encoder_from(
    autoencoder: Any,
) -> Callable[[Any, Float[Array, "b h w 3"]], Int[Array, "b l"]]:
    """Returns the function (parameters, images in [-1, 1]) to codes in row-major order of a VQ first stage."""
    full = autoencoder.clone(dtype="float32")

    def encode(params: Any, images: Float[Array, "b h w 3"]) -> Int[Array, "b l"]:
        """Maps images to codes."""
        return full.apply({"params": params}, images, method="codes").reshape(len(images), -1)

    return encode


def encoder_from(
    autoencoder: Any, latents: Mapping[str, Any]
) -> Callable[[Any, Float[Array, "b h w 3"]], Float[Array, "b h2 w2 c"]]:
    """Returns the function (parameters, images in [-1, 1]) to latents of the diffusion model, the posterior's mean.

    Args:
      autoencoder: the first stage's module.
      latents: the bundle's "latents" settings: the diffusion model's latents are (z - shift) * scale.
    """
    scale, shift = scaling_from(latents)
    full = autoencoder.clone(dtype="float32")

    def encode(params: Any, images: Float[Array, "b h w 3"]) -> Float[Array, "b h2 w2 c"]:
        """Maps images to latents."""
        encoded = full.apply({"params": params}, images, method="encode")
        z = split_moments(encoded)[0] if isinstance(full, AutoencoderKL) else encoded
        return (z - shift) * scale

    return encode


def image_encoder_from(
    clip: Any, config: Mapping[str, Any]
) -> Callable[[Any, Float[Array, "b size size 3"]], Float[Array, "b d"]]:
    """Returns the function (parameters, images in [-1, 1] of CLIP's own size) to CLIP's vectors.

    Args:
      clip: the module.
      config: the bundle's "clip" settings, whose mean and std are those of pixels in [0, 1].
    """
    mean, std = (np.asarray(config[name], np.float32).reshape(1, 1, 1, 3) for name in ("mean", "std"))

    def encode(params: Any, images: Float[Array, "b size size 3"]) -> Float[Array, "b d"]:
        """Maps images to vectors."""
        return clip.apply({"params": params}, ((images + 1.0) / 2.0 - mean) / std, method="encode_image")

    return encode


def noised_encoder_from(
    module: Any,
) -> Callable[[Any, Float[Array, "b h w c"], Any], tuple[Float[Array, "b d"], list[Float[Array, "b _ _ _"]]]]:
    """Returns the function (parameters, noisy latents, times) to an encoder's vectors and its levels' feature maps.

    A transformer has no such maps.
    """
    transformer = isinstance(module, NoisedCLIP)

    def encode(params: Any, x: Float[Array, "b h w c"], t: Any) -> tuple[Array, list[Array]]:
        """Maps noisy latents to vectors and maps."""
        if transformer:
            vector: Any = module.apply({"params": params}, x, t, method="encode_image")
            return vector, []
        vector, state = module.apply({"params": params}, x, t, mutable=["intermediates"])
        levels = state["intermediates"]
        return vector, [levels[f"level_{i}"][0] for i in range(len(levels))]

    return encode


def latent_shape(
    denoiser: Any, autoencoder: Any, height: int, width: int, *, padded: bool = False
) -> tuple[int, int, int]:
    """Returns (h, w, c) of the latent of an image; see `latent_size`."""
    channels = denoiser.stages * denoiser.in_channels
    return *latent_size(denoiser, autoencoder, height, width, padded=padded), channels


def latent_size(network: Any, autoencoder: Any, height: int, width: int, *, padded: bool = False) -> tuple[int, int]:
    """Returns (h, w) of the latent or the codes of an image.

    Args:
      network: the module that generates.
      autoencoder: the first stage's module.
      height: of the image.
      width: of the image.
      padded: whether the image may be padded to the next size that the networks take.

    Raises:
      UserError: height or width is not a positive multiple of what the networks take, or the network takes one size
        alone.
    """
    factor = autoencoder.downsampling
    multiple = factor * network.size_multiple
    only = None if "any_size" in network.supports else factor * network.latent_size
    if padded:
        least = only if only is not None else multiple
        height, width = (max(least, -(-side // multiple) * multiple) for side in (height, width))
    if only is not None and (height, width) != (only, only):
        raise UserError(
            f"height {height}, width {width}: this model generates images of {only}x{only} only, as its network has "
            + (
                "learned positions; edit at that size by --fit shrink or crop"
                if padded
                else "learned positions; use these or omit them"
            )
        )
    for side, size in (("height", height), ("width", width)):
        if size < multiple or size % multiple:
            below, above = size // multiple * multiple, (size // multiple + 1) * multiple
            near = f"{below} or {above}" if below > 0 else f"{multiple}"
            raise UserError(f"{side} {size} is not a multiple of {multiple}, as this model needs; use {near}")
    return height // factor, width // factor
