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
from jaxtyping import Array, Float, Key, UInt8
from ml_collections import ConfigDict

from rdm_jax.bundle import Bundle
from rdm_jax.core import sheets, storage, trees
from rdm_jax.core.errors import UserError, unknown
from rdm_jax.core.images import resize_and_crop
from rdm_jax.core.vectors import unit
from rdm_jax.data.batches import Record
from rdm_jax.data.image_set import ImageSet, cached_array
from rdm_jax.data.sources import open_source
from rdm_jax.diffusion.objective import by_bands, diffusion_loss, sample_timesteps, time_weights
from rdm_jax.diffusion.schedule import Schedule, build_schedule
from rdm_jax.models import abstract_params, build_autoencoder, build_unet
from rdm_jax.retrieval.database import Database
from rdm_jax.retrieval.encoder import ClipEncoder
from rdm_jax.retrieval.jobs import Execution
from rdm_jax.retrieval.neighbors import NeighborJob, NeighborOptions, compute_neighbors
from rdm_jax.retrieval.sidecar import MANIFEST, NeighborSidecar
from rdm_jax.settings import NULLS
from rdm_jax.training.config import Config
from rdm_jax.training.drawing import draw
from rdm_jax.training.latents import Latents, cache_folder, open_latents
from rdm_jax.training.state import Held
from rdm_jax.training.tasks.base import Progress, Task, blank_picture, training_pictures

EVAL_BATCHES = 8
BANDS = 4
FEW = 5_000
SHOWN, SHOWN_NEIGHBORS = 8, 2
NULL, TEXT, BOTH, NEIGHBORS = range(4)
KINDS = {"text": TEXT, "neighbors": NEIGHBORS, "text+neighbors": BOTH}


