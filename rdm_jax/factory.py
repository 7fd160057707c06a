"""From a bundle's plain configuration to what a run is made of: settings, tokens, sampler, denoiser, decoder.

Below this file there are plain arguments only; no function that it calls sees a configuration.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, UInt32
from ml_collections import ConfigDict

from rdm_jax.bundle import PREPROCESSING, Bundle
from rdm_jax.conditions import Condition
from rdm_jax.conditions.base import at_share
from rdm_jax.core import trees
from rdm_jax.core.calls import Call, made, parse_call
from rdm_jax.core.errors import UserError, unknown
from rdm_jax.core.keys import normal
from rdm_jax.diffusion import samplers
from rdm_jax.diffusion.denoiser import Apply, Denoiser, Prediction, StepHook, StepInfo, make_denoiser
from rdm_jax.diffusion.parameterization import PREDICTIONS
from rdm_jax.diffusion.schedule import Schedule, build_schedule
from rdm_jax.diffusion.spacing import SPACINGS
from rdm_jax.guidance.classifier_free import classifier_free_denoiser
from rdm_jax.guides import Asked, Networks, bent, parts_of
from rdm_jax.models import abstract_params, build_autoencoder, build_clip, build_unet
from rdm_jax.models.autoencoder import AutoencoderKL, split_moments

# Larger batches of larger pictures are decoded in slices: the decoder works at full size and needs the most memory.
DECODED_PIXELS = 2**20
MAX_BATCH = 8
MAX_GUIDANCE = 1000.0
NULLS = ("zeros", "learned")  # what guidance leads away from: as many tokens of zeros, or of a vector of its own
CONDITIONS = ("neighbors", "text", "text+neighbors")
# By default what depends on parameters alone is scheduled first, and all of it is then held at once.
COMPILER_OPTIONS: Mapping[str, dict[str, str | bool]] = {
    "cpu": {"xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"}
}


@dataclasses.dataclass(frozen=True)
class Settings:
    """How pictures are drawn, every default filled in.

    Attributes:
      condition: what the context tokens are: "neighbors", "text" (the query alone) or "text+neighbors".
      neighbors: how many neighbours each query fetches; 0 where the condition has none.
      num_images: pictures for each query.
      batch_size: pictures in one call of the compiled program; the last batch is padded to it.
      steps: sampling steps that were asked for.
      sampler: the sampler's name.
      eta: how much fresh noise the sampler adds.
      guidance_scale: the scale of classifier-free guidance; 1 is none.
      seed: the run's seed.
      height: of a picture in pixels.
      width: of a picture in pixels.
      spacing: which times the sampler visits; its own choice if empty.
      guides: what bends the run, each as `guides.open_guides` reads it.
      conditions: what is shown beside the query, each as `conditions.open_conditions` reads it.
      guidance_from: the share of the time, counted from the picture (0) to noise (1), where guidance begins.
      guidance_to: where it ends; outside, steps are drawn without guidance.
      guidance_rescale: how much of guidance's contrast is taken back, in [0, 1].
      init: a picture that the run starts from, or a .npy file of the noise it starts from; "" for noise of its own.
      strength: how noisy that picture is made, as a share of the steps: 1 leaves nothing of it.
    """

    condition: str
    neighbors: int
    num_images: int
    batch_size: int
    steps: int
    sampler: str
    eta: float
    guidance_scale: float
    seed: int
    height: int
    width: int
    spacing: str = ""
    guides: tuple[str, ...] = ()
    conditions: tuple[str, ...] = ()
    guidance_from: float = 0.0
    guidance_to: float = 1.0
    guidance_rescale: float = 0.0
    init: str = ""
    strength: float = 1.0


def settings_from(config: Mapping[str, Any], given: Mapping[str, Any], queries: int) -> Settings:
    """Returns the settings of a run: what was given, the model's own where it is None; plain values are checked.

    Args:
      config: the bundle's configuration; "sampling" and "conditioning" hold the defaults.
      given: values by the names of `Settings`; None or left out takes the default.
      queries: how many prompts and images there are.

    Raises:
      UserError: a value is out of its range.
    """
    defaults = {"condition": "neighbors", "num_images": 1, "seed": 0, **OPTIONAL}
    defaults["neighbors"] = config["conditioning"]["neighbors"]
    defaults |= {key: value for key, value in config["sampling"].items() if key in Settings.__annotations__}
    values = defaults | {key: value for key, value in given.items() if value is not None}
    if config["conditioning"].get("null", "zeros") not in NULLS:
        raise unknown("null condition", str(config["conditioning"]["null"]), NULLS)
    if values["condition"] not in CONDITIONS:
        raise unknown("condition", str(values["condition"]), CONDITIONS)
    for name in ("neighbors", "num_images", "steps", "height", "width"):
        _check_at_least_one(name, values[name])
    if not abs(values["guidance_scale"]) <= MAX_GUIDANCE:  # NaN neither
        raise UserError(
            f"guidance scale {values['guidance_scale']} is no number to draw with; use 1 (none) to about 10"
        )
    if not 0 <= values["seed"] < 2**32:
        raise UserError(f"seed {values['seed']} is out of range; use a whole number from 0 to {2**32 - 1}")
    if queries == 0:
        raise UserError("nothing to draw: give a prompt, or an image as the query")
    if values.get("batch_size") is None:
        values["batch_size"] = _even_batches(queries * values["num_images"], values["height"] * values["width"])
    _check_at_least_one("batch_size", values["batch_size"])
    if values["condition"] == "text":
        values["neighbors"] = 0
    for name in ("guidance_from", "guidance_to", "guidance_rescale"):
        _check_share(name, values[name])
    if values["guidance_from"] > values["guidance_to"]:
        raise UserError(
            f"guidance from {values['guidance_from']} to {values['guidance_to']} is no interval; "
            "time is counted from the picture, 0, to noise, 1"
        )
    if not 0 < values["strength"] <= 1:
        raise UserError(f"strength {values['strength']} is out of range; give a share above 0, up to 1")
    return Settings(**{key: type_(values[key]) for key, type_ in _TYPES.items()})


OPTIONAL = {field.name: field.default for field in dataclasses.fields(Settings) if field.default != dataclasses.MISSING}

_TYPES = {
    "condition": str,
    "neighbors": int,
    "num_images": int,
    "batch_size": int,
    "steps": int,
    "sampler": str,
    "eta": float,
    "guidance_scale": float,
    "seed": int,
    "height": int,
    "width": int,
    **{name: type(value) for name, value in OPTIONAL.items()},
}


def _check_at_least_one(name: str, value: int) -> None:
    if value < 1:
        raise UserError(f"{name.replace('_', ' ')} {value} is too small; use 1 or more")


def _check_share(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise UserError(f"{name.replace('_', ' ')} {value} is out of range; give a share from 0 to 1")


def _even_batches(pictures: int, pixels: int) -> int:
    """Returns a batch size that fills all batches about equally, so that little is drawn for the padding."""
    most = min(MAX_BATCH, max(1, DECODED_PIXELS // pixels))
    return math.ceil(pictures / math.ceil(pictures / most))


def parameter_counts(config: Mapping[str, Any] | ConfigDict) -> dict[str, int]:
    """Returns how many parameters each network of a configuration has, without making any; 0 for one it lacks.

    Args:
      config: a file's of configs/models/, or a bundle's: "unet", "autoencoder", "clip", or some of them.

    Returns:
      counts by the keys unet, autoencoder and clip.

    Raises:
      UserError: a network's settings lack a key or have an unknown one.
    """
    config = config.to_dict() if isinstance(config, ConfigDict) else config
    networks = {
        "unet": lambda: build_unet(config["unet"]),
        "autoencoder": lambda: build_autoencoder(config["autoencoder"]),
        "clip": lambda: build_clip({key: config["clip"][key] for key in config["clip"] if key not in PREPROCESSING}),
    }
    return {part: trees.count(abstract_params(build())) if part in config else 0 for part, build in networks.items()}


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


def sampler_from(text: str, eta: float, spacing: str = "") -> samplers.Sampler:
    """Returns the sampler that a text names; one that has no eta takes 0 alone.

    Args:
      text: a name, or a call with options of its own: "euler(churn=20)", "ddpm(variance='large')".
      eta: of DDIM; it is also one of its options.
      spacing: which times it visits, a name in `diffusion.spacing.SPACINGS`; its own if empty.

    Raises:
      UserError: a name or an option is not known, or a number is out of its range.
    """
    call = parse_call(text, "sampler")
    given = ({"eta": eta} if eta else {}) | ({"spacing": spacing} if spacing else {})
    if eta and call.name in samplers.SAMPLERS and not hasattr(samplers.SAMPLERS[call.name], "eta"):
        raise UserError(f"eta {eta}: sampler {call.name!r} has none; leave eta at 0, or use sampler 'ddim'")
    if spacing and spacing not in SPACINGS:
        raise unknown("spacing", spacing, SPACINGS)
    return made(samplers.SAMPLERS, Call(call.name, {**given, **call.options}), "sampler")


def context_tokens(
    condition: str,
    queries: Float[np.ndarray, "q d"],
    neighbors: Float[np.ndarray, "q k d"] | None,
    unit: bool,
) -> Float[np.ndarray, "q n d"]:
    """Returns the tokens that the network sees: the query, its neighbours, or the query and then its neighbours.

    Args:
      condition: a name in `CONDITIONS`.
      queries: the query vectors.
      neighbors: what was retrieved; None where the condition has no neighbours.
      unit: whether every token is scaled to length 1, as the model's configuration says.
    """
    parts = {
        "neighbors": [neighbors],
        "text": [queries[:, None]],
        "text+neighbors": [queries[:, None], neighbors],
    }[condition]
    tokens = np.concatenate(parts, axis=1, dtype=np.float32)
    return tokens / np.maximum(np.linalg.norm(tokens, axis=-1, keepdims=True), 1e-12) if unit else tokens


def denoiser_from(
    unet: Any,
    params: Any,
    context: Float[Array, "b n d"],
    scale: Float[Array, ""] | None,
    prediction: str,
    null: Float[np.ndarray, " d"] | Float[Array, " d"] | None = None,
) -> Denoiser:
    """Returns the denoiser of a network under context tokens, guided away from those of no condition.

    Args:
      unet: the network's module.
      params: its parameters, without the "params" level.
      context: the tokens of each picture.
      scale: the guidance scale, may be traced; None asks the network once a step, without the null condition, which
        is what a scale of 1 means.
      prediction: what the network predicts, a name in `diffusion.parameterization.PREDICTIONS`.
      null: the token that stands for no condition in every place; zeros if None.
    """
    apply = _apply(unet, params)
    if scale is None:
        return make_denoiser(apply, Condition(context), prediction)
    nothing = jnp.zeros_like(context[:1]) if null is None else jnp.broadcast_to(jnp.asarray(null), context[:1].shape)
    return classifier_free_denoiser(apply, Condition(context), Condition(nothing), scale, prediction)


def conditioned_denoiser(unet: Any, params: Any, inputs: Inputs, prediction: str, *, guided: bool) -> Denoiser:
    """Returns the denoiser of a network under all conditions of a run, as its course has them at each step.

    Args:
      unet: the network's module.
      params: its parameters, without the "params" level.
      inputs: the conditions; the steps' coefficients are `conditions.Course.of` it.
      prediction: what the network predicts, a name in `diffusion.parameterization.PREDICTIONS`.
      guided: whether the null condition and the further ones are asked; otherwise what is given alone.
    """
    apply, context = _apply(unet, params), inputs.context

    def denoiser(x_t: Float[Array, "b h w c"], info: StepInfo) -> Prediction:
        """Returns what the network says under the conditions of a step."""
        scale, share, null_share = (info.coefficients[name] for name in ("guidance", "share", "null_share"))
        given, null = at_share(context.given, share), at_share(context.null, null_share)
        if not guided:
            return make_denoiser(apply, given, prediction)(x_t, info)
        also = [(at_share(one, share), by) for one, by in zip(context.also, inputs.also, strict=True)]
        guide = classifier_free_denoiser(apply, given, null, scale, prediction, also=also, rescale=inputs.rescale)
        return guide(x_t, info)

    return denoiser


def null_token(config: Mapping[str, Any]) -> Float[np.ndarray, " d"] | None:
    """Returns the learned token of no condition that a bundle's configuration holds, None where it is zeros."""
    token = config["conditioning"].get("null_token")
    return None if token is None else np.asarray(token, np.float32)


