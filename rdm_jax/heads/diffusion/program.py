"""What is compiled to generate with a diffusion model: the start of a run, a chunk of its steps, and the decoder."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Array, Float, Int, UInt32

from rdm_jax.bundle import Bundle
from rdm_jax.conditioning.base import interpolate
from rdm_jax.core.errors import UserError
from rdm_jax.core.keys import image_keys, normal
from rdm_jax.core.mesh import on_host, put
from rdm_jax.diffusion import samplers
from rdm_jax.diffusion.denoiser import Apply, Denoiser, Prediction, StepHook, StepInfo, make_denoiser
from rdm_jax.diffusion.experts import Experts
from rdm_jax.diffusion.patches import Patches
from rdm_jax.diffusion.samplers.coarse_to_fine import stage_network
from rdm_jax.factory import decoder_from
from rdm_jax.guidance.base import BoundGuide, Networks, apply_guides, parts_of
from rdm_jax.guidance.classifier_free import classifier_free_denoiser
from rdm_jax.guidance.threshold import static_thresholding
from rdm_jax.heads.base import Plan
from rdm_jax.heads.compiling import Compiler
from rdm_jax.heads.diffusion.plan import Run, Start
from rdm_jax.models.condition import Condition


@dataclasses.dataclass(frozen=True)
class Shape:
    """What a program is compiled for; everything else is traced.

    Attributes:
      sampler: with its options.
      guided: whether the network is evaluated under the null condition too.
      chunk: steps in one call.
      batch: images in one call.
      latent: (h, w, c) of a latent.
      context: the form of the conditions (`conditioning.Context`).
      rescaled: whether the guidance is rescaled.
      guides: the forms of the guides (`guidance.base.BoundGuide`).
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
        """Whether steps have random keys of their own."""
        return self.sampler.needs_noise or bool(self.guides)


@flax.struct.dataclass
class Inputs:
    """What steps are computed from, beside the parameters and the carry; all of it may change.

    As of every tree, the leaves may be arrays, their shapes, or their shardings.

    Attributes:
      context: a `conditioning.Context`, of the batch's images.
      infos: a `StepInfo` of stacked steps, with their entries of the schedule among the coefficients.
      first: the number of the first of them in the sampler's plan.
      keys: [b, 2] the key data of the images.
      rescale: phi of the guidance rescale; None without.
      guides: the inputs of each guide.
      noise: [b, h, w, c] the noise that the run started from; None without guides.
    """

    context: Any
    infos: Any
    first: Any
    keys: Any
    rescale: Any = None
    guides: Any = ()
    noise: Any = None

    def chunk(self, begin: int, steps: int) -> Inputs:
        """Returns the inputs of some of the steps."""
        infos = jax.tree.map(lambda leaf: leaf[begin : begin + steps], self.infos)
        return dataclasses.replace(self, infos=infos, first=np.int32(self.first + begin))

    def keyed_steps(self) -> StepInfo:
        """Returns the steps, each with a key for each image."""
        return samplers.with_keys(self.infos, jax.random.wrap_key_data(self.keys), self.first)


@dataclasses.dataclass(frozen=True)
class State:
    """A batch in progress.

    Attributes:
      plan: of the run.
      params: {part: parameters}.
      inputs: of all steps; all but the steps lie on the devices.
      carry: of the sampler.
      x0: [b, h, w, c] predicted last.
      done: steps that are done.
      total: all steps.
    """

    plan: Plan
    params: Mapping[str, Any]
    inputs: Inputs
    carry: Any
    x0: Any
    done: int
    total: int


@dataclasses.dataclass(frozen=True)
class DiffusionProgram:
    """The executables of one shape (see `heads.base.Program`).

    Attributes:
      shape: what they are compiled for.
      begin: see `start_program`.
      step: see `chunk_program`.
      decode: (autoencoder parameters, latents) to images, on all devices.
      places: the shardings of `Inputs`.
      places_of_start: those of a `Start`.
      mesh: the devices.
    """

    shape: Shape
    begin: Callable[..., Any]
    step: Callable[..., Any]
    decode: Callable[..., Any]
    places: Inputs
    places_of_start: Start
    mesh: Mesh

    def start(
        self, plan: Plan, params: Mapping[str, Any], indices: Int[np.ndarray, " b"], rows: Int[np.ndarray, " b"]
    ) -> State:
        """Returns the state of a batch before its first chunk."""
        run: Run = plan.run
        inputs = inputs_of(plan, indices, rows)
        keys = put(inputs.keys, self.places.keys)
        carry, noise = self.begin(keys, put(run.start_of(rows, plan.turns(indices)), self.places_of_start))
        held = dataclasses.replace(inputs, infos=None, keys=keys, noise=noise if run.guides else None)
        inputs = dataclasses.replace(put(held, self.places), infos=inputs.infos, first=inputs.first)
        return State(plan, params, inputs, carry, carry.x, 0, run.total)

    def advance(self, state: State) -> State:
        """Returns the state after one more chunk; raises UserError where guides made it not finite."""
        guides = state.plan.run.guides
        read = {name: state.params[name] for name in ("denoiser", *parts_of(guides))}
        chunk = put(state.inputs.chunk(state.done, self.shape.chunk), self.places)
        carry, x0 = jax.block_until_ready(self.step(read, chunk, state.carry))
        done = state.done + self.shape.chunk
        if guides and not np.isfinite(on_host(carry.x, self.mesh)).all():
            names = ", ".join(one.text for one in guides)
            raise UserError(f"not finite by step {done} of {state.total} under {names}; lower the weights")
        return dataclasses.replace(state, carry=carry, x0=x0, done=done)

    def preview(self, state: State) -> Float[np.ndarray, "b h w 3"]:
        """Returns the denoised estimate."""
        return np.asarray(self.decode(state.params["autoencoder"], state.x0))

    def finish(self, state: State) -> Float[np.ndarray, "b h w 3"]:
        """Returns the images."""
        return np.asarray(self.decode(state.params["autoencoder"], state.carry.x))