@dataclasses.dataclass(frozen=True)
class DiffusionTask(Task):
    """Trains the U-Net.

    Attributes:
      latents: the pictures that are learned from, as the base's autoencoder encodes them.
      captions: [n, d] float16, the encoder's vector of every caption; None where no condition holds one.
      neighbors: the sidecar of every picture's neighbours, nearest first; None trains without retrieval.
      module: the network.
      settings: its configuration.
    """

    config: Config
    latents: Latents
    captions: Float[np.ndarray, "n d"] | None
    neighbors: NeighborSidecar | None
    module: Any
    settings: dict[str, Any]

    @property
    def base(self) -> Bundle:
        """The bundle with the frozen encoder and autoencoder."""
        return self.latents.base

    @property
    def pictures(self) -> ImageSet:
        """What is learned from."""
        return self.latents.pictures

    @property
    def size(self) -> int:
        """The number of records in an epoch: of training pictures, some of them more than once."""
        return len(self.rows)

    @property
    def record(self) -> dict[str, str]:
        """Hashes of the pictures, of the base and of the neighbours' database."""
        told = {"source": self.pictures.fingerprint, "base": self.base.digest}
        return told | ({"database": self.neighbors.manifest["database"]["digest"]} if self.neighbors else {})

    @property
    def frozen(self) -> Any:
        """The autoencoder's parameters, where pictures are encoded in every step."""
        return self.latents.frozen

    @functools.cached_property
    def rows(self) -> np.ndarray:
        """The picture of each record: all but those that are kept for evaluation, repeated by `emphasis`."""
        rows = np.delete(np.arange(len(self.pictures)), self.held_out)
        return np.repeat(rows, repeats([self.pictures.attributes[row] for row in rows], self.config.emphasis))

    @functools.cached_property
    def held_out(self) -> np.ndarray:
        """The pictures kept for evaluation, spread evenly: a folder's come class by class."""
        count = self.config.data.held_out_rows
        return (np.arange(1, count + 1) * len(self.pictures)) // max(count, 1) - 1

    @functools.cached_property
    def schedule(self) -> Schedule:
        """The noise schedule."""
        return build_schedule(self.config.diffusion.to_dict())

    def read(self, row: int, generator: np.random.Generator) -> Record:
        """Returns one record: a picture, or its moments, and which condition it was dealt."""
        return self._record(int(self.rows[row]), generator)

    def complete(self, batch: Record) -> Record:
        """Returns pictures or moments, the context tokens [b, k, d], and whether they stand for no condition [b]."""
        shown = {name: batch[name] for name in ("image", "moments") if name in batch}
        return {**shown, "context": self.tokens(batch), "null": batch["kind"] == NULL}

    def _record(self, picture: int, generator: np.random.Generator) -> Record:
        return {**self.latents.read(picture, generator), **self.deal(picture, generator)}

    def deal(self, picture: int, generator: np.random.Generator) -> Record:
        """Returns by lot what conditions a picture: `kind`, whose neighbours (`lender`) and which of them (`chosen`).

        The kinds are neighbours, the caption, both, or nothing. k of the nearest `candidates` are drawn. Of the
        pictures that see both, the share `shuffled_probability` sees neighbours of another picture of the same
        collection: then the caption alone says what there is, and the neighbours how it is drawn, so that a text can
        ask a collection for what it does not hold.
        """
        config = self.config.conditioning
        kind, lender = self._kind(generator.random()), picture
        if kind == BOTH and generator.random() < config.shuffled_probability:
            lender = int(generator.choice(self.collections[self._collection(picture)]))
        chosen = generator.choice(config.candidates, config.neighbors, replace=False)
        return {"kind": np.array(kind), "picture": np.array(picture), "lender": np.array(lender), "chosen": chosen}

    def _kind(self, share: float) -> int:
        config = self.config.conditioning
        if share < config.null_probability or self.neighbors is None:
            return NULL
        share = (share - config.null_probability) / (1.0 - config.null_probability)
        if share < config.text_probability:
            return TEXT
        return BOTH if share < config.text_probability + config.text_and_neighbors_probability else NEIGHBORS

    def tokens(self, dealt: Record) -> Float[np.ndarray, "b k d"]:
        """Returns the tokens that condition a batch of pictures, zeros where there is no condition.

        A caption alone fills all k places: attention over equal tokens is attention over one. With neighbours it takes
        the first place.
        """
        config, kinds = self.config.conditioning, dealt["kind"]
        tokens = np.zeros((len(kinds), config.neighbors, self.settings["context_dim"]), np.float32)
        retrieved = np.flatnonzero((kinds == NEIGHBORS) | (kinds == BOTH))
        if self.neighbors is not None and len(retrieved):
            _, _, rows = self.neighbors.read(self.pictures.rows[dealt["lender"][retrieved]])
            found = np.take_along_axis(rows, dealt["chosen"][retrieved, :, None], axis=1).astype(np.float32)
            both = kinds[retrieved] == BOTH
            found[both, 1:] = found[both, :-1]
            tokens[retrieved] = found
        for kind, places in ((TEXT, slice(None)), (BOTH, slice(1))):
            seen = np.flatnonzero(kinds == kind)
            if self.captions is not None and len(seen):
                tokens[seen, places] = self.captions[dealt["picture"][seen], None].astype(np.float32)
        return unit(tokens) if config.unit_tokens else tokens

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

    def init(self, key: Key[Array, ""]) -> tuple[Any, Any]:
        """Returns fresh parameters of the U-Net, and of the null condition where it is learned; and no stats."""
        width = self.settings["context_dim"]
        context = jnp.zeros((1, self.config.conditioning.neighbors, width))
        params = {
            "unet": self.module.init(key, jnp.zeros((1, *self.latents.shape)), jnp.zeros((1,)), context)["params"]
        }
        if self.config.conditioning.null == "learned":
            params["null"] = {"token": jnp.zeros((width,), jnp.float32)}
        return params, {}

    def loss(
        self, params: Any, held: Held, batch: dict[str, Array], key: Key[Array, ""], step: Array
    ) -> tuple[Array, tuple[dict[str, Array], Any]]:
        """Returns the weighted squared error of the prediction at random times, and its mean within bands of time."""
        config = self.config.diffusion
        posterior_key, noise_key, time_key, dropout_key = jax.random.split(key, 4)
        x0 = self.latents.x0(held.frozen, batch, posterior_key)
        t = sample_timesteps(time_key, len(x0), len(self.schedule), self.config.time_density)
        context = batch["context"]
        if "null" in params:
            context = jnp.where(batch["null"][:, None, None], params["null"]["token"][None, None], context)

        def apply(x: Array, t: Array, context: Array) -> Array:
            dropout = {"deterministic": False, "rngs": {"dropout": dropout_key}} if self.module.dropout else {}
            return self.module.apply({"params": params["unet"]}, x, t, context, **dropout)

        noise = jax.random.normal(noise_key, x0.shape)
        losses = diffusion_loss(apply, x0, context, t, noise, self.schedule, config.prediction)
        weights = time_weights(self.config.time_weight, self.schedule, t, config.prediction)
        bands = by_bands(losses, t, len(self.schedule), BANDS)
        return jnp.mean(weights * losses), ({f"band_{i}": bands[i] for i in range(BANDS)}, held.stats)

    def evaluate(self, params: Any) -> Iterator[tuple[str, float]]:
        """Yields the loss on the held-out pictures, at the same times and noise in every evaluation."""
        generator = np.random.default_rng(0)
        held, losses = Held({}, jax.device_put(self.frozen)), []
        size = self.config.batch_size
        whole = min(EVAL_BATCHES, len(self.held_out) // size)
        for i in range(whole):
            records = [self._record(int(row), generator) for row in self.held_out[i::whole][:size]]
            batch = self.complete({name: np.stack([record[name] for record in records]) for name in records[0]})
            losses.append(float(self._evaluated(params, held, batch, jax.random.key(i))))
        if losses:
            yield "loss", float(np.mean(losses))

    @functools.cached_property
    def _evaluated(self) -> Callable[..., Array]:
        zero = jnp.zeros((), jnp.int32)
        return jax.jit(lambda params, held, batch, key: self.loss(params, held, batch, key, zero)[0])

    def figures(self, params: Any) -> Iterator[tuple[str, UInt8[np.ndarray, "h w 3"]]]:
        """Yields what is drawn for held-out pictures under the model's own condition, below their neighbours."""
        rows = self.held_out[:: max(len(self.held_out) // SHOWN, 1)][:SHOWN]
        if not len(rows) or not self.config.sampling.steps:
            return
        kind = NULL if self.neighbors is None else KINDS[self.config.sampling.condition]
        chosen = np.tile(np.arange(self.config.conditioning.neighbors), (len(rows), 1))
        dealt = {"kind": np.full(len(rows), kind), "picture": rows, "lender": rows, "chosen": chosen}
        drawn = draw(self.export(params), self.tokens(dealt), seed=self.config.seed)
        given = np.stack([np.asarray(self.pictures.images[row]) for row in rows])
        shown = {"picture": given, **self._nearest(rows, kind), "drawn for it": drawn}
        yield "samples", sheets.grid(np.stack(list(shown.values())), row_labels=list(shown), zoom=1)

    def _nearest(self, rows: np.ndarray, kind: int) -> dict[str, UInt8[np.ndarray, "n h w 3"]]:
        """Returns small pictures of the nearest neighbours, where there are some and their database is open."""
        if self.neighbors is None or self.neighbors.database is None or kind not in (NEIGHBORS, BOTH):
            return {}
        ids = self.neighbors.ids(self.pictures.rows[rows])[:, :SHOWN_NEIGHBORS]
        size = self.pictures.images.shape[1]
        small = [self.neighbors.database.thumbnails(np.maximum(column, 0)) for column in ids.T]
        return {
            f"neighbour {i + 1}": np.stack([resize_and_crop(one, size) for one in pictures])
            for i, pictures in enumerate(small)
        }

    def export(self, params: Any) -> Bundle:
        """Returns the whole model: the frozen parts, the U-Net and the conventions that it was trained by."""
        conditioning = self.config.conditioning
        told = {
            "neighbors": conditioning.neighbors,
            "unit_tokens": conditioning.unit_tokens,
            "null": conditioning.null,
        }
        if "null" in params:
            told["null_token"] = np.asarray(params["null"]["token"], np.float64).round(7).tolist()
        config = {key: value for key, value in self.base.config.items() if key != "sha256"} | {
            "name": self.config.name,
            "latents": dict(self.latents.scaling),
            "unet": self.settings,
            "diffusion": self.config.diffusion.to_dict(),
            "conditioning": told,
            "sampling": self.config.sampling.to_dict(),
        }
        parts = {part: self.base.params[part] for part in ("clip", "autoencoder") if self.base.has(part)}
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


def encode_captions(
    encoder: ClipEncoder, pictures: ImageSet, folder: Path, progress: Callable[[int, int], None]
) -> Float[np.ndarray, "n d"]:
    """Returns the encoder's vectors of all captions in float16, cached in `folder` by the hashes of both."""

    def chunks() -> Iterator[np.ndarray]:
        """Yields the vectors of one batch of captions after another."""
        for start in range(0, len(pictures), 1024):
            yield encoder.encode_texts(pictures.captions[start : start + 1024]).astype(np.float16)
            progress(min(start + 1024, len(pictures)), len(pictures))

    name = f"captions-{encoder.identity['sha256'][:16]}-{pictures.fingerprint[:16]}-{len(pictures)}"
    return cached_array(folder / name, len(pictures), chunks)


def make(config: Config, workdir: Path, progress: Progress, start: Bundle | None = None) -> DiffusionTask:
    """Returns the task; fills the caches of moments and captions first where they are not there.

    Raises:
      UserError: the base bundle lacks a part, no picture is left to train on, or the neighbours are missing, too few,
        or of another data set.
    """
    base = Bundle.open(config.base)
    base.require("clip", "autoencoder")
    if config.conditioning.null not in NULLS:
        raise unknown("conditioning.null", config.conditioning.null, NULLS)
    pictures = training_pictures(config.data, config.data.split, progress)
    if config.data.held_out_rows >= len(pictures):
        raise UserError(
            f"data.held_out_rows={config.data.held_out_rows} leaves none of {len(pictures)} pictures to train on; "
            "keep fewer"
        )
    latents = open_latents(base, pictures, config, progress)
    encoder = ClipEncoder(base)
    conditioning, captions = config.conditioning, None
    if config.data.neighbors and conditioning.text_probability + conditioning.text_and_neighbors_probability > 0:
        told = functools.partial(progress, "encoding captions")
        captions = encode_captions(encoder, pictures, cache_folder(config.data), told)
    neighbors = open_neighbors(config, pictures, encoder, progress) if config.data.neighbors else None
    settings = config.model.to_dict() | {
        "in_channels": latents.shape[-1],
        "out_channels": latents.shape[-1],
        "context_dim": int(encoder.identity["width"]),
    }
    return DiffusionTask(config, latents, captions, neighbors, build_unet(settings), settings)


def open_neighbors(config: Config, pictures: ImageSet, encoder: ClipEncoder, progress: Progress) -> NeighborSidecar:
    """Returns the sidecar that `config.data.neighbors` names, computed now if it is not there and `compute` says how.

    Raises:
      UserError: it is missing, of another data set or encoder, or holds fewer neighbours than are drawn from.
    """
    data, place = config.data, config.data.neighbors
    database = Database.open(data.database) if data.get("database") else None
    found = storage.is_remote(place) or Path(place, MANIFEST).exists()
    if data.compute.k and database is not None and not found:
        source = open_source(data.source, split=data.split or None, data_dir=data.data_dir or None)
        options = NeighborOptions(data.compute.k, within=data.compute.within or None)
        told = functools.partial(progress, "finding neighbours")
        workers = 0 if len(source) < FEW else None  # processes that decode take longer to start than a few pictures
        execution = Execution(workers=workers, progress=told)
        compute_neighbors(NeighborJob(source, encoder, database, options), Path(place), execution)
    sidecar = NeighborSidecar.open(place, database)
    if database is None and not sidecar.manifest["embeddings"]:
        raise UserError(
            f"the neighbours in {config.data.neighbors} hold no rows; name their database by data.database, or compute "
            "them again with `rdm neighbors --embeddings`"
        )
    sidecar.check(pictures, encoder=encoder.identity)
    candidates = config.conditioning.candidates
    if candidates > sidecar.k:
        raise UserError(
            f"conditioning.candidates={candidates} is more than the {sidecar.k} neighbours in {config.data.neighbors}; "
            "compute more with `rdm neighbors --k`"
        )
    return sidecar


def abstract(config: Config) -> DiffusionTask:
    """Returns the task from `config.architecture` alone, or from the settings of the bundle `config.base`.

    Attention is XLA's, not what this machine would choose.
    """
    told = config.architecture.to_dict() if "architecture" in config else Bundle.open(config.base).config
    autoencoder = build_autoencoder(told["autoencoder"])
    frozen = trees.unflatten(abstract_params(autoencoder))
    base = Bundle({"name": config.name, "autoencoder": told["autoencoder"]}, {"autoencoder": frozen})
    latents = Latents(base, blank_picture(config.data.size), None, config.latents.to_dict() or {"scale": 1.0})
    height, width, channels = latents.shape
    if config.data.cache_latents:
        encoded = autoencoder.encoded * autoencoder.embed_dim
        latents = dataclasses.replace(latents, moments=np.zeros((1, height, width, encoded), np.float16))
    sizes = {"in_channels": channels, "out_channels": channels, "context_dim": told["clip"]["embed_dim"]}
    settings = config.model.to_dict() | sizes | {"attention_implementation": "xla"}
    config = config.copy_and_resolve_references().unlock()
    config.emphasis, config.data.held_out_rows = ConfigDict(), 0
    return DiffusionTask(config, latents, None, None, build_unet(settings), settings)
