r"""CIFAR-10, 32 pixels: class names as prompts, one half of the training set as database.

The images are in folders by class, data/cifar10/images/airplane/00001.png and so on; the other half of them, as a
folder of the same form, in data/cifar10/database.

  rdm train --config cifar10:clip --workdir runs/cifar10/clip
  rdm train --config cifar10:autoencoder --workdir runs/cifar10/autoencoder
  rdm export runs/cifar10/clip runs/cifar10/autoencoder --out runs/cifar10/base
  rdm database build data/cifar10/database --encoder runs/cifar10/base --out runs/cifar10/database_of_half
  rdm train --config cifar10 --workdir runs/cifar10/rdm
  rdm train --config cifar10:ldm --workdir runs/cifar10/ldm
  rdm train --config cifar10:classifier --workdir runs/cifar10/classifier
  for part in rdm ldm classifier; do rdm export runs/cifar10/$part --out runs/cifar10/${part}_bundle; done
  python benchmarks/cifar10.py --out outputs/cifar10

Sized for one GPU in minutes or two CPU cores overnight. `ldm` is the baseline without retrieval, of equal size and
steps, conditioned on class names alone; `classifier` is the independent one of benchmarks/cifar10.py.
"""

from rdm_jax.core.errors import unknown
from rdm_jax.training.config import Config, base_config

ROOT = "runs/cifar10"


def get_config(part: str = "rdm") -> Config:
    """Returns what the run of a part sets: "clip", "autoencoder", "rdm", "ldm" or "classifier".

    Raises:
      UserError: there is no such part.
    """
    parts = {"clip": _clip, "autoencoder": _autoencoder, "rdm": _rdm, "ldm": _ldm, "classifier": _classifier}
    if part not in parts:
        raise unknown("part", part, parts)
    config = parts[part]()
    config.update({"name": f"cifar10-{part}", "data": {"source": "data/cifar10/images", "split": "", "size": 32}})
    return config


def _clip() -> Config:
    config = base_config("style_scenes/clip")
    vision = {"patch_size": 4, "image_size": 32}
    tokenizer, data = {"vocab_size": 300}, {"held_out": ""}
    config.update({"steps": 4_000, "tokenizer": tokenizer, "shift": 3, "data": data, "model": {"vision": vision}})
    return config


def _autoencoder() -> Config:
    config = base_config("style_scenes/autoencoder")
    config.update({"data": {"held_out": ""}, "model": {"resolution": 32}})
    return config


def _rdm() -> Config:
    config = base_config("style_scenes/rdm")
    config.emphasis = {}
    config.update(
        {
            "base": f"{ROOT}/base",
            "steps": 40_000,
            "batch_size": 64,
            "data": {
                "neighbors": f"{ROOT}/neighbors",
                "database": f"{ROOT}/database_of_half",
                "compute": {"k": 8},
            },
            "conditioning": {"text_probability": 0.2, "shuffled_probability": 0.0},
            "sampling": {"database": f"{ROOT}/database_of_half", "height": 32, "width": 32},
        }
    )
    return config


def _ldm() -> Config:
    config = _rdm()
    conditioning = {"text_probability": 1.0, "text_and_neighbors_probability": 0.0}
    config.update({"conditioning": conditioning, "sampling": {"condition": "text"}})
    return config


def _classifier() -> Config:
    config = base_config("style_scenes/classifier")
    config.unseen = {}
    config.update({"steps": 3_000, "attributes": ("folder",), "data": {"held_out": ""}, "model": {"stem": (48,)}})
    return config
