"""`python -m tests.helpers.extract OUT PROCESSES RANK PORT`: features of images, each process reading its part."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from rdm_jax.core import distributed
from rdm_jax.data.examples import Example
from rdm_jax.evaluation.features.extraction import Contents, SetFeatures, extract
from rdm_jax.evaluation.features.networks import FeatureNetwork
from tests.helpers import classifier


class Images:
    """Eleven random images as a source, of which number 4 is broken."""

    name, captions, fingerprint, shard_lengths = "images", "none", "0" * 64, (11,)

    def __len__(self) -> int:
        return 11

    def __getitem__(self, index: int) -> Example:
        if index == 4:
            raise ValueError("04.png: broken")
        pixels = np.random.default_rng(index).integers(0, 256, (16, 16, 3), dtype=np.uint8)
        return Example(pixels, f"image {index}", f"{index:02d}.png", {})

    def labels(self, index: int) -> dict[str, str]:
        return {"path": f"{index:02d}.png", "caption": f"image {index}"}


def features() -> tuple[Contents, SetFeatures]:
    """Returns what all images consist of, and their features."""
    contents, (found,) = extract(Images(), [FeatureNetwork(classifier.bundle(), "classifier", batch=4)], True)
    return contents, found


def main() -> None:
    """Writes what each process has to a file of its own."""
    out, processes, rank, port = Path(sys.argv[1]), *map(int, sys.argv[2:])
    distributed.join(f"localhost:{port}", processes, rank)
    contents, found = features()
    moments = {"mean": found.moments.mean, "scatter": found.moments.scatter, "count": found.moments.count}
    texts = {"paths": contents.paths, "sha256": contents.sha256, "left_out": str(contents.left_out)}
    np.savez(out / f"{rank}.npz", features=found.features, logits=found.logits, **moments, **texts)


if __name__ == "__main__":
    main()
