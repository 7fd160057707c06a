"""Opens an image source: a folder, a zip of one, tar shards, parquet or Arrow files, or a TFDS set."""

from __future__ import annotations

from pathlib import Path

from rdm_jax.core import images, paths, storage
from rdm_jax.core.errors import UserError
from rdm_jax.data import datasets_source, tar_source
from rdm_jax.data.examples import ImageSource
from rdm_jax.data.file_source import open_files
from rdm_jax.data.file_trees import FolderFiles, ZipFiles
from rdm_jax.data.tfds_source import open_tfds, open_tfds_folder

FILES = {
    ".zip": lambda path, split: open_files(path.stem, ZipFiles(path), split),
    tar_source.SUFFIX: tar_source.open_tars,
    **dict.fromkeys(datasets_source.KINDS, datasets_source.open_tables),
}
"""By the suffix of a file that is a source: what opens it, of (path, split)."""


def open_source(spec: str, split: str | None = None, data_dir: str | None = None) -> ImageSource:
    """Opens a source of images by the place of its files, or a TFDS set by name.

    Args:
      spec: a folder of images, of WebDataset tar files or of a data set of Hugging Face; a .zip of images, a .tar, a
        .parquet or an .arrow file, or a pattern of tar files; a prepared TFDS folder; the address of one of these in
        object storage (copied to the local disk first); or a name such as "style_scenes/tiny".
      split: for folders the sub-folder "train", "validation" or "test"; for data sets one of their splits; for TFDS a
        split such as "train[:1000]". If None, all of a folder, or "train" for data sets.
      data_dir: the folder of the TFDS sets; the default of TFDS if None.

    Raises:
      UserError: nothing has this name, it has no images or no such split, its metadata cannot be read, or the extra of
        its format is missing.
    """
    path = storage.fetched(spec) if paths.is_remote(spec) else paths.local(spec)
    # The processes of a cluster start in other folders.
    if path.is_dir():
        return _open_folder(path.absolute(), split)
    suffix = path.suffix.lower()
    if (suffix in FILES and path.is_file()) or tar_source.is_pattern(path):
        return FILES[suffix](path.absolute(), split)
    known = f"a folder or a file of type {' '.join(FILES)}"
    if path.exists():
        raise UserError(f"{spec} is not {known}; give one of these or a TFDS name")
    if path.is_absolute() or suffix in FILES or spec.startswith("."):
        raise UserError(f"no folder or file {spec}; check the path")
    return open_tfds(spec, split, data_dir and paths.absolute(data_dir))


def is_source_file(path: Path) -> bool:
    """Returns whether a path is a file that can be opened as a source."""
    return path.suffix.lower() in FILES and path.is_file()


def _open_folder(path: Path, split: str | None) -> ImageSource:
    """Opens a folder by what it contains; where there are image files, it is a folder of images."""
    if datasets_source.is_saved(path):
        return datasets_source.open_saved(path, split)
    if (path / "dataset_info.json").is_file() and not any(path.glob("*.arrow")):
        return open_tfds_folder(path, split)
    folder = FolderFiles(path)
    listing = folder.listing()
    suffixes = {Path(name).suffix.lower() for name in listing.paths}
    if not suffixes & images.suffixes():
        opened = next((FILES[suffix] for suffix in FILES if suffix != ".zip" and suffix in suffixes), None)
        if opened is not None:
            return opened(path, split)
    return open_files(path.resolve().name, folder, split, listing)
