"""Examples of a set that TensorFlow Datasets prepared as ArrayRecord, read without TensorFlow."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import functools
import importlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rdm_jax.core import images, paths
from rdm_jax.core.errors import UserError, bounded, first_line, unknown
from rdm_jax.core.files import sha256_json
from rdm_jax.core.progress import StageProgressCallback
from rdm_jax.data.examples import Example
from rdm_jax.data.fields import CAPTIONS, PATHS, class_name

# Sets that this package defines: their packages. Importing the module `builder` registers a set with TFDS.
OWN = {"icons": "rdm_jax.data.icons", "style_scenes": "rdm_jax.data.style_scenes"}


def open_tfds(name: str, split: str | None = None, data_dir: str | None = None) -> TfdsSource:
    """Opens a prepared set by name, such as "style_scenes/tiny" or "cifar10:3.0.2".

    Raises:
      UserError: there is no such set, it is not prepared as ArrayRecord, or it has no such split.
    """
    import tensorflow_datasets as tfds

    base = name.split("/", 1)[0].split(":", 1)[0]
    if base in OWN:
        importlib.import_module(f"{OWN[base]}.builder")
    _check_config(base, name.partition("/")[2].split(":", 1)[0])
    try:
        builder = tfds.builder(name, data_dir=data_dir)
    except tfds.core.DatasetNotFoundError as error:
        folder = paths.local(name).parent
        beside = [str(path) for path in folder.iterdir()] if folder.is_dir() else []
        names = {*OWN, *tfds.list_builders(with_community_datasets=False)}
        near = difflib.get_close_matches(name, beside, n=1) or difflib.get_close_matches(base, names, n=3)
        hint = f"did you mean {' or '.join(repr(other) for other in near)}?" if near else "check the path"
        raise UserError(f"no folder, .zip or TFDS set {name!r}; {hint}") from error
    except (ValueError, RuntimeError, AssertionError) as error:
        raise UserError(f"TFDS cannot open {name!r}: {first_line(error)}") from error
    return _from_builder(builder, split)


def open_tfds_folder(path: Path, split: str | None = None) -> TfdsSource:
    """Opens a prepared set by the folder that contains `dataset_info.json`.

    Raises:
      UserError: the folder cannot be read, its files are not ArrayRecord, or it has no such split.
    """
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder_from_directory(str(path))
    except Exception as error:
        raise UserError(f"TFDS cannot read the folder {path}: {first_line(error)}") from error
    return _from_builder(builder, split)


def prepare_own(name: str, data_dir: str | None = None, progress: StageProgressCallback | None = None) -> None:
    """Generates a set that this package defines, such as "style_scenes/tiny", unless it exists already.

    Args:
      name: of the set and its configuration.
      data_dir: the folder of TFDS data sets.
      progress: called with (stage, done, total) by the sets that take long.

    Raises:
      UserError: this package does not define the set, or it needs a download that is missing.
    """
    import tensorflow_datasets as tfds

    base, _, config = name.partition("/")
    if base not in OWN:
        raise unknown("procedural set", base, OWN, hint="or set data.prepare=False")
    importlib.import_module(f"{OWN[base]}.builder")
    _check_config(base, config)
    builder: Any = tfds.builder(name, data_dir=data_dir, file_format="array_record")
    if builder.is_prepared():
        return
    builder.progress = progress
    tfds.disable_progress_bar()
    with contextlib.redirect_stdout(None):  # TFDS would print that it downloads
        builder.download_and_prepare()


@dataclasses.dataclass(frozen=True)
class TfdsSource:
    """A split of a prepared set.

    Attributes:
      name: the name of the set.
      captions: where the captions come from.
      rows: the records.
      image: the first image feature, which is the example's image.
      caption: the feature of the caption, None if there is none.
      path: the feature of the path, None if there is none.
      class_labels: the class-label features; these and all other scalar features are attributes.
      identity: what the fingerprint hashes.
      shard_lengths: the number of the split's examples in each file of the set.
    """

    name: str
    captions: str
    rows: Sequence[Mapping[str, Any]]
    image: str
    caption: str | None
    path: str | None
    class_labels: Mapping[str, Any]
    identity: tuple[str, ...]
    shard_lengths: tuple[int, ...]

    @property
    def fingerprint(self) -> str:
        """A hash over the set's name, configuration, version, features, split and shard sizes."""
        return self._fingerprint

    @functools.cached_property
    def _fingerprint(self) -> str:
        return sha256_json(list(self.identity))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Example:
        row = self._row(index)
        path = self._path(row, index)
        try:
            image = images.decode(row[self.image])
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        return Example(image, self._caption(row), path, self._attributes(row))

    def labels(self, index: int) -> Mapping[str, str]:
        """Returns the path, the caption and the attributes of an example; without attributes if it cannot be read."""
        try:
            row = self._row(index)
        except ValueError:
            return {"path": _number(index), "caption": ""}
        return {**self._attributes(row), "path": self._path(row, index), "caption": self._caption(row)}

    def _row(self, index: int) -> Mapping[str, Any]:
        try:
            return self.rows[index]
        except MemoryError:
            raise
        except Exception as error:  # a damaged record raises anything; it concerns this example only
            raise ValueError(f"{_number(index)}: damaged record: {first_line(error)}") from error

    def _path(self, row: Mapping[str, Any], index: int) -> str:
        return self._value(row, self.path) if self.path else _number(index)

    def _caption(self, row: Mapping[str, Any]) -> str:
        return self._value(row, self.caption) if self.caption else ""

    def _attributes(self, row: Mapping[str, Any]) -> dict[str, str]:
        others = (self.image, self.caption, self.path)
        return {name: self._value(row, name) for name in row if name not in others and _scalar(row[name])}

    def _value(self, row: Mapping[str, Any], name: str) -> str:
        value = row[name]
        if name in self.class_labels:
            return class_name(self.class_labels[name], int(value))
        if not _scalar(value):
            value = value[0] if len(value) else ""
        return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _from_builder(builder: Any, split: str | None) -> TfdsSource:
    import tensorflow_datasets as tfds

    info = builder.info
    name = f"{builder.name}/{builder.builder_config.name}" if builder.builder_config else builder.name
    if not info.splits:
        raise UserError(f"TFDS set {name} is not prepared in {builder.data_dir}; {_how_to_prepare(builder)}")
    split = split or ("train" if "train" in info.splits else next(iter(info.splits)))
    if split.split("[", 1)[0].split("+", 1)[0] not in (*info.splits, "all"):
        raise unknown("split", split, info.splits, hint=f"of the TFDS set {name}; slices such as train[:1000] work too")
    features = dict(info.features.items())
    image = next((key for key, feature in features.items() if isinstance(feature, tfds.features.Image)), None)
    if image is None:
        raise UserError(f"TFDS set {name} has no image feature (only {', '.join(features)}); choose a set of images")
    with bounded(f"TFDS set {name}, split {split!r}, cannot be read", "check the split and the set's files"):
        rows = builder.as_data_source(split, decoders={image: tfds.decode.SkipDecoding()})
    labels = {key: feature for key, feature in features.items() if isinstance(feature, tfds.features.ClassLabel)}
    caption = next((key for key in (*CAPTIONS, *labels) if key in features), None)
    return TfdsSource(
        name=builder.name,
        captions=f"feature {caption!r}" if caption else "none",
        rows=rows,
        image=image,
        caption=caption,
        path=next((key for key in PATHS if key in features), None),
        class_labels=labels,
        identity=(info.full_name, split, json.dumps(info.features.to_json(), sort_keys=True), *_shards(info)),
        shard_lengths=tuple(part.take for part in info.splits[split].file_instructions),
    )


