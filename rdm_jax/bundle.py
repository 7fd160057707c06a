"""A model on disk: config.json, tokenizer.json and one safetensors file for each part; opens, saves and lists them.

A bundle may hold only some of the parts (`rdm_jax.parts`): an encoder is sufficient for databases, an encoder and an
autoencoder for the start of training a diffusion model.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rdm_jax.core import files, hub, paths, storage, stored_arrays, text, trees, values
from rdm_jax.core.errors import UserError, unknown
from rdm_jax.parts import PARTS, SECTIONS, build, check

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SCHEMA = 2
CONFIG = "config.json"
TOKENIZER = "tokenizer.json"
TOKENIZERS = {"tokenizer": TOKENIZER, "noised_tokenizer": "noised_tokenizer.json"}
"""By the attribute of a bundle, which its config.json has among the hashes: the file of a tokenizer."""
DTYPES = ("float32", "bfloat16")
PARTS_OF = "parts_of"  # in config.json, the embedded bundle that holds the files which the folder lacks
EMBEDDED = Path(__file__).parent / "assets" / "models"


@dataclasses.dataclass(frozen=True)
class Bundle:
    """The parts of a model, their configuration and their parameters.

    Attributes:
      config: the content of config.json: a name, the schema, a section for each part, and defaults of sampling.
      params: {part: nested dictionary of arrays}, float32 but for a generative network opened in another type.
      tokenizer: of the text tower; None without a text tower.
      path: the folder that it was read from; None for a bundle in memory.
      noised_tokenizer: of the text tower of a CLIP of noisy images; None without one.
    """

    config: dict[str, Any]
    params: dict[str, Any]
    tokenizer: PreTrainedTokenizerFast | None = None
    path: Path | None = None
    noised_tokenizer: PreTrainedTokenizerFast | None = None

    def __post_init__(self) -> None:
        """Checks that the configuration and the parameters fit (see `rdm_jax.parts.check`)."""
        check(self.config, self.params)

    @staticmethod
    def names() -> list[str]:
        """Returns the names of the bundles that ship with the package."""
        return sorted(path.parent.name for path in EMBEDDED.glob("*/config.json"))

    @staticmethod
    def open(name_or_path: str | Path, *, parts: Iterable[str] = PARTS, dtype: str = "float32") -> Bundle:
        """Opens an embedded bundle by its name or any bundle by its folder or address.

        Args:
          name_or_path: the name, the folder, or an address (see `locate`).
          parts: the parts to read, if the bundle has them.
          dtype: a name in `DTYPES`: the type of the generative network's computation and parameters. The other parts
            stay in float32: they take little of the time, and databases depend on CLIP's output.

        Raises:
          UserError: there is no such bundle, a file of it is missing, damaged or not the one that its config names, or
            `dtype` is unknown.
        """
        if dtype not in DTYPES:
            raise unknown("dtype", dtype, DTYPES)
        path = locate(name_or_path)
        config = read_config(path)
        present = [part for part in PARTS if part in config]
        chosen = [part for part in present if part in set(parts)]
        config = {key: value for key, value in config.items() if key not in present or key in chosen}
        params = {}
        for part in chosen:
            own = dtype if PARTS[part].chooses_dtype else "float32"
            params[part] = _read_part(path, part, config, own)
            if own != config[part].get("dtype", "float32") and PARTS[part].chooses_dtype:
                config[part] = {**config[part], "dtype": own}
        own, noised = (_read_tokenizer(path, config, name) for name in TOKENIZERS)
        return Bundle(config, params, own, path, noised)

    def save(self, path: Path, dtype: str = "float16", parts_of: str | None = None) -> None:
        """Writes the bundle to a new folder atomically.

        Args:
          path: the folder.
          dtype: a name in `stored_arrays.DTYPES`; int8 is that of the generative network's kernels.
          parts_of: the name of an embedded bundle; files that are equal to its own are left out, and read there.

        Raises:
          UserError: `path` exists or cannot be written, or `dtype` or the embedded bundle is unknown.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import save_file

        stored_arrays.check_dtype(dtype)

        elsewhere = read_config(_embedded(parts_of))["sha256"] if parts_of else {}
        config = {key: value for key, value in self.config.items() if key != PARTS_OF}
        config |= {PARTS_OF: parts_of} if parts_of else {}
        with files.writing(path), files.new_directory(path) as folder:
            hashes = {}
            for part in self.params:
                flat = trees.flatten(self.params[part])
                target = folder / f"{part}.safetensors"
                with files.library_writes(SafetensorError), files.replaced(target) as new:
                    save_file(stored_arrays.to_stored(flat, dtype, PARTS[part].chooses_dtype), new)
                hashes[part] = _kept_hash(target, elsewhere.get(part))
            for name, file in TOKENIZERS.items():
                if (own := getattr(self, name)) is not None:
                    files.write_bytes(folder / file, tokenizer_bytes(own))
                    hashes[name] = _kept_hash(folder / file, elsewhere.get(name))
            files.write_json(folder / CONFIG, {**config, "schema": SCHEMA, "sha256": hashes})

    @property
    def dtype(self) -> str:
        """The type that the generative network computes in."""
        chosen = [self.config[part].get("dtype", "float32") for part in self.params if PARTS[part].chooses_dtype]
        return str(chosen[0]) if chosen else "float32"

    def has(self, part: str) -> bool:
        """Returns whether the bundle holds a part."""
        return part in self.params

    def require(self, *parts: str) -> None:
        """Raises UserError unless the bundle holds all the parts."""
        missing = [part for part in parts if part not in self.params]
        if missing:
            raise UserError(
                f"model {self.name!r} has no {' and no '.join(missing)}; it holds {', '.join(self.params) or 'nothing'}"
            )

    @property
    def name(self) -> str:
        """The model's name."""
        return str(self.config.get("name", "unnamed"))

    def __getattr__(self, part: str) -> Any:
        """The module of a part, a name in `rdm_jax.parts.PARTS`, as an attribute: `bundle.denoiser`."""
        if part not in PARTS or part not in self.config:
            raise AttributeError(f"{type(self).__name__} has no attribute {part!r}")
        return build(self.config, part)

    @functools.cached_property
    def hashes(self) -> dict[str, str]:
        """The SHA-256 of each part and of the tokenizer: of the files, or of the arrays in memory."""
        recorded = self.config.get("sha256", {}) if self.path else {}
        hashes = {part: recorded.get(part) or trees.digest(self.params[part]) for part in self.params}
        for name in TOKENIZERS:
            if (own := getattr(self, name)) is not None:
                hashes[name] = recorded.get(name) or hashlib.sha256(tokenizer_bytes(own)).hexdigest()
        return hashes

    @property
    def digest(self) -> str:
        """One SHA-256 over the hashes of all parts."""
        return files.sha256_json(self.hashes)

    @property
    def encoder_identity(self) -> dict[str, Any]:
        """The record of the encoder in its databases: its name, the hash of its weights and its width."""
        self.require("clip")
        return _identity(self.config, self.hashes["clip"])


