"""Statistics of a reference in a .npz file: `mu` and `sigma` as other programs write them, and what they are of."""

from __future__ import annotations

import dataclasses
import io
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from rdm_jax.core import files
from rdm_jax.core.errors import UserError, first_line
from rdm_jax.evaluation.features.extraction import Contents, SetFeatures
from rdm_jax.evaluation.features.networks import FeatureNetwork
from rdm_jax.evaluation.metrics.frechet import Moments

SCHEMA = 1
RECORD = "rdm_jax"
NAMES = ("mu", "sigma")
DIFFERENCES = ("sha256", "preprocessing")


@dataclasses.dataclass(frozen=True)
class Statistics:
    """Statistics of a reference.

    Attributes:
      moments: of its features; of a file of another program the count is unknown, and 2 stands for it.
      features: [n, d] of each image, where the file has them.
      record: what they are of, as JSON values; None in a file of another program.
    """

    moments: Moments
    features: Float[np.ndarray, "n d"] | None
    record: Mapping[str, Any] | None


def is_statistics(file: Path) -> bool:
    """Returns whether a file is a .npz of statistics, and not one of images (`arr_0`)."""
    if file.suffix.lower() != ".npz" or not file.is_file():
        return False
    try:
        with zipfile.ZipFile(file) as archive:
            members = {name.removesuffix(".npy") for name in archive.namelist()}
    except (OSError, zipfile.BadZipFile):
        return False
    return "arr_0" not in members and set(NAMES) <= members


def write_statistics(file: Path, contents: Contents, found: SetFeatures, network: FeatureNetwork) -> None:
    """Writes statistics, with the features where these were kept; a file of this name is replaced.

    Raises:
      UserError: there are fewer than two images, or the file cannot be written.
    """
    if len(contents) < 2:
        raise UserError(f"statistics need 2 images or more, and {contents.name} has {len(contents)}")
    record = {"schema": SCHEMA, "images": contents.record, "features": network.record}
    arrays = {
        "mu": found.moments.mean,
        "sigma": found.moments.covariance,
        "count": np.int64(found.moments.count),
        RECORD: np.array(json.dumps(record)),
        **({} if found.features is None else {"features": found.features}),
    }
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    with files.writing(file):
        files.write_bytes(file, buffer.getvalue())


def read_statistics(file: Path, network: FeatureNetwork) -> Statistics:
    """Returns the statistics of a file, after a check that they are of this network and its preprocessing.

    Raises:
      UserError: the file is damaged, or its features are of another network, another resizing or another width.
    """
    try:
        with np.load(file, allow_pickle=False) as stored:
            mean, covariance = (np.asarray(stored[name], np.float64) for name in NAMES)
            record = json.loads(str(stored[RECORD])) if RECORD in stored else None
            count = int(stored["count"]) if record else 2
            features = np.asarray(stored["features"], np.float32) if record and "features" in stored else None
        moments = Moments(count, mean, covariance * (count - 1))
        if mean.ndim != 1 or covariance.shape != (len(mean), len(mean)) or not np.isfinite(covariance).all():
            raise ValueError(f"mu {list(mean.shape)} and sigma {list(covariance.shape)} are no mean and covariance")
        _check(file, record, len(mean), network)
    except UserError:
        raise
    except Exception as error:  # NumPy and JSON raise many kinds on a damaged file
        raise UserError(f"cannot read statistics of {file}: {first_line(error)}; write them again") from error
    return Statistics(moments, features, record)


def _check(file: Path, record: Mapping[str, Any] | None, width: int, network: FeatureNetwork) -> None:
    again = "give its images, or write the statistics again with --write-statistics"
    if record is not None:
        before, now = record["features"], network.record
        for key in DIFFERENCES:
            if before[key] != now[key]:
                raise UserError(
                    f"the statistics {file} are of features of {before['name']} with {key} {_short(before[key])}, and "
                    f"this run has {now['name']} with {_short(now[key])}; {again}"
                )
    expected = network.width
    if width != expected:
        raise UserError(f"the statistics {file} are of {width} features, and {network.title} has {expected}; {again}")


def _short(value: Any) -> str:
    return value[:12] if isinstance(value, str) else ", ".join(f"{key} {one}" for key, one in value.items())