def _check_config(base: str, config: str) -> None:
    import tensorflow_datasets as tfds

    configs: Mapping[str, Any] = {}
    # The code of a prepared set may be missing; then its configurations are unknown.
    with contextlib.suppress(tfds.core.DatasetNotFoundError, ValueError):
        configs = tfds.builder_cls(base).builder_configs
    if config and configs and config not in configs:
        raise unknown("configuration", config, configs, hint=f"of the TFDS set {base}")


def _how_to_prepare(builder: Any) -> str:
    if builder.name not in OWN:
        return "prepare it there with download_and_prepare(file_format='array_record'), or give --data-dir"
    config = f" --config {builder.builder_config.name}" if builder.builder_config else ""
    root = Path(builder.data_dir).parents[
        2 if builder.builder_config else 1
    ]  # the path below it is name/configuration/version
    return f"make it with: python -m {OWN[builder.name]} --data-dir {root}{config}"


def _shards(info: Any) -> tuple[str, ...]:
    return tuple(f"{name}:{part.num_bytes}:{list(part.shard_lengths)}" for name, part in sorted(info.splits.items()))


def _number(index: int) -> str:
    return f"{index:08d}"


def _scalar(value: Any) -> bool:
    return isinstance(value, (bytes, str)) or np.ndim(value) == 0
