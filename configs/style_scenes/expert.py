r"""An expert for a range of noise of the model of `style_scenes/rdm` (eDiff-I, arXiv 2211.01324), grown from it.

The tree is the paper's: its two ends are experts, of the last quarter of the training noise and of the first, and the
undivided model keeps what lies between.

rdm export runs/rdm --out runs/undivided
rdm train --config style_scenes/expert:noise --workdir runs/noise --init-from runs/undivided
rdm train --config style_scenes/expert:image --workdir runs/image --init-from runs/undivided
rdm export runs/undivided --experts runs/noise runs/image --out runs/experts
"""

from typing import Any

from rdm_jax.core.errors import unknown
from rdm_jax.training.config import base_config

LEVEL = 2
ENDS = {"noise": 2**LEVEL - 1, "image": 0}


def get_config(end: str = "noise") -> dict[str, Any]:
    """Returns what a run on one of `ENDS` sets.

    Raises:
      UserError: there is no such end.
    """
    if end not in ENDS:
        raise unknown("end of the noise", end, ENDS)
    parent = base_config("style_scenes/rdm").to_dict()
    return {
        **parent,
        "name": f"style-scenes-{end}",
        "steps": parent["steps"] // 6,
        "optimizer": {**parent["optimizer"], "learning_rate": parent["optimizer"]["learning_rate"] / 2},
        "expert_level": LEVEL,
        "expert_index": ENDS[end],
    }
