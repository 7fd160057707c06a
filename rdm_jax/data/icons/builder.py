"""The icons as a TFDS data set in array_record files, rendered from the npm archive that the user downloads."""

from __future__ import annotations

import contextlib
import functools
import logging
import multiprocessing
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from rdm_jax.core import files, images
from rdm_jax.core.progress import StageProgressCallback
from rdm_jax.data.icons.attribution import FILE, attribution
from rdm_jax.data.icons.collection import ARCHIVE, COMMAND, SMALLEST_STYLE, SPLITS, Icon, read
from rdm_jax.data.icons.content import content_icons

_SEVERAL = 2_000  # fewer icons are rendered by this process alone
_LOG = logging.getLogger(__name__)


def encoded_example(icon: Icon, size: int) -> tuple[str, dict[str, Any]] | None:
    """Returns an icon as TFDS takes it: its key, and the example with the image as the bytes of a PNG file.

    Returns None for an icon that draws nothing, as some do in the first frame of their animation.
    """
    try:
        image = images.render_svg(icon.svg.encode(), size)
    except ValueError:
        return None
    return icon.id, {
        "image": images.encode(image),
        "caption": icon.caption,
        "set": icon.source.prefix,
        "style": icon.style,
        "group": icon.group,
        "author": icon.source.author,
        "licence": icon.source.license,
        "one_color": icon.source.one_color,
        "id": icon.id,
    }


def encoded_examples(
    icons: Sequence[Icon], size: int, processes: int | None = None
) -> Iterator[tuple[str, dict[str, Any]] | None]:
    """Yields `encoded_example` of each icon in order, made by a pool of processes.

    Args:
      icons: the icons.
      size: of the images, in pixels.
      processes: how many processes; by default one for each core up to 16, and this one alone for a few icons.
    """
    make = functools.partial(encoded_example, size=size)
    if processes is None:
        processes = min(os.cpu_count() or 1, 16) if len(icons) >= _SEVERAL else 1
    if processes == 1:
        yield from map(make, icons)
        return
    # Fresh processes: a fork would copy the threads' locks of whatever else runs in this one.
    with contextlib.closing(multiprocessing.get_context("spawn").Pool(processes)) as pool:
        yield from pool.imap(make, icons, chunksize=64)


@dataclass
class IconsConfig(tfds.core.BuilderConfig):
    """The side of the images in pixels, and the fewest icons of a style."""

    size: int = 64
    smallest_style: int = SMALLEST_STYLE


class Icons(tfds.core.GeneratorBasedBuilder):
    """TFDS builder of the open icon sets; build it with `file_format="array_record"`.

    A model learns from "train" alone. The database that provides contents is "train+unseen", or "content", those of
    them that a small one holds; styles that no training saw are "held_out".
    """

    VERSION = tfds.core.Version("1.1.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = f"Run `{COMMAND}` in this folder."
    BUILDER_CONFIGS = [
        IconsConfig(name="64", description="Images of 64x64 pixels.", size=64),
        IconsConfig(name="128", description="Images of 128x128 pixels.", size=128),
    ]

    progress: StageProgressCallback | None = None
    """Called with ("rendering icons", done, total), over all splits."""

    def _info(self) -> tfds.core.DatasetInfo:
        size = self._icons_config.size
        return self.dataset_info_from_configs(
            description="Icons of open sets on white, with the set's variant as style and the icon's name as caption.",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(size, size, 3), encoding_format="png"),
                    "caption": tfds.features.Text(),
                    "set": tfds.features.Text(),
                    "style": tfds.features.Text(),
                    "group": tfds.features.Text(),
                    "author": tfds.features.Text(),
                    "licence": tfds.features.Text(),  # the attribute's name in databases
                    "one_color": tfds.features.Scalar(np.bool_),
                    "id": tfds.features.Text(),
                }
            ),
            supervised_keys=None,
        )

    @property
    def _icons_config(self) -> IconsConfig:
        config = self.builder_config
        assert isinstance(config, IconsConfig)
        return config

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        try:
            folder = Path(dl_manager.manual_dir)
        except AssertionError:  # an empty folder; what is missing in it is stated below
            folder = Path(self.data_dir_root) / "downloads" / "manual"
        icons = read(folder / ARCHIVE, self._icons_config.smallest_style)
        files.write_bytes(Path(self.data_dir) / FILE, attribution(icons).encode())
        chosen = {split: [icon for icon in icons if icon.split == split] for split in SPLITS}
        chosen["content"] = content_icons(icons)
        done = _Count(sum(map(len, chosen.values())), self.progress)
        return {split: self._generate_examples(some, done) for split, some in chosen.items() if some}

    def _generate_examples(self, icons: Sequence[Icon], done: _Count) -> Iterator[tuple[str, dict[str, Any]]]:
        empty = 0
        for example in encoded_examples(icons, self._icons_config.size):
            done.add()
            if example is None:
                empty += 1
            else:
                yield example
        if empty:
            _LOG.info("%d of %d icons draw nothing and were left out", empty, len(icons))


class _Count:
    """Counts the icons of all splits for a progress callback."""

    def __init__(self, total: int, progress: StageProgressCallback | None) -> None:
        self._done, self._total, self._progress = 0, total, progress

    def add(self) -> None:
        self._done += 1
        if self._progress is not None:
            self._progress("rendering icons", self._done, self._total)
