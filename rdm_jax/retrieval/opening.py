"""From what a user names as a database, or several, to what retrieves from it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rdm_jax.core import paths, storage
from rdm_jax.core.errors import UserError
from rdm_jax.core.progress import ProgressCallback
from rdm_jax.data.examples import ImageSource
from rdm_jax.data.file_source import NoImages
from rdm_jax.data.sources import is_source_file, open_source
from rdm_jax.retrieval.build import BuildJob, BuildOptions, build_database
from rdm_jax.retrieval.database import Database
from rdm_jax.retrieval.encoder import ClipEncoder, RetrievalEncoder
from rdm_jax.retrieval.jobs import Execution
from rdm_jax.retrieval.manifest import MANIFEST
from rdm_jax.retrieval.mixture import Mixture
from rdm_jax.retrieval.retriever import Retriever

Databases = str | Path | Database | Mixture | Retriever | Sequence[str | Path | Database]


def open_retriever(encoder: ClipEncoder, database: Databases | None) -> Retriever:
    """Returns the retriever of a database, or of several.

    Args:
      encoder: of the model.
      database: a database, its name, folder or address; a folder or a file of images (see `database_place`); several
        of these, searched as one; a mixture by weight; or a retriever.

    Raises:
      UserError: none is given, one is unknown, or it was built by another encoder.
    """
    if database is None:
        raise UserError(
            f"neighbors need a database (known: {', '.join(Database.names(encoder.identity['sha256'])) or 'none'}); "
            "name one, give the folder of one, or use condition 'text'"
        )
    if isinstance(database, Retriever):
        return database
    if isinstance(database, Mixture):
        return Retriever(encoder, database.databases, database.weights)
    several = [database] if isinstance(database, str | Path | Database) else database
    return Retriever(encoder, [_open(encoder, one) for one in several])


def database_place(
    encoder: RetrievalEncoder, place: str | Path, progress: ProgressCallback | None = None
) -> str | Path:
    """Returns where the database of a place is, which is built first where the place has images and no manifest.

    A database of images is kept in the user's cache folder (`storage.cache_folder`) under a hash over the images, their
    captions and the encoder: it is built once, and again when any of these changes.

    Args:
      encoder: of the model; it embeds the images.
      place: the name, the folder or the address of a database, or a folder or a file of images.
      progress: called with (images done, images in all).

    Raises:
      UserError: too many of the images cannot be read, or the cache folder cannot be written.
    """
    source = _image_source(place)
    if source is None:
        return place
    job = BuildJob.of(source, encoder, BuildOptions(name=source.name, quality=100))
    folder = storage.cache_folder() / "databases" / job.record_hash[:32]
    if not (folder / MANIFEST).is_file():
        build_database(job, folder, Execution(progress=progress))
    return folder


def _open(encoder: RetrievalEncoder, one: str | Path | Database) -> Database:
    return one if isinstance(one, Database) else Database.open(database_place(encoder, one))


def _image_source(place: str | Path) -> ImageSource | None:
    """Returns the images of a place that is no database; None for anything else."""
    if str(place) in Database.names() or paths.is_remote(place):
        return None
    path = paths.local(place)
    if is_source_file(path):
        return open_source(str(path))
    if not path.is_dir() or (path / MANIFEST).exists():
        return None
    try:
        return open_source(str(path))
    except NoImages:  # opening it as a database raises the error that names what is missing
        return None
