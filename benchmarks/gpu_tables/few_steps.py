"""How many images a second a few-step model generates, decoder included, by the size of the batch."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
from sampling_tables.throughput import measure

from gpu_tables.job import Job, random_params
from gpu_tables.row import Row
from rdm_jax.bundle import Bundle
from rdm_jax.generator import Generator, Plan
from rdm_jax.models import build_denoiser

SETTINGS = {"sampler": "ddim", "spacing": "trailing", "guidance_scale": 1.0}  # as distilled models are sampled


def rows(job: Job) -> Iterator[Row]:
    """Yields a row for each batch."""
    generator = Generator.load(open_model(job))
    config = generator.bundle.config
    random = np.random.default_rng(0).standard_normal
    queries = random((1, config["clip"]["embed_dim"]), np.float32)
    neighbors = random((1, config["conditioning"]["neighbors"], queries.shape[1]), np.float32)

    def plan_of(batch: int) -> Plan:
        counts = {"num_images": batch, "batch_size": batch, "steps": job.size.few_steps}
        return generator.plan_vectors(queries, neighbors, **counts, **SETTINGS)

    for one in measure(generator, plan_of, job.size.batches, job.size.rounds):
        measured = f"{generator.bundle.name}, {job.size.few_steps} evaluations, batch {one.batch}"
        note = f"{1e3 * one.median / one.batch:.2f} ms per image"
        yield Row(measured, "rdm_jax", one.seconds, one.batch, mebibytes=one.mebibytes, note=note)


def open_model(job: Job) -> Bundle:
    """Returns the model; in a tiny job with a small network of random parameters."""
    bundle = Bundle.open(job.model, dtype=job.dtype)
    if not job.tiny:
        return bundle
    own = bundle.config["denoiser"]
    small = {**own, **{name: job.size.network[name] for name in job.size.network if name != "context_dim"}}
    params = {**bundle.params, "denoiser": random_params(build_denoiser(small))}
    return dataclasses.replace(bundle, config={**bundle.config, "denoiser": small}, params=params, path=None)
