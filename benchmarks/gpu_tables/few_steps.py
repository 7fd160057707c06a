"""How many images a second a few-step model generates, decoder included, by the size of the batch."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Iterator
from typing import Any

import numpy as np
from rounds import interleave
from sampling_tables.costs import memory

from gpu_tables.job import Job, random_params
from gpu_tables.row import Row
from rdm_jax.bundle import Bundle
from rdm_jax.generator import Generator
from rdm_jax.models import build_denoiser

SETTINGS = {"sampler": "ddim", "spacing": "trailing", "guidance_scale": 1.0}  # as distilled models are sampled


def rows(job: Job) -> Iterator[Row]:
    """Yields a row for each batch; one program at a time, as each holds its memory."""
    generator = Generator.load(open_model(job))
    config = generator.bundle.config
    random = np.random.default_rng(0).standard_normal
    queries = random((1, config["clip"]["embed_dim"]), np.float32)
    neighbors = random((1, config["conditioning"]["neighbors"], queries.shape[1]), np.float32)
    for batch in job.size.batches:
        counts = {"num_images": batch, "batch_size": batch, "steps": job.size.few_steps}
        plan = generator.plan_vectors(queries, neighbors, **counts, **SETTINGS)
        list(generator.generate(plan))  # compiles
        program: Any = generator.programs[generator.head.shape(plan, batch)]
        seconds = interleave({"": lambda plan=plan: list(generator.generate(plan))}, job.size.rounds)[""]
        measured = f"{generator.bundle.name}, {job.size.few_steps} evaluations, batch {batch}"
        note = f"{1e3 * statistics.median(seconds) / batch:.2f} ms per image"
        yield Row(measured, "rdm_jax", seconds, batch, mebibytes=memory(program), note=note)


def open_model(job: Job) -> Bundle:
    """Returns the model; in a tiny job with a small network of random parameters."""
    bundle = Bundle.open(job.model, dtype=job.dtype)
    if not job.tiny:
        return bundle
    own = bundle.config["denoiser"]
    small = {**own, **{name: job.size.network[name] for name in job.size.network if name != "context_dim"}}
    params = {**bundle.params, "denoiser": random_params(build_denoiser(small))}
    return dataclasses.replace(bundle, config={**bundle.config, "denoiser": small}, params=params, path=None)
