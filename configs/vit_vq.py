"""ViT-VQGAN at 256 pixels, and the larger decoder of Parti's tokenizer (arXiv 2110.04627; 2206.10789, section 2.1).

  rdm train --config vit_vq --workdir gs://BUCKET/runs/vit_vq --config.loss.perceptual.bundle=runs/lpips
  rdm export gs://BUCKET/runs/vit_vq --out runs/vit_vq_small
  rdm train --config vit_vq:decoder --workdir gs://BUCKET/runs/vit_vq_large --init-from runs/vit_vq_small

The second run keeps encoder and codebook, and trains a decoder of 589 M parameters. LPIPS needs its converted weights
(`rdm convert`). Weights of the loss are those of the paper without its logit-Laplace term, which the released program
omits too; pixels are in [0, 1] there and in [-1, 1] here, where a squared error is four times as large. The
discriminator is that of patches with the hinge loss; the paper's is StyleGAN's. Rate, steps and batch are ours.
"""

from typing import Any

from rdm_jax.core.errors import unknown
from rdm_jax.training.config import load_architecture


def get_config(stage: str = "") -> dict[str, Any]:
    """Returns what a run sets: of the small model, or with "decoder" of the larger decoder alone.

    Raises:
      UserError: there is no such stage.
    """
    if stage not in ("", "decoder"):
        raise unknown("stage", stage, ["decoder"])
    decoder = stage == "decoder"
    name = "vit_vq_large" if decoder else "vit_vq_small"
    return {
        "task": "first_stage",
        "name": name.replace("_", "-"),
        "steps": 500_000,
        "batch_size": 256,
        "crop": 256,
        "init_partial": decoder,
        "log_every": 100,
        "eval_every": 5_000,
        "figures_every": 5_000,
        "checkpoint_every": 5_000,
        "ema_decay": 0.9999,
        "threads": 16,
        "mesh": {"fsdp": 8},
        "optimizer": {
            "learning_rate": 1e-4,
            "warmup": 5_000,
            "decay": "cosine",
            "b1": 0.9,
            "b2": 0.99,
            "weight_decay": 1e-4,
            "frozen": ("autoencoder/((encoder|quant)/.*|codebook)",) if decoder else (),
        },
        "data": {"source": "open_images_v4", "data_dir": "", "size": 384, "cache": False},
        "loss": {
            "absolute_weight": 0.0,
            "squared_weight": 0.25,
            "codebook_weight": 1.0,
            "perceptual": {"kind": "lpips", "weight": 0.1},
            "adversarial": {"weight": 0.1, "adaptive": False},
        },
        "model": load_architecture(name).autoencoder.to_dict() | {"dtype": "bfloat16"},
    }
