"""Opens an image source: a folder, a zip of one, or a TFDS set."""

from __future__ import annotations

from rdm_jax.core import paths, storage
from rdm_jax.core.errors import UserError
from rdm_jax.data.examples import ImageSource
from rdm_jax.data.file_source import open_files
from rdm_jax.data.file_trees import FolderFiles, ZipFiles
from rdm_jax.data.tfds_source import open_tfds, open_tfds_folder


def open_source(spec: str, split: str | None = None, data_dir: str | None = None) -> ImageSource:
    """Opens a folder, a .zip of one, a prepared TFDS folder, or a TFDS set by name.

    Args:
      spec: a path, an address in object storage (copied to the local disk first), or a name such as
        "style_scenes/tiny".
      split: for folders the sub-folder "train", "validation" or "test"; for TFDS a split such as "train[:1000]".
        If None, all of a folder, or "train" for TFDS.
      data_dir: the folder of the TFDS sets; the default of TFDS if None.

    Raises:
      UserError: nothing has this name, it has no images or no such split, or its metadata cannot be read.
    """
    path = storage.fetched(spec) if paths.is_remote(spec) else paths.local(spec)
    if path.is_dir():
        if (path / "dataset_info.json").is_file():
            return open_tfds_folder(path, split)
        return open_files(path.resolve().name, FolderFiles(path), split)
    if path.suffix.lower() == ".zip" and path.is_file():
        return open_files(path.stem, ZipFiles(path), split)
    if path.exists():
        raise UserError(f"{spec} is neither a folder nor a .zip of images; give one of these or a TFDS name")
    if path.is_absolute() or path.suffix.lower() == ".zip" or spec.startswith("."):
        raise UserError(f"no folder or .zip {spec}; check the path")
    return open_tfds(spec, split, data_dir and paths.expanded(data_dir))
