"""What a run reports to while it generates: the terminal, or a program that shows it elsewhere."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np

from rdm_jax.cli.png import encode_png
from rdm_jax.cli.progress import Progress
from rdm_jax.core import files
from rdm_jax.core.progress import ProgressCallback

if TYPE_CHECKING:
    from rdm_jax.generator import OnPreview, Plan

Save = Callable[[Path, bytes], None]


@runtime_checkable
class Watch(Protocol):
    """Follows a run."""

    def progress(self, label: str) -> AbstractContextManager[ProgressCallback]:
        """Returns what is called with (steps done, all steps); what it raises ends the run between two chunks."""
        ...

    def previews(self, folder: Path, plan: Plan, save: Save) -> OnPreview | None:
        """Returns what is called with estimates of the finished images; None if nobody wants them.

        Args:
          folder: of the images.
          plan: of the images.
          save: writes a file.
        """
        ...


@dataclasses.dataclass(frozen=True)
class Terminal:
    """Shows the progress on standard error.

    Attributes:
      quiet: whether nothing is shown.
      keep_previews: whether estimates are written to the folder previews/ beside the images.
    """

    quiet: bool
    keep_previews: bool

    def progress(self, label: str) -> Progress:
        """Returns a bar or lines of progress."""
        return Progress(label, quiet=self.quiet)

    def previews(self, folder: Path, plan: Plan, save: Save) -> OnPreview | None:
        """Returns the callback that writes an estimate of each image after every chunk."""
        if not self.keep_previews:
            return None
        with files.writing(folder / "previews"):
            (folder / "previews").mkdir(exist_ok=True)

        def write(indices: list[int], done: int, images: np.ndarray) -> None:
            """Writes the images of one batch."""
            for index, image in zip(indices, images, strict=True):
                name = f"{index:05d}-{plan.request.seed}-step{done:04d}.png"
                save(folder / "previews" / name, encode_png(image))

        return write
