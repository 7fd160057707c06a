"""`python -m tests.helpers.generate OUT [PROCESSES RANK PORT]`: images of the tiny model, generated on all devices.

Noise enters these images in every possible way: the start, a sampler's steps, a noised reference.
"""

from __future__ import annotations

import sys
from pathlib import Path

import jax
import numpy as np
from PIL import Image

from rdm_jax.core import distributed
from tests.helpers import batches, guided

SETTINGS = {"condition": "text", "steps": 4, "sampler": "ddpm", "seed": 5}


def images(out: Path, sizes: tuple[int, ...] = batches.SIZES) -> dict[str, np.ndarray]:
    """Returns eleven images in batches of each size, by the size.

    Args:
      out: a folder for the reference.
      sizes: of the batches (see `batches.images`).
    """
    reference = out / "reference.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(reference)
    guides = [f"sdg(content='{reference}', weight=50)", f"ilvr(image='{reference}', factor=2, until=0.5)"]
    return batches.images(guided.bundle(), sizes, guides=guides, **SETTINGS)


def main() -> None:
    """Generates the images and writes those of every process to a file of its own."""
    out = Path(sys.argv[1])
    rank = 0
    if len(sys.argv) > 2:
        processes, rank, port = map(int, sys.argv[2:])
        distributed.join(f"localhost:{port}", processes, rank)
    folder = out / str(rank)
    folder.mkdir(parents=True)
    generated = images(folder)
    np.savez(folder / "images.npz", devices=jax.device_count(), **generated)


if __name__ == "__main__":
    main()
