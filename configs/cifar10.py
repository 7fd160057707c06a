r"""CIFAR-10, 32 pixels: class names as prompts, the training set's other half as database.

The pictures lie in folders by class, data/cifar10/pictures/airplane/00001.png and so on; the other half of them, as a
folder of the same form, in data/cifar10/database.

  rdm train --config configs/cifar10.py:clip --workdir runs/cifar10/clip
  rdm train --config configs/cifar10.py:autoencoder --workdir runs/cifar10/autoencoder
  rdm export runs/cifar10/clip runs/cifar10/autoencoder --out runs/cifar10/base
  rdm database build data/cifar10/database --encoder runs/cifar10/base --out runs/cifar10/database_of_half
  rdm train --config configs/cifar10.py --workdir runs/cifar10/rdm
  rdm train --config configs/cifar10.py:ldm --workdir runs/cifar10/ldm
  rdm train --config configs/cifar10.py:judge --workdir runs/cifar10/judge
  for part in rdm ldm judge; do rdm export runs/cifar10/$part --out runs/cifar10/${part}_bundle; done
  python benchmarks/cifar10.py --out outputs/cifar10

Sized for one GPU in minutes or two CPU cores overnight. `ldm` is the twin without retrieval, of equal size and steps,
which sees the class names alone; `judge` is the independent classifier that benchmarks/cifar10.py asks.
"""

from pathlib import Path

from ml_collections import ConfigDict

from rdm_jax.core.errors import unknown
from rdm_jax.training.config import Config, load_config

STYLE_SCENES = Path(__file__).parent / "style_scenes"
ROOT = "runs/cifar10"


def get_config(part: str = "rdm") -> Config:
    """Returns the configuration of a part: "clip", "autoencoder", "rdm", "ldm" or "judge".

    Raises:
      UserError: there is no such part.
    """
    parts = {"clip": _clip, "autoencoder": _autoencoder, "rdm": _rdm, "ldm": _ldm, "judge": _judge}
    if part not in parts:
        raise unknown("part", part, parts)
    config = parts[part]()
    config.name = f"cifar10-{part}"
    config.data.update(source="data/cifar10/pictures", split="", held_out="", size=32)
    return config


def _clip() -> Config:
    config = load_config(str(STYLE_SCENES / "clip.py")).unlock()
    config.steps = 4_000
    config.tokenizer.vocab_size = 300
    config.shift = 3
    config.model.vision.patch_size = 4
    config.model.vision.image_size = 32
    return config


def _autoencoder() -> Config:
    config = load_config(str(STYLE_SCENES / "autoencoder.py")).unlock()
    config.crop = 32
    config.model.resolution = 32
    return config


def _rdm() -> Config:
    config = load_config(str(STYLE_SCENES / "rdm.py")).unlock()
    config.base = f"{ROOT}/base"
    config.steps = 40_000
    config.batch_size = 64
    config.data.neighbors = f"{ROOT}/neighbors"
    config.data.database = f"{ROOT}/database_of_half"
    config.data.compute.k = 8
    config.emphasis.style.neon = 1
    config.conditioning.text_probability = 0.2
    config.conditioning.shuffled_probability = 0.0
    config.sampling.update(database=f"{ROOT}/database_of_half", height=32, width=32)
    return config


def _ldm() -> Config:
    config = _rdm()
    config.conditioning.text_probability = 1.0
    config.conditioning.text_and_neighbors_probability = 0.0
    config.sampling.condition = "text"
    return config


def _judge() -> Config:
    config = load_config(str(STYLE_SCENES / "judge.py")).unlock()
    config.steps = 3_000
    config.attributes = ("folder",)
    config.unseen = ConfigDict()
    config.model.stem = (48,)
    return config
