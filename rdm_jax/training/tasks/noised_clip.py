"""The noised image tower of semantic diffusion guidance: from x_t and t to where CLIP sees the picture itself.

No text is needed (https://arxiv.org/abs/2112.05744, section 3.4): the tower learns to tell which clean picture of the
batch each noisy one comes from, against the frozen tower of the same bundle.
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
from rdm_jax.data.batches import Record
from rdm_jax.data.image_set import cached_array
from rdm_jax.diffusion.objective import by_bands
from rdm_jax.guidance.semantic import cosine
from rdm_jax.models import build_noised_encoder
from rdm_jax.retrieval.encoder import ClipEncoder
from rdm_jax.training.config import Config
from rdm_jax.training.latents import Latents, cache_folder
from rdm_jax.training.state import Held
from rdm_jax.training.tasks.base import Progress
from rdm_jax.training.tasks.clip import contrastive_loss
from rdm_jax.training.tasks.noised import NoisedTask, noised_latents, open_model

SCALE = 100.0
BANDS = 4
ENCODE_BATCH = 256


@dataclasses.dataclass(frozen=True, kw_only=True)
class NoisedClipTask(NoisedTask):
    """Trains the tower on the latents of a finished model.

    Attributes:
      vectors: [n, d] what the frozen tower gave for the pictures to train on.
      held_out_vectors: [m, d] the same of those to evaluate on.
    """

    part = "noised_clip"
    vectors: Float[np.ndarray, "n d"]
    held_out_vectors: Float[np.ndarray, "m d"]

    def read(self, row: int, generator: np.random.Generator) -> Record:
        """Returns a picture or its moments, its clean vector [d] and its number."""
        vector = self.vectors[row].astype(np.float32)
        return {**self.latents.read(row, generator), "vector": vector, "row": np.array([row], np.int32)}

    def loss(
        self, params: Any, held: Held, batch: dict[str, Array], key: Key[Array, ""], step: Array
    ) -> tuple[Array, tuple[dict[str, Array], Any]]:
        """Returns the symmetric contrastive loss at the fixed scale 100, and the cosine by bands of time."""
        x, t = noised_latents(self.latents, self.schedule, held.frozen, batch, key)
        found = self.module.apply({"params": params["noised_clip"]}, x, t)
        loss = contrastive_loss(found, batch["vector"], jnp.float32(SCALE), batch["row"])
        bands = by_bands(cosine(found, batch["vector"]), t, len(self.schedule), BANDS)
        return loss, ({f"cosine_{i}": bands[i] for i in range(BANDS)}, held.stats)

    def evaluate(self, params: Any) -> Iterator[tuple[str, float]]:
        """Yields how often held-out noisy latents find their own picture in a batch, and their cosine to it."""
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
            """Returns how often a vector finds its own picture's, and their mean cosine."""
            x, t = noised_latents(self.held_out, self.schedule, frozen, batch, key)
            found = self.module.apply({"params": params["noised_clip"]}, x, t)
            likeness = jax.vmap(lambda one: cosine(batch["vector"], one[None]))(found)
            own = jnp.argmax(likeness, axis=1) == jnp.arange(len(found))
            return jnp.mean(own.astype(jnp.float32)), jnp.mean(cosine(found, batch["vector"]))

        return measured


def encode_pictures(
    base: Bundle, latents: Latents, folder: Path, progress: Callable[[int, int], None]
) -> Float[np.ndarray, "n d"]:
    """Returns the frozen tower's vectors of all pictures in float16, cached in `folder` by the hashes of both."""
    encoder, pictures = ClipEncoder(base), latents.pictures

    def chunks() -> Iterator[np.ndarray]:
        """Yields the vectors of one batch of pictures after another."""
        for start in range(0, len(pictures), ENCODE_BATCH):
            yield encoder.encode_images(np.asarray(pictures.images[start : start + ENCODE_BATCH])).astype(np.float16)
            progress(min(start + ENCODE_BATCH, len(pictures)), len(pictures))

    name = f"vectors-{encoder.identity['sha256'][:16]}-{pictures.fingerprint[:16]}"
    return cached_array(folder / name, len(pictures), chunks)


def make(config: Config, workdir: Path, progress: Progress, start: Bundle | None = None) -> NoisedClipTask:
    """Returns the task; encodes the pictures first where that was not done.

    Raises:
      UserError: the model `config.base` lacks a part.
    """
    common = open_model(config, progress)
    base, training, held_out = (common[name] for name in ("base", "latents", "held_out"))
    base.require("clip")
    told = functools.partial(progress, "encoding pictures")
    clean = [encode_pictures(base, latents, cache_folder(config.data), told) for latents in (training, held_out)]
    settings = config.model.to_dict() | {"in_channels": training.shape[-1], "features": clean[0].shape[1]}
    return NoisedClipTask(
        **common,
        module=build_noised_encoder(settings),
        settings=settings,
        vectors=clean[0],
        held_out_vectors=clean[1],
    )