def _apply(unet: Any, params: Any) -> Apply:
    def apply(x: Float[Array, "b h w c"], t: Array, condition: Condition) -> Float[Array, "b h w o"]:
        """Returns the network's output under a condition."""
        # What is made of the parameters alone (kernels transformed, or widened from bfloat16) would otherwise be made
        # for the whole network before the first step, and held through all of them.
        tied, x = jax.lax.optimization_barrier((params, x))
        return unet.apply({"params": tied}, x, t, condition.tokens, condition.weights)

    return apply


def decoder_from(
    autoencoder: Any, latents: Mapping[str, Any]
) -> Callable[[Any, Float[Array, "b h w c"]], Float[Array, "b h2 w2 3"]]:
    """Returns the function (parameters, latents of the diffusion model) to pictures in about [-1, 1], float32.

    Args:
      autoencoder: the first stage's module.
      latents: the bundle's "latents" settings: the diffusion model's latents are (z - shift) * scale; "quantize" says
        whether a VQ first stage takes the nearest codes before it decodes, which it does unless told otherwise.
    """
    scale = float(latents["scale"])
    shift = jnp.asarray(latents.get("shift", 0.0), jnp.float32).reshape(1, 1, 1, -1)
    full = autoencoder.clone(dtype="float32")
    quantize = {"quantize": bool(latents["quantize"])} if "quantize" in latents else {}

    def decoded(params: Any, z: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 3"]:
        return full.apply({"params": params}, z, method="decode", **quantize)

    def decode(params: Any, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 3"]:
        """Maps latents [b, h, w, c] to pictures [b, f h, f w, 3], one slice after another where they are large."""

        def one(latent: Float[Array, "h w c"]) -> Float[Array, "h2 w2 3"]:
            return decoded(params, latent[None])[0]

        z = x.astype(jnp.float32) / scale + shift
        pixels = z.shape[1] * z.shape[2] * full.downsampling**2
        if z.shape[0] * pixels <= DECODED_PIXELS:
            return decoded(params, z)
        return jax.lax.map(one, z, batch_size=max(1, DECODED_PIXELS // pixels))

    return decode


def encoder_from(
    autoencoder: Any, latents: Mapping[str, Any]
) -> Callable[[Any, Float[Array, "b h w 3"]], Float[Array, "b h2 w2 c"]]:
    """Returns the function (parameters, pictures in [-1, 1]) to latents of the diffusion model, the posterior's mean.

    Args:
      autoencoder: the first stage's module.
      latents: the bundle's "latents" settings: the diffusion model's latents are (z - shift) * scale.
    """
    scale = float(latents["scale"])
    shift = jnp.asarray(latents.get("shift", 0.0), jnp.float32).reshape(1, 1, 1, -1)
    full = autoencoder.clone(dtype="float32")

    def encode(params: Any, pictures: Float[Array, "b h w 3"]) -> Float[Array, "b h2 w2 c"]:
        """Maps pictures to latents."""
        encoded = full.apply({"params": params}, pictures, method="encode")
        z = split_moments(encoded)[0] if isinstance(full, AutoencoderKL) else encoded
        return (z - shift) * scale

    return encode


def latent_shape(unet: Any, autoencoder: Any, height: int, width: int) -> tuple[int, int, int]:
    """Returns (h, w, c) of the latent of a picture.

    Raises:
      UserError: height or width is not a positive multiple of what the networks take.
    """
    factor = autoencoder.downsampling
    multiple = factor * unet.size_multiple
    for side, size in (("height", height), ("width", width)):
        if size < multiple or size % multiple:
            below, above = size // multiple * multiple, (size // multiple + 1) * multiple
            near = f"{below} or {above}" if below > 0 else f"{multiple}"
            raise UserError(f"{side} {size} is not a multiple of {multiple}, as this model needs; use {near}")
    return height // factor, width // factor, unet.in_channels


@dataclasses.dataclass(frozen=True)
class Shape:
    """What a program is compiled for; everything else is traced.

    Attributes:
      sampler: the sampler, its eta within.
      guided: whether the network is asked under the null condition too.
      fresh: how many steps draw noise of their own; 0 where none does.
      chunk: steps in one call.
      batch: pictures in one call.
      latent: (h, w, c) of a latent.
      context: the form of the conditions (`conditions.Context`).
      rescaled: whether guidance's contrast is taken back.
      guides: the forms of the guides (`guides.Asked`).
    """

    sampler: samplers.Sampler
    guided: bool
    fresh: int
    chunk: int
    batch: int
    latent: tuple[int, int, int]
    context: tuple[Any, ...]
    rescaled: bool = False
    guides: tuple[Any, ...] = ()


@flax.struct.dataclass
class Inputs:
    """What a chunk of a run is computed from, beside the parameters and the carry; all of it may change.

    Attributes:
      context: the conditions of the batch's pictures.
      infos: the chunk's steps, their course among the coefficients.
      step_keys: [s, b, 2] the key data of their noise; None where none is drawn.
      also: the scale of each further condition.
      rescale: how much of guidance's contrast is taken back; None leaves that out.
      guides: the inputs of each guide.
      noise: [b, h, w, c] what the run started from; None without guides.
    """

    context: Any
    infos: Any
    step_keys: Any = None
    also: Any = ()
    rescale: Any = None
    guides: Any = ()
    noise: Any = None


@dataclasses.dataclass(frozen=True)
class Program:
    """What is compiled for one shape: the run's start, one chunk of the sampler's steps, and the decoder.

    Attributes:
      start: see `start_program`.
      advance: see `chunk_program`.
      decode: (autoencoder parameters, latents) to pictures, on all devices.
      batch: where what belongs to single pictures lies.
      inputs: where `Inputs` lie.
    """

    start: Callable[..., Any]
    advance: Callable[..., Any]
    decode: Callable[..., Any]
    batch: NamedSharding
    inputs: Inputs


def start_program(shape: Shape) -> Callable[..., Any]:
    """Returns the function that starts a run of a shape, as it is traced.

    It maps the key data of the images [b, 2], what the run starts from [1, h, w, c] and its two factors to the
    sampler's carry, the noise [b, h, w, c], and the key data [fresh, b, 2] of the steps' own noise or None.
    """

    def start(data: UInt32[Array, "b 2"], latent: Array, alpha: Array, sigma: Array) -> tuple[Any, Array, Any]:
        """Returns the first carry, at alpha latent + sigma noise."""
        keys = jax.random.wrap_key_data(data)
        noise = normal(keys, shape.latent)
        carry = shape.sampler.init(alpha * latent + sigma * noise)
        if not shape.fresh:
            return carry, noise, None
        numbers = StepInfo(t=jnp.zeros(shape.fresh), t_next=jnp.zeros(shape.fresh), coefficients={})
        return carry, noise, jax.random.key_data(samplers.with_keys(numbers, keys).keys)

    return start


def chunk_program(bundle: Bundle, shape: Shape, asked: Sequence[Asked] = ()) -> Callable[..., Any]:
    """Returns the function that takes a run some steps on, as it is traced.

    It maps the parameters of the parts that are read, `Inputs` and a carry to the carry after the chunk and the x0
    [b, h, w, c] that was predicted last.
    """
    decode = decoder_from(bundle.autoencoder, bundle.config["latents"])
    prediction = bundle.config["diffusion"]["prediction"]

    def advance(params: Any, inputs: Inputs, carry: Any) -> tuple[Any, Array]:
        """Returns the carry after the chunk's steps, and its preview."""
        infos = inputs.infos
        if inputs.step_keys is not None:
            infos = dataclasses.replace(infos, keys=jax.random.wrap_key_data(inputs.step_keys))
        denoiser = conditioned_denoiser(bundle.unet, params["unet"], inputs, prediction, guided=shape.guided)
        networks = Networks(bundle, params, lambda x0: decode(params["autoencoder"], x0))
        hooks: tuple[StepHook, ...] = ()
        if asked:
            denoiser, hooks = bent(denoiser, asked, networks, inputs.guides, inputs.noise)
        return samplers.sample_chunk(shape.sampler, infos, carry, denoiser, hooks)

    return advance


def compile_program(bundle: Bundle, shape: Shape, inputs: Inputs, asked: Sequence[Asked], mesh: Mesh) -> Program:
    """Compiles what draws pictures of one shape, split over all devices where their number divides the batch.

    Args:
      bundle: the model, its parameters on every device.
      shape: what the program is for.
      inputs: of any chunk of the shape, for the names, shapes and types of what is in it; its `step_keys` and `noise`
        are made here.
      asked: guides of the shape's forms.
      mesh: of the devices.
    """
    start, advance = start_program(shape), chunk_program(bundle, shape, asked)
    decode = decoder_from(bundle.autoencoder, bundle.config["latents"])
    split = PartitionSpec(mesh.axis_names) if shape.batch % mesh.size == 0 else PartitionSpec()
    whole, batch, by_step = (
        NamedSharding(mesh, spec) for spec in (PartitionSpec(), split, PartitionSpec(None, *split))
    )
    places = Inputs(
        context=batch,
        infos=whole,
        step_keys=by_step,
        also=whole,
        rescale=whole,
        guides=tuple(one.shardings(batch, whole) for one in asked),
        noise=batch,
    )
    keys, number = jax.ShapeDtypeStruct((shape.batch, 2), jnp.uint32), jax.ShapeDtypeStruct((), jnp.float32)
    latent = jax.ShapeDtypeStruct((1, *shape.latent), jnp.float32)
    carry, noise, step_keys = jax.eval_shape(start, keys, latent, number, number)
    chunk_keys = step_keys and jax.ShapeDtypeStruct((shape.chunk, *step_keys.shape[1:]), step_keys.dtype)
    inputs = dataclasses.replace(inputs, step_keys=chunk_keys, noise=noise if asked else None)
    params = {name: bundle.params[name] for name in ("unet", *parts_of(asked))}
    options = COMPILER_OPTIONS.get(jax.default_backend())
    jitted = (
        jax.jit(start, in_shardings=(batch, whole, whole, whole), out_shardings=(batch, batch, by_step)),
        jax.jit(advance, in_shardings=(whole, places, batch), out_shardings=(batch, batch)),
        jax.jit(decode, in_shardings=(whole, batch), out_shardings=whole),
    )
    given = (keys, latent, number, number), (params, inputs, carry), (bundle.params["autoencoder"], carry.x)
    compiled = [function.lower(*one).compile(options) for function, one in zip(jitted, given, strict=True)]
    return Program(*compiled, batch=batch, inputs=places)
