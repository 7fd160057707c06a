"""A step of training the U-Net: gradients, AdamW and the moving average, and the fraction of the card's peak."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from rounds import interleave
from training import our_step

from gpu_tables.job import Job
from gpu_tables.row import Row
from gpu_tables.step import schedule_of


def rows(job: Job) -> Iterator[Row]:
    """Yields a row for each implementation of attention, one after the other: each has a state of its own."""
    count = job.size.images
    x, _, tokens = job.inputs
    random = np.random.default_rng(1)
    batch = {
        "x0": x[:count],
        "noise": random.standard_normal(x[:count].shape, np.float32),
        "context": tokens[count:],
        "t": random.integers(0, 1000, count).astype(np.int32),
    }
    measured = f"training step, {count} latents of {job.size.side}x{job.size.side}"
    for attention, reason in job.kernels.items():
        if reason:
            yield Row(measured, f"rdm_jax, {attention}", note=reason)
            continue
        call, work = our_step(job.network(attention), {"denoiser": job.params}, schedule_of(), batch)
        losses = [call() for _ in range(2)]  # the first one compiles
        seconds = interleave({"": call}, job.size.rounds)[""]
        note = "" if np.isfinite(losses).all() else f"the loss is {losses[-1]}"
        yield Row(measured, f"rdm_jax, {attention}", seconds, count, work, job.peak, note=note)
        del call  # and the state, before the next one is made
