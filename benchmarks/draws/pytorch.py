"""The same U-Net, noise and tokens through diffusers' DDIM and DPM-Solver++ multistep, in turn with ours.

Classifier-free guidance is a batch of both conditions on both sides; a run's time is without text encoder and decoder.
"""

from __future__ import annotations

import copy
import importlib
import os
import statistics
import sys
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rdm_jax.run import Plan
from rounds import interleave, paired

from draws.job import Job, wrapped
from draws.parts import Clock
from draws.quality import distance, latents
from rdm_jax.convert import diffusers
from rdm_jax.convert.mapping import disassemble
from rdm_jax.core import trees
from rdm_jax.core.keys import image_keys, normal
from rdm_jax.diffusion.samplers import num_steps
from rdm_jax.factory import schedule_from

# What ours and theirs are asked for, so that both visit the same times.
COMPVIS = {"timestep_spacing": "leading", "steps_offset": 1, "set_alpha_to_one": False, "clip_sample": False}
SOLVER = {"timestep_spacing": "trailing", "final_sigmas_type": "zero"}
RUNS = (
    ("ddim", 50, "DDIMScheduler", COMPVIS),
    ("dpmpp_2m", 20, "DPMSolverMultistepScheduler", SOLVER),
    ("dpmpp_2m", 15, "DPMSolverMultistepScheduler", SOLVER),
)
PREDICTIONS = {"eps": "epsilon", "x0": "sample", "v": "v_prediction"}


def library(name: str) -> Any:
    """Returns a module of what only this comparison needs; the program ends where it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError:
        sys.exit(f"benchmarks/sampling.py: {name} is not here; make parity installs it")


def network(job: Job, torch: Any) -> Any:
    """Returns the U-Net as diffusers has it, with the same weights."""
    bundle = job.generator.bundle
    side = bundle.config["sampling"]["height"] // bundle.autoencoder.downsampling
    module = library("diffusers").UNet2DConditionModel.from_config(
        diffusers.to_unet_config(bundle.config["denoiser"], side)
    )
    params = trees.flatten(jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), bundle.params["denoiser"]))
    tensors = disassemble(params, diffusers.unet_source(bundle.denoiser))
    state = {name: torch.from_numpy(tensor.read().copy()) for name, tensor in tensors.items()}
    module.load_state_dict(state)
    module = module.eval().requires_grad_(False).to(_device(torch))
    return module if bundle.dtype == "float32" else module.to(getattr(torch, bundle.dtype))


def _device(torch: Any) -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def scheduler(job: Job, kind: str, options: dict[str, Any]) -> Any:
    """Returns diffusers' scheduler of the model's own noise schedule."""
    diffusion = job.generator.bundle.config["diffusion"]
    betas = schedule_from(diffusion).betas
    return getattr(library("diffusers"), kind)(
        num_train_timesteps=len(betas),
        trained_betas=betas,
        prediction_type=PREDICTIONS[diffusion["prediction"]],
        **options,
    )


def theirs(torch: Any, call: Any, job: Job, plan: Plan, kind: str, options: dict[str, Any]) -> Callable[[], Any]:
    """Returns a run by PyTorch, from our noise and our tokens to the last latents."""
    device, dtype = _device(torch), getattr(torch, job.generator.bundle.dtype)
    context = plan.context.rows(np.asarray(plan.rows))
    both = np.concatenate([context.null.tokens, context.given.tokens])
    tokens, scale = torch.from_numpy(both).to(device, dtype), plan.settings.guidance_scale
    keys = image_keys(plan.settings.seed, jnp.asarray(plan.indices, jnp.int32))
    noise = np.array(normal(keys, plan.run.start.latent.shape[1:]).transpose(0, 3, 1, 2))
    start, plans = torch.from_numpy(noise).to(device), scheduler(job, kind, options)

    def run() -> Any:
        """Makes a run."""
        plans.set_timesteps(plan.settings.steps, device=device)
        with torch.inference_mode():
            x = start
            for t in plans.timesteps:
                null, given = call(torch.cat([x, x]).to(dtype), t, tokens).float().chunk(2)
                x = plans.step(null + scale * (given - null), t, x).prev_sample
        if device == "cuda":
            torch.cuda.synchronize()
        return x.cpu().numpy().transpose(0, 2, 3, 1)

    return run


def ways(module: Any, torch: Any, compiled: bool) -> dict[str, Callable[..., Any]]:
    """Returns how PyTorch's network can be called, by name."""

    def call(x: Any, t: Any, tokens: Any) -> Any:
        """Returns what the network says."""
        return module(x, t, tokens).sample

    moved = copy.deepcopy(module).to(memory_format=torch.channels_last)

    def last(x: Any, t: Any, tokens: Any) -> Any:
        """Returns the same with the channels last in memory."""
        return moved(x.to(memory_format=torch.channels_last), t, tokens).sample

    told = {"eager": call, "eager, channels last": last}
    return told | ({f"torch.compile of {way}": torch.compile(one) for way, one in told.items()} if compiled else {})


def ours(job: Job, plan: Plan, clock: Clock) -> Callable[[], Any]:
    """Returns a run by this project, its steps timed."""
    generator = wrapped(job.generator, clock.program)

    def run() -> None:
        """Makes a run."""
        clock.start()
        list(generator.draw(plan))

    return run


def lines(job: Job) -> Iterator[str]:
    """Yields the table."""
    torch = library("torch")
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    module = network(job, torch)
    yield (
        f"{job.num_images} pictures at once, {job.generator.bundle.dtype}; PyTorch {torch.__version__}, diffusers "
        f"{library('diffusers').__version__}; medians of {job.rounds} rounds in turn"
    )
    yield ""
    yield "| sampler | steps | program | a step, ms | of ours | the last latents differ by |"
    yield "|---|---|---|---|---|---|"
    for sampler, steps, kind, options in RUNS:
        plan, clock = job.plan(sampler=sampler, steps=steps), Clock()
        reference = latents(job, plan)
        calls = {"rdm_jax": ours(job, plan, clock)}
        differ = {}
        for way, call in ways(module, torch, job.compiled).items():
            print(f"compiling {sampler}, {steps} steps, {way}", file=sys.stderr, flush=True)
            calls[way] = theirs(torch, call, job, plan, kind, options)
            differ[way] = distance(calls[way](), reference)
        times = interleave(calls, job.rounds)
        times["rdm_jax"] = [repeat["noise"] + repeat["U-Net"] for repeat in clock.repeats]
        asked = num_steps(plan.run.steps)
        for way, seconds in times.items():
            ratio = paired(seconds, times["rdm_jax"])
            told = f"{differ[way]:.1e}" if way in differ else ""
            each = 1e3 * statistics.median(seconds) / asked
            yield f"| {sampler} | {asked} | {way} | {each:.1f} | {ratio:.2f} | {told} |"
