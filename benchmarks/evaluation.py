"""Feature extraction beside torch-fidelity on the same files with the same weights, and the memory of statistics.

make parity                                                                    # installs what it needs
PYTHONPATH=.venv-parity/vision .venv-parity/bin/python benchmarks/evaluation.py  # --images 128, --rounds 5

Both read PNG files of 256 pixels, resize them as TensorFlow did and evaluate the Inception of the Fréchet distance,
with random weights, in float32. Rounds are interleaved; the largest difference of the features is printed.
"""

from __future__ import annotations

import argparse
import importlib
import os
import re
import statistics
import sys
import tempfile
import tracemalloc
from pathlib import Path
from typing import Any
from unittest import mock

# Otherwise PyTorch's threads spin for a while after each call and take time from the other program.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import numpy as np
from machine import machine
from PIL import Image
from rounds import interleave, paired

from rdm_jax.bundle import Bundle
from rdm_jax.convert.conversion import convert
from rdm_jax.evaluation.features.extraction import extract
from rdm_jax.evaluation.features.image_sets import open_images
from rdm_jax.evaluation.features.networks import FeatureNetwork
from rdm_jax.evaluation.metrics.frechet import Moments

SIDE, WIDTH = 256, 2048
COUNTS = (500, 5_000, 50_000)


def write_images(folder: Path, count: int) -> None:
    """Writes smooth random images as PNG files."""
    for number in range(count):
        small = np.random.default_rng(number).integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(small).resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(folder / f"{number:05d}.png")


def library(name: str) -> Any:
    """Returns a module that only this comparison needs; ends the program if it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        sys.exit(f"benchmarks/evaluation.py: {error.name} is not installed; see the docstring")


def name_operators(torch: Any) -> None:
    """Names torchvision's operators, which are never called here, where its build does not fit that of PyTorch."""
    operators = torch.library.Library("torchvision", "FRAGMENT")
    while True:
        try:
            importlib.import_module("torchvision")
            return
        except ImportError:
            library("torchvision")
        except RuntimeError as error:
            missing = re.search(r"torchvision::(\w+)", str(error))
            if missing is None:
                raise
            operators.define(f"{missing[1]}(Tensor x) -> Tensor")
            for name in [name for name in sys.modules if name.startswith("torchvision")]:
                del sys.modules[name]


def torch_extractor(weights: Path) -> Any:
    """Returns torch-fidelity's network with random weights, and writes them to a file."""
    torch = library("torch")
    name_operators(torch)
    network = library("torch_fidelity.feature_extractor_inceptionv3").FeatureExtractorInceptionV3
    torch.manual_seed(0)
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    extractor = network.__new__(network)

    def save(module: Any, state: Any) -> None:
        torch.save(module.state_dict(), weights)

    with (
        mock.patch.object(torch.nn.Module, "load_state_dict", save),
        mock.patch.object(torch, "load", lambda *_, **__: {}),
    ):
        extractor.__init__("random", ["2048"], feature_extractor_weights_path="none")
    return extractor.eval()


def speed(count: int, rounds: int, batch: int) -> None:
    """Prints the time of both programs over the same files."""
    with tempfile.TemporaryDirectory() as name:
        folder, images = Path(name), Path(name) / "images"
        images.mkdir()
        write_images(images, count)
        extractor = torch_extractor(folder / "weights.pth")
        read = library("torch_fidelity.utils").extract_featuresdict_from_input_id
        convert(folder / "weights.pth").write(folder / "bundle")
        network = FeatureNetwork(Bundle.open(folder / "bundle"), "inception", "legacy_tensorflow", batch=batch)
        found: dict[str, np.ndarray] = {}

        def ours() -> None:
            features = extract(open_images(images), [network], True)[1][0].features
            assert features is not None
            found["ours"] = features

        def theirs() -> None:
            found["theirs"] = torch_features(read, images, extractor, batch)

        for program in (ours, theirs):  # the first one compiles, and the files are in the system's cache then
            program()
        difference = np.abs(found["ours"] - found["theirs"]).max() / np.abs(found["theirs"]).max()
        print(f"largest difference of features: {difference:.1e} of the largest one")
        times = interleave({"rdm_jax": ours, "torch-fidelity": theirs}, rounds)
        print(f"\n{count} images, batches of {batch}, medians of {rounds} rounds\n\n| program | images per second |")
        print("| --- | --- |")
        for program, seconds in times.items():
            print(f"| {program} | {count / statistics.median(seconds):.1f} |")
        print(f"\nrdm_jax takes {paired(times['rdm_jax'], times['torch-fidelity']):.2f} of torch-fidelity's time")


def torch_features(function: Any, images: Path, extractor: Any, batch: int) -> np.ndarray:
    """Returns torch-fidelity's features of a folder's files, in the order of their names."""
    # Without worker processes: they take longer to start than so few files to decode.
    options = {"cuda": False, "verbose": False, "save_cpu_ram": True, "input1": str(images), "batch_size": batch}
    return function(1, extractor, **options)["2048"].numpy()


def memory() -> None:
    """Prints the peak memory of means and covariances of features that come in batches."""
    print(f"\nstatistics of {WIDTH} features in batches of 64\n\n| images | peak memory, MB |\n| --- | --- |")
    generator = np.random.default_rng(0)
    for count in COUNTS:
        tracemalloc.start()
        moments = Moments.empty(WIDTH)
        for start in range(0, count, 64):
            moments = moments.add(generator.standard_normal((min(64, count - start), WIDTH), np.float32))
        print(f"| {count:,} | {tracemalloc.get_traced_memory()[1] / 1e6:.0f} |")
        tracemalloc.stop()


def main() -> None:
    """Runs both parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--only", choices=("speed", "memory"))
    args = parser.parse_args()
    print(machine())
    if args.only != "memory":
        speed(args.images, args.rounds, args.batch)
    if args.only != "speed":
        memory()


if __name__ == "__main__":
    main()