def tokenizer_bytes(tokenizer: PreTrainedTokenizerFast) -> bytes:
    """Returns the content of a tokenizer's file."""
    return tokenizer.backend_tokenizer.to_str().encode()


def merge(bundles: Mapping[str, Bundle] | list[Bundle], **config: Any) -> Bundle:
    """Merges bundles into one: later ones replace parts and settings of earlier ones; `config` is last.

    The records of the training of each part are merged too.
    """
    bundles = list(bundles.values()) if isinstance(bundles, Mapping) else bundles
    settings: dict[str, Any] = {}
    params: dict[str, Any] = {}
    tokenizers = dict.fromkeys(TOKENIZERS)
    for bundle in bundles:
        training = settings.get("training", {}) | bundle.config.get("training", {})
        settings |= {key: value for key, value in bundle.config.items() if key != "sha256"}
        settings |= {"training": training} if training else {}
        params |= bundle.params
        tokenizers = {name: getattr(bundle, name) or known for name, known in tokenizers.items()}
    return Bundle(settings | config, params, **tokenizers)


def with_fine_first_stage(model: Bundle, other: Bundle) -> Bundle:
    """Returns a model with the first stage of another one as its finer first stage.

    Raises:
      UserError: the other one has no first stage, or the model has a second stage of codes that does not fit it.
    """
    other.require("autoencoder")
    training = {**model.config.get("training", {})}
    if "autoencoder" in other.config.get("training", {}):
        training |= {"fine_autoencoder": other.config["training"]["autoencoder"]}
    fine = Bundle({"fine_autoencoder": other.config["autoencoder"]}, {"fine_autoencoder": other.params["autoencoder"]})
    return merge([model, fine], training=training)


