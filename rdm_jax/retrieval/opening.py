"""From what a user names as a database, or several, to what retrieves from it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rdm_jax.core.errors import UserError
from rdm_jax.retrieval.database import Database
from rdm_jax.retrieval.encoder import ClipEncoder
from rdm_jax.retrieval.mixture import Mixture
from rdm_jax.retrieval.retriever import Retriever

Databases = str | Path | Database | Mixture | Retriever | Sequence[str | Path | Database]


def open_retriever(encoder: ClipEncoder, database: Databases | None) -> Retriever:
    """Returns the retriever of a database, or of several.

    Args:
      encoder: of the model.
      database: a database, its name or folder; several, searched as one; a mixture by weight; or a retriever.

    Raises:
      UserError: none is given, one is unknown, or it was built by another encoder.
    """
    if database is None:
        raise UserError(
            f"neighbors need a database (known: {', '.join(Database.names()) or 'none'}); "
            "name one, give the folder of one, or use condition 'text'"
        )
    if isinstance(database, Retriever):
        return database
    if isinstance(database, Mixture):
        return Retriever(encoder, database.databases, database.weights)
    several = [database] if isinstance(database, str | Path | Database) else database
    return Retriever(encoder, [one if isinstance(one, Database) else Database.open(one) for one in several])
