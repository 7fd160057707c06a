"""Uploads a model or a database with its card to the Hugging Face Hub."""

from __future__ import annotations

from pathlib import Path

from rdm_jax import bundle as bundles
from rdm_jax.bundle import Bundle
from rdm_jax.core import files, hub, paths
from rdm_jax.core.errors import UserError
from rdm_jax.retrieval import manifest as manifests
from rdm_jax.retrieval.database import Database
from rdm_jax.sharing import cards

Contents = dict[str, Path | bytes]


def push(
    place: str, given: str, *, license_: str = "", attribution: str = "", card: str = "", private: bool = False
) -> str:
    """Checks a model or a database, uploads it with its card, and returns the commit's address.

    Args:
      place: its name or folder.
      given: the address of the repository, which is made if it is missing.
      license_: for the card; that of a database's manifest by default.
      attribution: Markdown for the card.
      card: takes the place of the card that would be written.
      private: whether a new repository is visible to its owner alone.

    Raises:
      UserError: there is no such model or database, it is damaged, or the upload fails.
    """
    address = str(hub.Address.parse(given))
    if _is_bundle(place):
        bundle = Bundle.open(place)
        contents, kind = _bundle_files(bundle), bundles.REPOSITORY
        own = card or cards.model_card(bundle, address, license_, attribution)
    else:
        database = Database.open(place)
        database.verify()
        contents, kind = _database_files(database), manifests.REPOSITORY
        own = card or cards.database_card(database, address, license_, attribution)
    name = Path(place).name
    return hub.upload(given, kind, {**contents, cards.FILE: own.encode()}, f"Upload {name} by rdm push", private)


def _is_bundle(place: str) -> bool:
    """Returns whether a place is a model, and no database; raises UserError if it is neither."""
    if place in Bundle.names() or place in Database.names():
        return place in Bundle.names()
    folder = paths.local(place)
    if (folder / bundles.CONFIG).is_file():
        return True
    if (folder / manifests.MANIFEST).is_file():
        return False
    raise UserError(
        f"{place} is neither a model nor a database; export a model by `rdm export`, or build a database by "
        "`rdm database build`"
    )


def _bundle_files(bundle: Bundle) -> Contents:
    assert bundle.path is not None
    config = bundles.read_config(bundle.path)
    names = [bundles.CONFIG, *bundles.file_hashes(config)]
    return {name: bundle.path / name for name in names}


def _database_files(database: Database) -> Contents:
    """Returns the files of a database; its manifest without the folder of the encoder's bundle on this machine."""
    manifest = {key: value for key, value in database.manifest.items() if key != manifests.BUNDLE}
    contents: Contents = {name: database.path / name for name in manifests.file_hashes(manifest)}
    return {manifests.MANIFEST: files.json_bytes(manifest), **contents}
