"""What the scripts for several devices share: equal images in batches of several sizes, and a file of the results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np

from rdm_jax.bundle import Bundle
from rdm_jax.generator import Generator

SIZES = (8, 3)


def images(bundle: Bundle, sizes: tuple[int, ...] = SIZES, **options: Any) -> dict[str, np.ndarray]:
    """Returns eleven images of a model in batches of each size, by the size.

    Args:
      bundle: the model.
      sizes: of the batches; one that the number of devices does not divide is generated whole on each of them.
      **options: of the generation.
    """
    generator = Generator.load(bundle)
    return {
        str(size): generator.sample("a red boat", num_images=11, batch_size=size, **options).images for size in sizes
    }


def write(file: Path, loss: float, gradient: np.ndarray, generated: dict[str, np.ndarray]) -> None:
    """Writes the images, the loss and the gradient of all devices to a file."""
    content: dict[str, Any] = {"devices": jax.device_count(), "loss": loss, "gradient": gradient, **generated}
    np.savez(file, **content)