def inputs_of(plan: Plan, indices: Int[np.ndarray, " b"], rows: Int[np.ndarray, " b"]) -> Inputs:
    """Returns what all steps of some images are computed from, by their indices and the rows of their queries."""
    run: Run = plan.run
    keys = image_keys(plan.request.seed, jnp.asarray(indices, jnp.int32))
    return Inputs(
        context=plan.context_of(indices, rows),
        infos=run.infos,
        first=np.int32(run.skipped),
        keys=np.asarray(jax.random.key_data(keys)),
        rescale=np.float32(run.rescale) if run.rescale else None,
        guides=tuple(one.of(indices) for one in run.guides),
    )


def network_from(module: Any, params: Any, patches: Patches | None = None, experts: Experts | None = None) -> Apply:
    """Returns the function (x, t, condition) to a network's output.

    Args:
      module: the denoiser.
      params: its parameters, without the "params" level.
      patches: in which it is evaluated on large latents, with the same part of the condition's channels; None for whole
        ones.
      experts: of which the parameters are, stacked; all images of a batch are then at one time.
    """

    def apply(x: Float[Array, "b h w c"], t: Array, condition: Condition) -> Float[Array, "b h w o"]:
        """Returns the network's output under a condition."""
        # What is computed from the parameters alone (kernels transformed, or widened from bfloat16) would otherwise be
        # computed for the whole network before the first step, and held through all of them.
        tied, x = jax.lax.optimization_barrier((params, x))
        tied = tied if experts is None else experts.select(tied, t[0])
        if patches is None or condition.channels is None:
            return module.apply({"params": tied}, x, t, condition)

        def on_patch(both: Float[Array, "b h w d"]) -> Float[Array, "b h w o"]:
            """Returns the output for a part of the latents and of the channels beside them."""
            part, channels = jnp.split(both, [x.shape[-1]], axis=-1)
            return module.apply({"params": tied}, part, t, dataclasses.replace(condition, channels=channels))

        return patches.apply(on_patch, jnp.concatenate([x, condition.channels], axis=-1))

    return apply


def conditioned_denoiser(bundle: Bundle, params: Any, inputs: Inputs, *, guided: bool) -> Denoiser:
    """Returns the denoiser of a model under all conditions of a run, as its schedule has them at each step.

    Args:
      bundle: the model.
      params: {part: parameters}, which may be traced.
      inputs: the conditions; the steps' coefficients hold the entries of a `conditioning.StepSchedule`.
      guided: whether the null condition and the further ones are evaluated; otherwise the given one alone.
    """
    patches, diffusion = Patches.of(bundle.config["latents"]), bundle.config["diffusion"]
    network = network_from(bundle.denoiser, params["denoiser"], patches, Experts.of(diffusion))
    context, prediction = inputs.context, diffusion["prediction"]
    embedded = "guidance" in bundle.denoiser.supports

    def denoiser(x_t: Float[Array, "b h w c"], info: StepInfo) -> Prediction:
        """Returns the prediction under the conditions of a step."""
        apply = stage_network(network, info) if bundle.denoiser.stages > 1 else network
        scale, weight, null_weight = (info.coefficients[name] for name in ("guidance", "weight", "null_weight"))
        level = info.coefficients["alpha"], info.coefficients["sigma"]
        given, null = interpolate(context.given, weight, *level), interpolate(context.null, null_weight, *level)
        if embedded:  # the network reproduces the guidance of the given condition
            given, scale = dataclasses.replace(given, guidance=jnp.broadcast_to(scale, x_t.shape[:1])), jnp.ones(())
        if not guided:
            return make_denoiser(apply, given, prediction)(x_t, info)
        also = [
            (interpolate(one, weight, *level), info.coefficients["also"][number])
            for number, one in enumerate(context.also)
        ]
        if embedded:
            plain = jnp.ones(x_t.shape[:1])
            null = dataclasses.replace(null, guidance=plain)
            also = [(dataclasses.replace(one, guidance=plain), by) for one, by in also]
        guide = classifier_free_denoiser(apply, given, null, scale, prediction, also=also, rescale=inputs.rescale)
        return guide(x_t, info)

    bound = diffusion.get("clip", 0.0)  # of x0, by the model itself: guides come after it
    return static_thresholding(jnp.float32(bound))(denoiser) if bound else denoiser