def locate(name_or_path: str | Path) -> Path:
    """Returns the folder of an embedded bundle by its name, or the folder itself; an address is copied first.

    Args:
      name_or_path: the name, the folder, an address in object storage, or hf://USER/NAME[@REVISION] (`core.hub`).

    Raises:
      UserError: there is no such bundle, or it cannot be copied.
    """
    if str(name_or_path) in Bundle.names():
        return EMBEDDED / str(name_or_path)
    if hub.is_address(name_or_path):
        return hub.downloaded(str(name_or_path), REPOSITORY)
    if paths.is_remote(name_or_path):
        return storage.staged(str(name_or_path), CONFIG)
    path = paths.local(name_or_path)
    if path.is_dir():
        return path
    raise unknown("model", str(name_or_path), Bundle.names(), hint="or give the folder of a bundle, or hf://USER/NAME")


def file_hashes(config: Mapping[str, Any]) -> dict[str, str]:
    """Returns {name: SHA-256} of the files that a bundle's folder must hold, by its config.json.

    Files that are those of the embedded bundle that it takes parts from are not among them.
    """
    elsewhere = read_config(_embedded(config[PARTS_OF]))["sha256"] if PARTS_OF in config else {}
    own = {key: digest for key, digest in config["sha256"].items() if elsewhere.get(key) != digest}
    return {TOKENIZERS.get(key, f"{key}.safetensors"): digest for key, digest in own.items()}


REPOSITORY = hub.Kind("model bundle", "model", CONFIG, file_hashes)
"""A bundle on the Hugging Face Hub."""


def _embedded(name: str) -> Path:
    """Returns the folder of an embedded bundle; raises UserError if none has this name."""
    if name not in Bundle.names():
        raise unknown("embedded model", name, Bundle.names())
    return EMBEDDED / name


def file_of(path: Path, name: str, config: Mapping[str, Any]) -> Path:
    """Returns a file of a bundle, which may be that of the embedded bundle that it takes parts from."""
    own = path / name
    return own if own.is_file() or PARTS_OF not in config else _embedded(config[PARTS_OF]) / name


def _kept_hash(file: Path, elsewhere: str | None) -> str:
    """Returns the SHA-256 of a new file, which is deleted if it is that of the file elsewhere."""
    digest = files.sha256(file)
    if digest == elsewhere:
        file.unlink()
    return digest


def read_config(path: Path) -> dict[str, Any]:
    """Returns a bundle's config.json; raises UserError if it is missing, damaged or of another schema."""
    file = path / CONFIG
    try:
        config = text.read_json(file)
    except FileNotFoundError as error:
        raise UserError(f"{path} is no model bundle: it has no config.json") from error
    except (OSError, ValueError) as error:
        raise UserError(f"damaged bundle {path}: config.json cannot be read ({error})") from error
    if not isinstance(config, dict) or config.get("schema") != SCHEMA:
        raise UserError(
            f"bundle {path} has schema {config.get('schema') if isinstance(config, dict) else config!r}, "
            f"and this version reads schema {SCHEMA}; export it again"
        )
    parts = [part for part in PARTS if part in config]
    needed = [*parts, *(section for part in parts for section in PARTS[part].sections)]
    wrong = [key for key in dict.fromkeys(needed) if not isinstance(config.get(key), dict)]
    if "clip" in config and "clip" not in wrong:
        wrong += [f"clip.{key}" for key in ("embed_dim", "vision", "text") if key not in config["clip"]]
    if wrong:
        raise UserError(f"damaged bundle {path}: config.json lacks {', '.join(wrong)}; export or convert it again")
    return config


