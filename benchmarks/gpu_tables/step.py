"""One evaluation of the U-Net and whole guided samples, beside torch.compile of an equal network."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from networks import difference, waiting
from rounds import interleave, paired

from gpu_tables.job import COMPILED, Job
from gpu_tables.row import Program, Row, warmed
from rdm_jax.diffusion.samplers import DDIM, sample
from rdm_jax.diffusion.schedule import Schedule, build_schedule
from rdm_jax.guidance.classifier_free import classifier_free_denoiser
from rdm_jax.heads.diffusion.program import network_from
from rdm_jax.models.condition import Condition
from rdm_jax.training import flops

SCALE = 2.0  # of guidance


def evaluation(job: Job, attention: str | None) -> Callable[[Any, Any, Any, Any], Any]:
    """Returns the function (parameters, x, t, tokens) to the network's output."""
    network = job.network(attention)
    return lambda params, x, t, tokens: network.apply({"params": params}, x, t, Condition(tokens))


def step_rows(job: Job) -> Iterator[Row]:
    """Yields the rows of one evaluation under guidance."""
    count = 2 * job.size.images
    measured = f"U-Net, {count} latents of {job.size.side}x{job.size.side}"
    x, t, tokens = map(jnp.asarray, job.inputs)
    work = flops.count(evaluation(job, None), job.sampling_params, x, t, tokens).flops

    def ours(attention: str) -> Program:
        apply = jax.jit(evaluation(job, attention))
        return lambda: jax.block_until_ready(apply(job.sampling_params, x, t, tokens))

    def theirs() -> Program:
        call, inputs = job.torch_program
        return waiting(call, *inputs)

    yield from compare(job, measured, ours, theirs, work, images=0)


def sample_rows(job: Job) -> Iterator[Row]:
    """Yields the rows of whole samples with guidance, from noise to latents."""
    schedule = schedule_of()
    work = job.size.steps * flops.count(evaluation(job, None), job.sampling_params, *job.inputs).flops
    measured = f"{job.size.images} samples, {job.size.steps} steps of DDIM with guidance"

    def ours(attention: str) -> Program:
        run = jax.jit(sampling(job, attention, schedule))
        x, _, tokens = map(jnp.asarray, job.inputs)
        return lambda: jax.block_until_ready(run(job.sampling_params, x[: job.size.images], tokens))

    yield from compare(job, measured, ours, lambda: torch_sampling(job, schedule), work, images=job.size.images)


def schedule_of() -> Schedule:
    """Returns the schedule of the samples and of training."""
    return build_schedule({"num_timesteps": 1000, "schedule": "cosine"})


def sampling(job: Job, attention: str, schedule: Schedule) -> Callable[[Any, Any, Any], Any]:
    """Returns the function (parameters, noise [n, h, w, c], tokens [2n, k, d]) to latents; null tokens come first."""
    network, sampler = job.network(attention), DDIM(spacing="trailing")
    plan = sampler.plan(schedule, job.size.steps)

    def run(params: Any, noise: Any, tokens: Any) -> Any:
        """Returns the latents."""
        null, given = jnp.split(tokens, 2)
        apply = network_from(network, params)
        denoiser = classifier_free_denoiser(apply, Condition(given), Condition(null), jnp.float32(SCALE), "v")
        return sample(sampler, plan, noise, denoiser)

    return run


def torch_sampling(job: Job, schedule: Schedule) -> Program:
    """Returns the same samples in PyTorch: the same steps, each evaluates both conditions in one batch."""
    torch: Any = importlib.import_module("torch")
    call, (x, t, tokens) = job.torch_program
    plan = DDIM(spacing="trailing").plan(schedule, job.size.steps)
    times = [torch.full_like(t, int(time)) for time in np.asarray(plan.t)]
    names = "alpha", "sigma", "alpha_next", "sigma_next"
    steps = list(zip(*(np.asarray(plan.coefficients[name]).tolist() for name in names), strict=True))
    noise = torch.from_numpy(job.inputs[0][: job.size.images]).permute(0, 3, 1, 2).to(x.device)

    def run() -> Any:
        """Returns the latents."""
        z = noise
        for time, (alpha, sigma, alpha_next, sigma_next) in zip(times, steps, strict=True):
            both = torch.cat([z, z]).to(x.dtype, memory_format=torch.channels_last)
            null, given = call(both, time, tokens).float().chunk(2)
            v = null + SCALE * (given - null)
            z = alpha_next * (alpha * z - sigma * v) + sigma_next * (sigma * z + alpha * v)
        return z

    return waiting(run)


def compare(
    job: Job,
    measured: str,
    ours: Callable[[str], Program],
    theirs: Callable[[], Program],
    work: float,
    images: int,
) -> Iterator[Row]:
    """Yields a row for each implementation of attention and for PyTorch, interleaved.

    Args:
      job: what is measured.
      measured: its name.
      ours: from an implementation of attention to our program.
      theirs: PyTorch's program, made only where it is installed.
      work: the floating-point operations of a call.
      images: that a call generates; 0 if it generates none.
    """
    makers = {f"rdm_jax, {name}": partial(ours, name) for name, reason in job.kernels.items() if not reason}
    makers |= {} if job.without_torch else {COMPILED: theirs}
    programs, results, reasons = warmed(makers)
    first = next(iter(programs), "")
    times = interleave(programs, job.size.rounds)
    for name, seconds in times.items():
        note = "" if name == first else f"differs by {difference(results[first], results[name]):.0e}"
        ratio = paired(seconds, times[first])
        yield Row(measured, name, seconds, images, work, job.peak, ratio=ratio, note=note)
    for name, reason in reasons.items():
        yield Row(measured, name, note=reason, failed=True)
    for name, reason in job.kernels.items():
        if reason:
            yield Row(measured, f"rdm_jax, {name}", note=reason)
    if job.without_torch:
        yield Row(measured, COMPILED, note=job.without_torch)