def start_program(shape: Shape) -> Callable[..., Any]:
    """Returns the function that starts a run of a shape, to be compiled.

    It maps the key data of the images [b, 2] and a `Start` to the sampler's carry and the noise [b, h, w, c].
    """

    def start(data: UInt32[Array, "b 2"], begin: Start) -> tuple[Any, Array]:
        """Returns the first carry, and the noise in it."""
        noise = normal(jax.random.wrap_key_data(data), shape.latent)
        return shape.sampler.init(begin.add_noise(noise)), noise

    return start


def chunk_program(bundle: Bundle, shape: Shape, guides: Sequence[BoundGuide] = ()) -> Callable[..., Any]:
    """Returns the function that advances a run by a chunk of steps, to be compiled.

    It maps the parameters of the parts that are read, `Inputs` and a carry to the carry after the chunk and the x0
    [b, h, w, c] that was predicted last.
    """
    decode = decoder_from(bundle.autoencoder, bundle.config["latents"])

    def advance(params: Any, inputs: Inputs, carry: Any) -> tuple[Any, Array]:
        """Returns the carry after the chunk's steps, and the predicted x0."""
        infos = inputs.keyed_steps() if shape.needs_noise else inputs.infos
        denoiser = conditioned_denoiser(bundle, params, inputs, guided=shape.guided)
        networks = Networks(bundle, params, lambda x0: decode(params["autoencoder"], x0))
        hooks: tuple[StepHook, ...] = ()
        if guides:
            denoiser, hooks = apply_guides(denoiser, guides, networks, inputs.guides, inputs.noise)
        return samplers.sample_chunk(shape.sampler, infos, carry, denoiser, hooks)

    return advance


def compile_program(shape: Shape, plan: Plan, compiler: Compiler) -> DiffusionProgram:
    """Compiles the program of a shape.

    Args:
      shape: what the program is for.
      plan: any plan of the shape, for the names, shapes and types of its inputs, and its guides.
      compiler: of the model.
    """
    bundle, guides = compiler.bundle, plan.run.guides
    start, advance = start_program(shape), chunk_program(bundle, shape, guides)
    decode = decoder_from(bundle.autoencoder, bundle.config["latents"])
    replicated, batch = compiler.replicated, compiler.batch(shape.batch)
    places = _places(batch, replicated, guides)
    number = jax.ShapeDtypeStruct((), jnp.float32)
    begin = Start(jax.ShapeDtypeStruct((shape.batch, *shape.latent), jnp.float32), number, number)
    places_of_start = Start(batch, replicated, replicated)
    some = np.zeros(shape.batch, np.int64)
    inputs = jax.eval_shape(lambda tree: tree, inputs_of(plan, some, some).chunk(0, shape.chunk))
    carry, noise = jax.eval_shape(start, inputs.keys, begin)
    inputs = dataclasses.replace(inputs, noise=noise if guides else None)
    params = {name: bundle.params[name] for name in ("denoiser", *parts_of(guides))}
    compile_ = compiler.compile
    return DiffusionProgram(
        shape=shape,
        begin=compiler.once(
            ("start", shape.sampler, shape.batch, shape.latent),
            lambda: compile_(start, (inputs.keys, begin), (batch, places_of_start), batch),
        ),
        step=compile_(advance, (params, inputs, carry), (replicated, places, batch), batch),
        decode=compiler.once(
            ("decode", shape.batch, shape.latent),
            lambda: compile_(decode, (bundle.params["autoencoder"], carry.x), (replicated, batch), replicated),
        ),
        places=places,
        places_of_start=places_of_start,
        mesh=compiler.mesh,
    )


def _places(batch: NamedSharding, replicated: NamedSharding, guides: Sequence[BoundGuide]) -> Inputs:
    """Returns the sharding of each of the inputs."""
    of_guides = tuple(one.shardings(batch, replicated) for one in guides)
    places: dict[str, Any] = {
        "infos": replicated,
        "first": replicated,
        "rescale": replicated,
        "guides": of_guides,
    }
    return Inputs(context=batch, keys=batch, noise=batch, **places)
