"""What is compiled to draw pictures of one shape: the start of a run, a chunk of its steps, and the decoder."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, UInt32

from rdm_jax.bundle import Bundle
from rdm_jax.conditioning import Condition
from rdm_jax.conditioning.base import at_share
from rdm_jax.core import trees
from rdm_jax.core.keys import normal
from rdm_jax.core.mesh import replicated
from rdm_jax.diffusion import samplers
from rdm_jax.diffusion.denoiser import Apply, Denoiser, Prediction, StepHook, StepInfo, make_denoiser
from rdm_jax.factory import decoder_from
from rdm_jax.guidance import BoundGuide, Networks, apply_guides, parts_of
from rdm_jax.guidance.classifier_free import classifier_free_denoiser
from rdm_jax.models.condition import Condition as NetworkCondition

LARGE = 2**27  # parameters of a denoiser from which on YNNPACK's products are no faster than XLA's own


@flax.struct.dataclass
class Start:
    """What a run starts from.

    Attributes:
      latent: [1, h, w, c].
      alpha: its factor.
      sigma: of each picture's own noise.
    """

    latent: Any
    alpha: Any
    sigma: Any

    def under(self, noise: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """Returns alpha latent + sigma noise."""
        return self.alpha * self.latent + self.sigma * noise


@dataclasses.dataclass(frozen=True)
class Shape:
    """What a program is compiled for; everything else is traced.

    Attributes:
      sampler: the sampler, its eta within.
      guided: whether the network is asked under the null condition too.
      chunk: steps in one call.
      batch: pictures in one call.
      latent: (h, w, c) of a latent.
      context: the form of the conditions (`conditions.Context`).
      rescaled: whether guidance's contrast is taken back.
      guides: the forms of the guides (`guidance.BoundGuide`).
    """

    sampler: samplers.Sampler
    guided: bool
    chunk: int
    batch: int
    latent: tuple[int, int, int]
    context: tuple[Any, ...]
    rescaled: bool = False
    guides: tuple[Any, ...] = ()

    @property
    def needs_noise(self) -> bool:
        """Whether steps have keys of their own."""
        return self.sampler.needs_noise or bool(self.guides)


@flax.struct.dataclass
class Inputs:
    """What steps are computed from, beside the parameters and the carry; all of it may change.

    As of every tree, the leaves may be arrays, their shapes, or where they lie.

    Attributes:
      context: a `conditions.Context`, of the batch's pictures.
      infos: a `StepInfo` of stacked steps, their course among the coefficients.
      first: the number of the first of them in the sampler's plan.
      keys: [b, 2] the key data of the pictures.
      also: the scale of each further condition.
      rescale: how much of guidance's contrast is taken back; None leaves that out.
      guides: the inputs of each guide.
      noise: [b, h, w, c] what the run started from; None without guides.
    """

    context: Any
    infos: Any
    first: Any
    keys: Any
    also: Any = ()
    rescale: Any = None
    guides: Any = ()
    noise: Any = None

    def chunk(self, begin: int, steps: int) -> Inputs:
        """Returns the inputs of some of the steps."""
        infos = jax.tree.map(lambda leaf: leaf[begin : begin + steps], self.infos)
        return dataclasses.replace(self, infos=infos, first=np.int32(self.first + begin))

    def keyed_steps(self) -> StepInfo:
        """Returns the steps, each picture with a key of its own in each."""
        return samplers.with_keys(self.infos, jax.random.wrap_key_data(self.keys), self.first)


@dataclasses.dataclass(frozen=True)
class Program:
    """What is compiled for one shape.

    Attributes:
      start: see `start_program`.
      advance: see `chunk_program`.
      decode: (autoencoder parameters, latents) to pictures, on all devices.
      inputs: where `Inputs` lie.
      whole: where lies what every device has.
    """

    start: Callable[..., Any]
    advance: Callable[..., Any]
    decode: Callable[..., Any]
    inputs: Inputs
    whole: NamedSharding


def network_from(module: Any, params: Any) -> Apply:
    """Returns the function (x, t, condition) to a network's output.

    Args:
      module: the denoiser.
      params: its parameters, without the "params" level.
    """

    def apply(x: Float[Array, "b h w c"], t: Array, condition: Condition) -> Float[Array, "b h w o"]:
        """Returns the network's output under a condition."""
        # What is made of the parameters alone (kernels transformed, or widened from bfloat16) would otherwise be made
        # for the whole network before the first step, and held through all of them.
        tied, x = jax.lax.optimization_barrier((params, x))
        return module.apply({"params": tied}, x, t, NetworkCondition(condition.tokens, condition.weights))

    return apply


def conditioned_denoiser(bundle: Bundle, params: Any, inputs: Inputs, *, guided: bool) -> Denoiser:
    """Returns the denoiser of a model under all conditions of a run, as its course has them at each step.

    Args:
      bundle: the model.
      params: {part: parameters}, which may be traced.
      inputs: the conditions; the steps' coefficients are `conditions.Course.of` it.
      guided: whether the null condition and the further ones are asked; otherwise what is given alone.
    """
    apply, context = network_from(bundle.denoiser, params["denoiser"]), inputs.context
    prediction = bundle.config["diffusion"]["prediction"]

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