def override(config: Mapping[str, Any], changes: Sequence[str]) -> dict[str, Any]:
    """Returns a bundle's configuration with changed settings of sampling; "overrides" records the changes.

    Args:
      config: of the bundle.
      changes: each "section.key=value", of a section in `parts.SECTIONS`; its value is of the key's type now.

    Raises:
      UserError: there is no such key, no value, or one of another type.
    """
    changed = copy.deepcopy(dict(config))
    known = [f"{section}.{key}" for section in SECTIONS for key in config.get(section, {})]
    for change in changes:
        key, equals, written = change.partition("=")
        if not equals:
            raise UserError(f"setting {change} has no value; write {change}=VALUE")
        if key not in known:
            raise unknown("setting", key, known)
        section, _, name = key.partition(".")
        old = changed[section][name]
        try:
            value = values.parse(values.kind_of(old), written)
        except ValueError as error:
            raise UserError(f"setting {change}: {error}; now it is {old!r}") from error
        changed[section][name] = list(value) if isinstance(value, tuple) else value
    return {**changed, "overrides": [*config.get("overrides", []), *changes]} if changes else changed


def encoder_identity(path: Path) -> dict[str, Any]:
    """Returns the record of a bundle's CLIP in databases, without reading weights; raises UserError without a CLIP."""
    config = read_config(path)
    if "clip" not in config:
        raise UserError(f"model {path} has no clip, and databases need one; convert or export it with a CLIP")
    return _identity(config, config.get("sha256", {}).get("clip", ""))


def _identity(config: dict[str, Any], sha256: str) -> dict[str, Any]:
    name, width = str(config.get("name", "unnamed")), int(config["clip"]["embed_dim"])
    return {"name": name, "sha256": sha256, "width": width}


def _read_part(path: Path, part: str, config: dict[str, Any], dtype: str) -> dict[str, Any]:
    """Returns a part's parameters, each copied on its own from the mapped file, which needs no further memory."""
    from safetensors import SafetensorError, safe_open

    file = file_of(path, f"{part}.safetensors", config)
    if not file.is_file():
        raise UserError(f"damaged bundle {path}: {file.name} is missing; export or convert the model again")
    if files.sha256(file) != config.get("sha256", {}).get(part):
        raise UserError(
            f"damaged bundle {path}: the SHA-256 of {file.name} is not the one in config.json; copy it again"
        )
    try:
        with safe_open(file, "numpy") as stored:
            flat = stored_arrays.from_stored(stored.get_tensor, stored.keys(), dtype)
    except (SafetensorError, OSError) as error:
        raise UserError(f"damaged bundle {path}: {file.name} cannot be read ({error})") from error
    return trees.unflatten(flat)


def _read_tokenizer(path: Path, config: dict[str, Any], name: str) -> PreTrainedTokenizerFast | None:
    from rdm_jax.data.tokenizer import load_tokenizer

    file = file_of(path, TOKENIZERS[name], config)
    recorded = config.get("sha256", {}).get(name)
    if not file.is_file():
        if recorded:
            raise UserError(f"damaged bundle {path}: {TOKENIZERS[name]} is missing; export or convert the model again")
        return None
    if recorded and files.sha256(file) != recorded:
        raise UserError(
            f"damaged bundle {path}: the SHA-256 of {TOKENIZERS[name]} is not the one in config.json; copy it again"
        )
    try:
        return load_tokenizer(file)
    except Exception as error:  # tokenizers raises bare Exception on a damaged file
        raise UserError(f"damaged bundle {path}: {TOKENIZERS[name]} cannot be read ({error})") from error
