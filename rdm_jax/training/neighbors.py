"""The neighbors of training images, which are computed ahead of time or when a run starts."""

from __future__ import annotations

import dataclasses
import functools

from rdm_jax.core import paths
from rdm_jax.core.errors import UserError
from rdm_jax.core.progress import StageProgressCallback
from rdm_jax.data.image_set import ImageSet
from rdm_jax.data.sources import open_source
from rdm_jax.retrieval.database import Database
from rdm_jax.retrieval.encoder import ClipEncoder
from rdm_jax.retrieval.jobs import Execution, LocalWriter
from rdm_jax.retrieval.neighbors import NeighborJob, NeighborOptions, compute_neighbors
from rdm_jax.retrieval.sidecar import MANIFEST, NeighborSidecar
from rdm_jax.training.config import Config
from rdm_jax.training.latents import sets_folder
from rdm_jax.training.schema import Count, LatentData

FEW_IMAGES = 5_000


@dataclasses.dataclass(frozen=True, kw_only=True)
class Compute:
    """Neighbors that are computed first where they are missing.

    Attributes:
      k: neighbors of each image; 0 computes none.
      within: the attribute that neighbors share with their image; "" for none.
    """

    k: Count = 0
    within: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class NeighborData(LatentData):
    """Encoded images with their neighbors.

    Attributes:
      neighbors: the folder or address of the neighbors; "" trains without any condition.
      database: that they come from; needed where they hold no embeddings, and for `compute`.
      compute: neighbors that are computed first.
      held_out_rows: images that are held out for evaluation, spread evenly over the set.
    """

    neighbors: str = ""
    database: str = ""
    compute: Compute
    held_out_rows: Count = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.compute.k and not (self.database and self.neighbors):
            raise UserError(
                f"data.compute.k={self.compute.k} computes neighbors of data.database into data.neighbors; give both"
            )


def open_neighbors(
    config: Config, images: ImageSet, encoder: ClipEncoder, progress: StageProgressCallback
) -> NeighborSidecar:
    """Returns the sidecar `config.data.neighbors`; computes it first if it is missing and `data.compute.k` is above 0.

    Raises:
      UserError: it is missing, of another data set or encoder, or holds fewer neighbors than are sampled from.
    """
    data, place = config.data, config.data.neighbors
    database = Database.open(data.database) if data.database else None
    exists = paths.is_remote(place) or (paths.local(place) / MANIFEST).exists()
    if data.compute.k and database is not None and not exists:
        source = open_source(data.source, split=data.split or None, data_dir=sets_folder(data))
        options = NeighborOptions(data.compute.k, within=data.compute.within or None)
        report = functools.partial(progress, "finding neighbors")
        workers = 0 if len(source) < FEW_IMAGES else None  # for few images, processes take longer to start than to work
        execution = Execution(progress=report, writer=LocalWriter(workers))
        compute_neighbors(NeighborJob(source, encoder, database, options), paths.local(place), execution)
    sidecar = NeighborSidecar.open(place, database)
    if database is None and not sidecar.manifest["embeddings"]:
        raise UserError(
            f"the neighbors in {place} hold no embeddings; name their database by data.database, or compute them again "
            "with `rdm neighbors --embeddings`"
        )
    sidecar.check(images, encoder=encoder.identity)
    if exists and data.compute.k and sidecar.k != data.compute.k:
        raise UserError(
            f"data.compute.k={data.compute.k}, and {place} holds {sidecar.k} neighbors of each image; "
            "give that number, or another folder"
        )
    candidates = config.conditioning.candidates
    if candidates > sidecar.k:
        raise UserError(
            f"conditioning.candidates={candidates} is more than the {sidecar.k} neighbors in {place}; "
            "compute more with `rdm neighbors --k`"
        )
    return sidecar
