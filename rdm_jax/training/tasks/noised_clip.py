"""The noised image tower of semantic diffusion guidance: from x_t and t to the CLIP vector of the clean image.

No text is needed (https://arxiv.org/abs/2112.05744, section 3.4): the contrastive loss matches noisy latents with the
vectors of the frozen tower of the same bundle for the clean images of the batch.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from rdm_jax.bundle import Bundle
from rdm_jax.core.progress import StageProgressCallback
from rdm_jax.data.batches import Record
from rdm_jax.diffusion.objective import by_bands
from rdm_jax.guidance.semantic import cosine
from rdm_jax.models import build_noised_encoder
from rdm_jax.training.config import Config
from rdm_jax.training.latents import cache_folder
from rdm_jax.training.state import Extras
from rdm_jax.training.tasks.clip import contrastive_loss
from rdm_jax.training.tasks.noised import NoisedTask, Schema, noised_latents, open_model
from rdm_jax.training.vectors import image_vectors

__all__ = ["NoisedClipTask", "Schema", "make"]

SCALE = 100.0
BANDS = 4


@dataclasses.dataclass(frozen=True, kw_only=True)
class NoisedClipTask(NoisedTask):
    """Trains the tower on the latents of a finished model.

    Attributes:
      vectors: [n, d] of the frozen tower for the images to train on.
      held_out_vectors: [m, d] of the frozen tower for those to evaluate on.
    """

    part = "noised_clip"
    vectors: Float[np.ndarray, "n d"]
    held_out_vectors: Float[np.ndarray, "m d"]

    def read(self, row: int, generator: np.random.Generator) -> Record:
        """Returns an image or its moments, its clean vector [d] and its index."""
        vector = self.vectors[row].astype(np.float32)
        return {**self.latents.read(row, generator), "vector": vector, "row": np.array([row], np.int32)}

    def loss(
        self, params: Any, extras: Extras, batch: dict[str, Array], key: Key[Array, ""], step: Array
    ) -> tuple[Array, tuple[dict[str, Array], Any]]:
        """Returns the symmetric contrastive loss at the fixed scale 100, and the cosine by bands of time."""
        x, t = noised_latents(self.latents, self.schedule, extras.frozen, batch, key)
        found = self.module.apply({"params": params["noised_clip"]}, x, t)
        loss = contrastive_loss(found, batch["vector"], jnp.float32(SCALE), batch["row"])
        bands = by_bands(cosine(found, batch["vector"]), t, len(self.schedule), BANDS)
        return loss, ({f"cosine_{i}": bands[i] for i in range(BANDS)}, extras.stats)

    def evaluate(self, params: Any) -> Iterator[tuple[str, float]]:
        """Yields how often held-out noisy latents retrieve their own image in a batch, and their cosine to it."""
        frozen, values = jax.device_put(self.held_out.frozen), []
        for number, (rows, batch) in enumerate(self.held_out_batches()):
            vectors = self.held_out_vectors[rows].astype(np.float32)
            values.append(self._measured(params, frozen, {**batch, "vector": vectors}, jax.random.key(number)))
        yield "accuracy", float(np.mean([accuracy for accuracy, _ in values]))
        yield "cosine", float(np.mean([cosines for _, cosines in values]))

    @functools.cached_property
    def _measured(self) -> Callable[..., tuple[Array, Array]]:
        @jax.jit
        def measured(params: Any, frozen: Any, batch: dict[str, Array], key: Key[Array, ""]) -> tuple[Array, Array]:
            """Returns how often a vector retrieves that of its own image, and their mean cosine."""
            x, t = noised_latents(self.held_out, self.schedule, frozen, batch, key)
            found = self.module.apply({"params": params["noised_clip"]}, x, t)
            cosines = jax.vmap(lambda vector: cosine(batch["vector"], vector[None]))(found)
            own = jnp.argmax(cosines, axis=1) == jnp.arange(len(found))
            return jnp.mean(own.astype(jnp.float32)), jnp.mean(cosine(found, batch["vector"]))

        return measured


def make(config: Config, workdir: Path, progress: StageProgressCallback, start: Bundle | None = None) -> NoisedClipTask:
    """Returns the task; encodes the images first if they are not cached.

    Raises:
      UserError: the model `config.base` lacks a part.
    """
    common = open_model(config, progress)
    base, training, held_out = (common[name] for name in ("base", "latents", "held_out"))
    base.require("clip")
    report = functools.partial(progress, "encoding images")
    clean = [image_vectors(base, part.images, cache_folder(config.data), report) for part in (training, held_out)]
    settings = config.model.to_dict() | {
        "in_channels": training.shape[-1],
        "latent_size": training.shape[0],
        "features": clean[0].shape[1],
    }
    return NoisedClipTask(
        **common,
        module=build_noised_encoder(settings),
        settings=settings,
        vectors=clean[0],
        held_out_vectors=clean[1],
    )
