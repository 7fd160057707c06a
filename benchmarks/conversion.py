"""The time and the peak memory of `rdm convert` for a checkpoint of a released model's size with random weights.

python benchmarks/conversion.py --model rdm_768 --folder FOLDER   # needs 17 GB in FOLDER for a while
"""

from __future__ import annotations

import argparse
import dataclasses
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from machine import machine

from rdm_jax.convert import compvis, compvis_config
from rdm_jax.convert.torch_file import write_state_dict
from rdm_jax.models import abstract_params, build_autoencoder, build_denoiser
from rdm_jax.training.config import load_architecture


@dataclasses.dataclass(frozen=True)
class Random:
    """A tensor of random numbers, which are generated when it is written."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype = dataclasses.field(default_factory=lambda: np.dtype(np.float32))

    def read(self) -> np.ndarray:
        """Returns the numbers; the same name gives the same numbers."""
        return np.random.default_rng(zlib.crc32(self.name.encode())).standard_normal(self.shape, np.float32)


@dataclasses.dataclass(frozen=True)
class Zero:
    """Stands for the parameters of a network of which only the shapes matter; takes no memory."""

    shapes: dict[str, Any]

    def __iter__(self) -> Any:
        return iter(self.shapes)

    def __getitem__(self, path: str) -> np.ndarray:
        return np.broadcast_to(np.float32(0), self.shapes[path].shape)


def checkpoint(config: dict[str, Any], folder: Path) -> Path:
    """Writes a checkpoint of random weights, raw and EMA, with its yaml."""
    from rdm_jax.convert.mapping import disassemble

    unet, autoencoder = build_denoiser(config["denoiser"]), build_autoencoder(config["autoencoder"])
    parts: Any = Zero(abstract_params(unet)), Zero(abstract_params(autoencoder))
    names = disassemble(parts[0], compvis.unet_source(unet)) | disassemble(parts[1], compvis.autoencoder_source)
    names |= disassemble(parts[0], compvis.unet_source(unet, ema=True))
    (folder / "model.yaml").write_text(compvis_config.to_yaml(config))
    write_state_dict(folder / "model.ckpt", {name: Random(name, tensor.shape) for name, tensor in names.items()})
    return folder / "model.ckpt"


def main() -> None:
    """Prints size, seconds and peak memory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="rdm_imagenet", help="a file of configs/models (%(default)s)")
    parser.add_argument("--folder", type=Path, help="for temporary files (default: the system's folder)")
    args = parser.parse_args()
    config = load_architecture(args.model).to_dict()
    folder = Path(tempfile.mkdtemp(dir=args.folder, prefix="conversion-"))
    try:
        file = checkpoint(config, folder)
        start = time.perf_counter()
        command = [sys.executable, "-c", "from rdm_jax.cli.main import main; raise SystemExit(main())", "convert"]
        subprocess.run([*command, str(file), "--out", str(folder / "bundle")], check=True)
        seconds = time.perf_counter() - start
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
        bundle = sum(path.stat().st_size for path in (folder / "bundle").iterdir())
        print(f"{machine()}\n")
        print("| model | checkpoint, GB | bundle, GB | seconds | peak memory, GiB |\n|---|---|---|---|---|")
        print(f"| {args.model} | {file.stat().st_size / 1e9:.2f} | {bundle / 1e9:.2f} | {seconds:.0f} | {peak:.2f} |")
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