def start_program(shape: Shape) -> Callable[..., Any]:
    """Returns the function that starts a run of a shape, as it is traced.

    It maps the key data of the pictures [b, 2] and a `Start` to the sampler's carry and the noise [b, h, w, c].
    """

    def start(data: UInt32[Array, "b 2"], begin: Start) -> tuple[Any, Array]:
        """Returns the first carry, and the noise in it."""
        noise = normal(jax.random.wrap_key_data(data), shape.latent)
        return shape.sampler.init(begin.under(noise)), noise

    return start


def chunk_program(bundle: Bundle, shape: Shape, asked: Sequence[BoundGuide] = ()) -> Callable[..., Any]:
    """Returns the function that takes a run some steps on, as it is traced.

    It maps the parameters of the parts that are read, `Inputs` and a carry to the carry after the chunk and the x0
    [b, h, w, c] that was predicted last.
    """
    decode = decoder_from(bundle.autoencoder, bundle.config["latents"])

    def advance(params: Any, inputs: Inputs, carry: Any) -> tuple[Any, Array]:
        """Returns the carry after the chunk's steps, and its preview."""
        infos = inputs.keyed_steps() if shape.needs_noise else inputs.infos
        denoiser = conditioned_denoiser(bundle, params, inputs, guided=shape.guided)
        networks = Networks(bundle, params, lambda x0: decode(params["autoencoder"], x0))
        hooks: tuple[StepHook, ...] = ()
        if asked:
            denoiser, hooks = apply_guides(denoiser, asked, networks, inputs.guides, inputs.noise)
        return samplers.sample_chunk(shape.sampler, infos, carry, denoiser, hooks)

    return advance


def compile_program(
    bundle: Bundle, shape: Shape, inputs: Inputs, asked: Sequence[BoundGuide], mesh: Mesh, known: dict[Any, Any]
) -> Program:
    """Compiles what draws pictures of one shape, split over all devices where their number divides the batch.

    Args:
      bundle: the model, its parameters on every device.
      shape: what the program is for.
      inputs: of any chunk of the shape, for the names, shapes and types of what is in it.
      asked: guides of the shape's forms.
      mesh: of the devices.
      known: the starts and decoders that other shapes have; this one's are kept in it.
    """
    start, advance = start_program(shape), chunk_program(bundle, shape, asked)
    decode = decoder_from(bundle.autoencoder, bundle.config["latents"])
    whole, batch, places = _places(shape, asked, mesh)
    number = jax.ShapeDtypeStruct((), jnp.float32)
    begin = Start(jax.ShapeDtypeStruct((1, *shape.latent), jnp.float32), number, number)
    inputs = jax.eval_shape(lambda tree: tree, inputs)
    carry, noise = jax.eval_shape(start, inputs.keys, begin)
    inputs = dataclasses.replace(inputs, noise=noise if asked else None)
    params = {name: bundle.params[name] for name in ("denoiser", *parts_of(asked))}
    options = compiler_options(bundle)

    def compiled(jitted: Any, *given: Any) -> Any:
        """Returns the executable for arguments of these shapes."""
        return jitted.lower(*given).compile(options)

    of_start, of_decode = ("start", shape.sampler, shape.batch, shape.latent), ("decode", shape.batch, shape.latent)
    if of_start not in known:
        known[of_start] = compiled(jax.jit(start, in_shardings=(batch, whole), out_shardings=batch), inputs.keys, begin)
    if of_decode not in known:
        jitted = jax.jit(decode, in_shardings=(whole, batch), out_shardings=whole)
        known[of_decode] = compiled(jitted, bundle.params["autoencoder"], carry.x)
    jitted = jax.jit(advance, in_shardings=(whole, places, batch), out_shardings=batch)
    return Program(known[of_start], compiled(jitted, params, inputs, carry), known[of_decode], places, whole)


def compiler_options(bundle: Bundle) -> dict[str, str | bool] | None:
    """Returns what XLA is told for the programs of a model; None where its defaults are right."""
    if jax.default_backend() != "cpu":
        return None
    # By default what depends on parameters alone is scheduled first, and all of it is then held at once.
    options: dict[str, str | bool] = {"xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"}
    if trees.count(bundle.params["denoiser"]) < LARGE:
        # Products of small matrices: a sixth off a step of the embedded model, 5 % more on one of 400 M parameters.
        options["xla_cpu_experimental_ynn_fusion_type"] = "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"
    return options


def _places(shape: Shape, asked: Sequence[BoundGuide], mesh: Mesh) -> tuple[NamedSharding, NamedSharding, Inputs]:
    """Returns where lies what every device has, what belongs to single pictures, and each of the inputs."""
    whole = replicated(mesh)
    split = PartitionSpec(mesh.axis_names) if shape.batch % mesh.size == 0 else PartitionSpec()
    batch: Any = NamedSharding(mesh, split)
    guides = tuple(one.shardings(batch, whole) for one in asked)
    places: dict[str, Any] = {"infos": whole, "first": whole, "also": whole, "rescale": whole, "guides": guides}
    return whole, batch, Inputs(context=batch, keys=batch, noise=batch, **places)
