"""The same denoiser, noise and tokens under diffusers' DDIM and DPM-Solver++ multistep, interleaved with rdm_jax.

Classifier-free guidance evaluates both conditions in one batch on both sides. The time of a run excludes text encoder
and decoder.
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
from rounds import interleave, paired

from rdm_jax.convert import diffusers
from rdm_jax.convert.mapping import disassemble
from rdm_jax.core import trees
from rdm_jax.core.keys import image_keys, normal
from rdm_jax.diffusion.samplers import num_steps
from rdm_jax.factory import schedule_from
from rdm_jax.heads.base import Plan
from sampling_tables.job import Job, wrapped
from sampling_tables.parts import Clock
from sampling_tables.quality import distance, final_latents

# The options of diffusers' schedulers with which they visit the same timesteps as ours.
COMPVIS = {"timestep_spacing": "leading", "steps_offset": 1, "set_alpha_to_one": False, "clip_sample": False}
SOLVER = {"timestep_spacing": "trailing", "final_sigmas_type": "zero"}
RUNS = (
    ("ddim", 50, "DDIMScheduler", COMPVIS),
    ("dpmpp_2m", 20, "DPMSolverMultistepScheduler", SOLVER),
    ("dpmpp_2m", 15, "DPMSolverMultistepScheduler", SOLVER),
)
PREDICTIONS = {"eps": "epsilon", "x0": "sample", "v": "v_prediction"}


def library(name: str) -> Any:
    """Returns a module that only this comparison needs; ends the program if it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError:
        sys.exit(f"benchmarks/sampling.py: {name} is not installed; `make parity` installs it")


def network(job: Job, torch: Any) -> Any:
    """Returns diffusers' module of the denoiser, a U-Net, with the same weights."""
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
    """Returns diffusers' scheduler with the model's noise schedule."""
    diffusion = job.generator.bundle.config["diffusion"]
    betas = schedule_from(diffusion).betas
    return getattr(library("diffusers"), kind)(
        num_train_timesteps=len(betas),
        trained_betas=betas,
        prediction_type=PREDICTIONS[diffusion["prediction"]],
        **options,
    )


def theirs(torch: Any, call: Any, job: Job, plan: Plan, kind: str, options: dict[str, Any]) -> Callable[[], Any]:
    """Returns a run in PyTorch, from our noise and tokens to the final latents."""
    device, dtype = _device(torch), getattr(torch, job.generator.bundle.dtype)
    context = plan.context.rows(np.asarray(plan.rows))
    both = np.concatenate([context.null.tokens, context.given.tokens])
    tokens, scale = torch.from_numpy(both).to(device, dtype), plan.options.guidance_scale
    keys = image_keys(plan.request.seed, jnp.asarray(plan.indices, jnp.int32))
    noise = np.array(normal(keys, plan.run.start.latent.shape[1:]).transpose(0, 3, 1, 2))
    start, plans = torch.from_numpy(noise).to(device), scheduler(job, kind, options)

    def run() -> Any:
        """Generates once."""
        plans.set_timesteps(plan.options.steps, device=device)
        with torch.inference_mode():
            x = start
            for t in plans.timesteps:
                null, given = call(torch.cat([x, x]).to(dtype), t, tokens).float().chunk(2)
                x = plans.step(null + scale * (given - null), t, x).prev_sample
        if device == "cuda":
            torch.cuda.synchronize()
        return x.cpu().numpy().transpose(0, 2, 3, 1)

    return run


def variants(module: Any, torch: Any, compiled: bool) -> dict[str, Callable[..., Any]]:
    """Returns functions that call PyTorch's network, by name."""

    def call(x: Any, t: Any, tokens: Any) -> Any:
        """Returns the network's output."""
        return module(x, t, tokens).sample

    moved = copy.deepcopy(module).to(memory_format=torch.channels_last)

    def channels_last(x: Any, t: Any, tokens: Any) -> Any:
        """Returns the same with the channels last in memory."""
        return moved(x.to(memory_format=torch.channels_last), t, tokens).sample

    eager = {"eager": call, "eager, channels last": channels_last}
    if not compiled:
        return eager
    return eager | {f"torch.compile of {name}": torch.compile(function) for name, function in eager.items()}


def ours(job: Job, plan: Plan, clock: Clock) -> Callable[[], Any]:
    """Returns a run in rdm_jax, its steps timed."""
    generator = wrapped(job.generator, clock.program)

    def run() -> None:
        """Generates once."""
        clock.start()
        list(generator.generate(plan))

    return run


def lines(job: Job) -> Iterator[str]:
    """Yields the lines of the table."""
    torch = library("torch")
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    module = network(job, torch)
    yield (
        f"{job.num_images} images at once, {job.generator.bundle.dtype}; PyTorch {torch.__version__}, diffusers "
        f"{library('diffusers').__version__}; medians of {job.rounds} interleaved rounds; the ratio is PyTorch's time "
        "over rdm_jax's"
    )
    yield ""
    yield "| sampler | steps | program | ms per step | ratio | difference of the final latents |"
    yield "|---|---|---|---|---|---|"
    for sampler, steps, kind, options in RUNS:
        plan, clock = job.plan(sampler=sampler, steps=steps), Clock()
        reference = final_latents(job, plan)
        runs, differences = {"rdm_jax": ours(job, plan, clock)}, {}
        for name, call in variants(module, torch, job.compiled).items():
            print(f"compiling {sampler}, {steps} steps, {name}", file=sys.stderr, flush=True)
            runs[name] = theirs(torch, call, job, plan, kind, options)
            differences[name] = f"{distance(runs[name](), reference):.1e}"
        times = interleave(runs, job.rounds)
        times["rdm_jax"] = [repeat["noise"] + repeat["denoiser"] for repeat in clock.repeats]
        count = num_steps(plan.run.steps)
        for name, seconds in times.items():
            ratio, each = paired(seconds, times["rdm_jax"]), 1e3 * statistics.median(seconds) / count
            yield f"| {sampler} | {count} | {name} | {each:.1f} | {ratio:.2f} | {differences.get(name, '')} |"
