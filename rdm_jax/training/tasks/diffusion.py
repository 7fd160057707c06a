"""The retrieval-augmented diffusion model (https://arxiv.org/abs/2204.11824): latents, conditioned on neighbours.

The first stage and the encoder are frozen, so their outputs are computed once: the moments of every picture and the
vector of every caption lie in memory-mapped caches, and the neighbours stream from their sidecar.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from rdm_jax.bundle import Bundle
from rdm_jax.core.errors import UserError, unknown
from rdm_jax.core.images import to_float
from rdm_jax.data.pictures import Pictures, cached_array
from rdm_jax.diffusion.objective import diffusion_loss, sample_timesteps
from rdm_jax.diffusion.schedule import Schedule, build_schedule
from rdm_jax.models import build_unet
from rdm_jax.models.autoencoder import sample_moments
from rdm_jax.retrieval.database import Database
from rdm_jax.retrieval.encoder import ClipEncoder
from rdm_jax.retrieval.sidecar import NeighborSidecar
from rdm_jax.training.config import Config
from rdm_jax.training.tasks.base import Progress, training_pictures

ENCODE_BATCH = 64
EVAL_BATCHES = 8
BANDS = 4


@dataclasses.dataclass(frozen=True)
class DiffusionTask:
    """Trains the U-Net on cached latents.

    Attributes:
      base: the bundle with the frozen encoder and autoencoder.
      moments: [n, h, w, 2 c] float16, what the autoencoder gave for every picture.
      captions: [n, d] float16, the encoder's vector of every caption.
      neighbors: the sidecar of every picture's neighbours, nearest first.
      latents: {"scale", "shift"}: how latents are brought to zero mean and unit variance.
    """

    config: Config
    base: Bundle
    pictures: Pictures
    moments: Float[np.ndarray, "n h w m"]
    captions: Float[np.ndarray, "n d"]
    neighbors: NeighborSidecar | None
    latents: dict[str, Any]
    module: Any
    settings: dict[str, Any]

    @property
    def size(self) -> int:
        """The number of records in an epoch: of training pictures, some of them more than once."""
        return len(self.rows)

    @functools.cached_property
    def rows(self) -> np.ndarray:
        """The picture of each record: all but the last, which are kept for evaluation, repeated by `emphasis`."""
        return np.repeat(np.arange(self._kept), repeats(self.pictures.attributes[: self._kept], self.config.emphasis))

    @property
    def _kept(self) -> int:
        return len(self.pictures) - self.config.data.held_out_rows

    @functools.cached_property
    def schedule(self) -> Schedule:
        """The noise schedule."""
        return build_schedule(self.config.diffusion.to_dict())

    def read(self, row: int, generator: np.random.Generator) -> dict[str, np.ndarray]:
        """Returns one record: a picture's moments [h, w, 2 c] and its context tokens [k, d]."""
        return self._record(int(self.rows[row]), generator)

    def _record(self, picture: int, generator: np.random.Generator) -> dict[str, np.ndarray]:
        return {"moments": np.asarray(self.moments[picture]), "context": self.context(picture, generator)}

    def context(self, row: int, generator: np.random.Generator) -> Float[np.ndarray, "k d"]:
        """Returns the tokens that condition one picture: neighbours, the caption, both, or the null condition (zeros).

        k of the nearest `candidates` are drawn at random. A caption alone fills all k places: attention over equal
        tokens is attention over one. Of the pictures that see both, the share `shuffled_probability` sees neighbours of
        another picture of the same collection: then the caption alone says what there is, and the neighbours how it is
        drawn, so that a text can ask a collection for what it does not hold.
        """
        config = self.config.conditioning
        mode = generator.random()
        if mode < config.null_probability or self.neighbors is None:
            return np.zeros((config.neighbors, self.captions.shape[1]), np.float32)
        mode = (mode - config.null_probability) / (1.0 - config.null_probability)
        caption = self.captions[row].astype(np.float32)
        if mode < config.text_probability:
            return _unit(np.repeat(caption[None], config.neighbors, axis=0), config.unit_tokens)
        both = mode < config.text_probability + config.text_and_neighbors_probability
        if both and generator.random() < config.shuffled_probability:
            row = int(generator.choice(self.collections[self._collection(row)]))
        _, _, embeddings = self.neighbors[int(self.pictures.rows[row])]
        chosen = generator.choice(config.candidates, config.neighbors, replace=False)
        tokens = embeddings[chosen].astype(np.float32)
        if both:
            tokens = np.concatenate([caption[None], tokens[:-1]])
        return _unit(tokens, config.unit_tokens)

    @functools.cached_property
    def collections(self) -> dict[str | None, np.ndarray]:
        """The pictures of each collection that neighbours were searched within; all of them under None if of none."""
        found: dict[str | None, list[int]] = {}
        for row in range(len(self.pictures)):  # those kept for evaluation too: each must find its own collection
            found.setdefault(self._collection(row), []).append(row)
        return {name: np.array(rows) for name, rows in found.items()}

    def _collection(self, row: int) -> str | None:
        within = self.neighbors.manifest.get("within") if self.neighbors else None
        return within and self.pictures.attributes[row].get(within)

    def init(self, key: Key[Array, ""]) -> Any:
        """Returns fresh parameters of the U-Net."""
        _, h, w, m = self.moments.shape
        context = jnp.zeros((1, self.config.conditioning.neighbors, self.captions.shape[1]))
        return {"unet": self.module.init(key, jnp.zeros((1, h, w, m // 2)), jnp.zeros((1,)), context)["params"]}

    def loss(
        self, params: Any, batch: dict[str, Array], key: Key[Array, ""], step: Array
    ) -> tuple[Array, dict[str, Array]]:
        """Returns the mean squared error of the prediction at random times, and its mean within bands of time."""
        posterior_key, noise_key, time_key = jax.random.split(key, 3)
        moments = batch["moments"].astype(jnp.float32)
        b, h, w, m = moments.shape
        shape = (b, h, w, m // 2)
        z = sample_moments(moments, jax.random.normal(posterior_key, shape))
        shift = jnp.asarray(self.latents["shift"], jnp.float32)[None, None, None]
        x0 = (z - shift) * jnp.float32(self.latents["scale"])
        t = sample_timesteps(time_key, b, len(self.schedule), self.config.time_density)

        def apply(x: Array, t: Array, context: Array) -> Array:
            return self.module.apply({"params": params["unet"]}, x, t, context)

        noise = jax.random.normal(noise_key, shape)
        losses = diffusion_loss(apply, x0, batch["context"], t, noise, self.schedule, self.config.diffusion.prediction)
        band = t * BANDS // len(self.schedule)
        share = jax.nn.one_hot(band, BANDS, axis=0)
        bands = share @ losses / jnp.maximum(share.sum(axis=1), 1.0)
        return jnp.mean(losses), {f"band_{i}": bands[i] for i in range(BANDS)}

    def evaluate(self, params: Any) -> Iterator[tuple[str, float]]:
        """Yields the loss on the held-out pictures, at the same times and noise in every evaluation."""
        generator = np.random.default_rng(0)
        step = jax.jit(lambda p, batch, key: self.loss(p, batch, key, jnp.zeros((), jnp.int32))[0])
        losses = []
        for i in range(min(EVAL_BATCHES, self.config.data.held_out_rows // self.config.batch_size)):
            first = self._kept + i * self.config.batch_size
            records = [self._record(row, generator) for row in range(first, first + self.config.batch_size)]
            batch = {name: np.stack([record[name] for record in records]) for name in records[0]}
            losses.append(float(step(params, batch, jax.random.key(i))))
        if losses:
            yield "loss", float(np.mean(losses))

    def export(self, params: Any) -> Bundle:
        """Returns the whole model: the frozen parts, the U-Net and the conventions that it was trained by."""
        conditioning = self.config.conditioning
        config = {key: value for key, value in self.base.config.items() if key != "sha256"} | {
            "name": self.config.name,
            "latents": self.latents,
            "unet": self.settings,
            "diffusion": self.config.diffusion.to_dict(),
            "conditioning": {
                "neighbors": conditioning.neighbors,
                "unit_tokens": conditioning.unit_tokens,
                "null": "zeros",
            },
            "sampling": self.config.sampling.to_dict(),
        }
        parts = {part: self.base.params[part] for part in ("clip", "autoencoder")}
        return Bundle(config, {**parts, "unet": params["unet"]}, self.base.tokenizer)


def repeats(attributes: Sequence[Mapping[str, str]], emphasis: Config) -> np.ndarray:
    """Returns how many times an epoch sees each picture [n].

    Args:
      attributes: of each picture.
      emphasis: {attribute: {value: times}}; factors of several attributes multiply, what is not named counts once.

    Raises:
      UserError: no picture has a named value, or a number of times is below 1.
    """
    times = np.ones(len(attributes), np.int64)
    for attribute, factors in emphasis.items():
        values = np.array([str(one.get(attribute)) for one in attributes])
        for value, factor in factors.items():
            if factor != 1 and value not in values:
                known = set(values.tolist()) - {"None"}
                raise unknown(f"emphasis.{attribute}", value, known, hint="or set it to 1")
            if factor < 1:
                raise UserError(f"emphasis.{attribute}.{value}={factor} is out of range; give 1 or more")
            times[values == value] *= factor
    return times


def _unit(tokens: Float[np.ndarray, "k d"], wanted: bool) -> Float[np.ndarray, "k d"]:
    return tokens / np.linalg.norm(tokens, axis=-1, keepdims=True) if wanted else tokens


def encode_moments(
    bundle: Bundle, pictures: Pictures, folder: Path, progress: Callable[[int, int], None]
) -> Float[np.ndarray, "n h w m"]:
    """Returns the autoencoder's moments of all pictures in float16, cached in `folder` by the hashes of both."""
    module: Any = bundle.autoencoder
    encode = jax.jit(lambda p, x: module.apply({"params": p}, x, method="encode").astype(jnp.float16))
    params = jax.device_put(bundle.params["autoencoder"])

    def chunks() -> Iterator[np.ndarray]:
        """Yields the moments of one batch after another."""
        for start in range(0, len(pictures), ENCODE_BATCH):
            batch = to_float(pictures.images[start : start + ENCODE_BATCH])
            padding = ((0, ENCODE_BATCH - len(batch)), (0, 0), (0, 0), (0, 0))
            yield np.asarray(encode(params, np.pad(batch, padding)))[: len(batch)]
            progress(min(start + ENCODE_BATCH, len(pictures)), len(pictures))

    name = f"moments-{bundle.hashes['autoencoder'][:16]}-{pictures.fingerprint[:16]}-{pictures.images.shape[1]}"
    return cached_array(folder / name, len(pictures), chunks)


def encode_captions(
    encoder: ClipEncoder, pictures: Pictures, folder: Path, progress: Callable[[int, int], None]
) -> Float[np.ndarray, "n d"]:
    """Returns the encoder's vectors of all captions in float16, cached in `folder` by the hashes of both."""

    def chunks() -> Iterator[np.ndarray]:
        """Yields the vectors of one batch of captions after another."""
        for start in range(0, len(pictures), 1024):
            yield encoder.encode_texts(pictures.captions[start : start + 1024]).astype(np.float16)
            progress(min(start + 1024, len(pictures)), len(pictures))

    name = f"captions-{encoder.identity['sha256'][:16]}-{pictures.fingerprint[:16]}-{len(pictures)}"
    return cached_array(folder / name, len(pictures), chunks)


def latent_statistics(moments: Float[np.ndarray, "n h w m"], rows: int = 4096) -> dict[str, Any]:
    """Returns {"scale", "shift"} that bring the latents' means to zero mean by channel and unit variance over all."""
    some = moments[np.linspace(0, len(moments) - 1, min(rows, len(moments))).astype(int)].astype(np.float64)
    mean, logvar = np.split(some, 2, axis=-1)
    shift = mean.mean(axis=(0, 1, 2))
    variance = np.mean((mean - shift) ** 2) + np.mean(np.exp(logvar))
    return {"scale": round(float(variance**-0.5), 6), "shift": [round(float(value), 6) for value in shift]}


def make(config: Config, workdir: Path, progress: Progress, start: Bundle | None = None) -> DiffusionTask:
    """Returns the task; fills the caches of moments and captions first where they are not there.

    Raises:
      UserError: the base bundle lacks a part, or the neighbours are missing, too few, or of another data set.
    """
    base = Bundle.open(config.base)
    base.require("clip", "autoencoder")
    pictures = training_pictures(config.data, config.data.split, progress)
    cache = Path(config.data.data_dir or "data") / "cache"
    moments = encode_moments(base, pictures, cache, lambda *at: progress("encoding latents", *at))
    encoder = ClipEncoder(base)
    captions = encode_captions(encoder, pictures, cache, lambda *at: progress("encoding captions", *at))
    neighbors = open_neighbors(config, pictures, encoder) if config.data.neighbors else None
    settings = config.model.to_dict() | {
        "in_channels": moments.shape[-1] // 2,
        "out_channels": moments.shape[-1] // 2,
        "context_dim": captions.shape[1],
    }
    latents = latent_statistics(moments)
    return DiffusionTask(config, base, pictures, moments, captions, neighbors, latents, build_unet(settings), settings)


def open_neighbors(config: Config, pictures: Pictures, encoder: ClipEncoder) -> NeighborSidecar:
    """Returns the sidecar that `config.data.neighbors` names.

    Raises:
      UserError: it is missing, of another data set or encoder, or holds fewer neighbours than are drawn from.
    """
    database = Database.open(config.data.database) if config.data.get("database") else None
    sidecar = NeighborSidecar(Path(config.data.neighbors), database)
    if database is None and not sidecar.manifest["embeddings"]:
        raise UserError(
            f"the neighbours in {config.data.neighbors} hold no rows; name their database by data.database, or compute "
            "them again with `rdm neighbors --embeddings`"
        )
    if sidecar.manifest["source"]["fingerprint"] != pictures.fingerprint:
        raise UserError(
            f"the neighbours in {config.data.neighbors} are those of another data set than "
            f"{config.data.source} {config.data.split}; compute them again with `rdm neighbors`"
        )
    if sidecar.manifest["encoder"]["sha256"] != encoder.identity["sha256"]:
        raise UserError(
            f"the neighbours in {config.data.neighbors} were found by another encoder than that of "
            f"{config.base}; compute them again with `rdm neighbors`"
        )
    candidates = config.conditioning.candidates
    if candidates > sidecar.k:
        raise UserError(
            f"conditioning.candidates={candidates} is more than the {sidecar.k} neighbours in {config.data.neighbors}; "
            "compute more with `rdm neighbors --k`"
        )
    return sidecar
