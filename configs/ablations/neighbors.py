"""Number of neighbors at training and at sampling.

  rdm ablate ablations/neighbors --workdir runs/ablations/neighbors
  rdm ablate ablations/neighbors:paper --workdir runs/neighbors --dry-run

A model of each number at training generates with each number at sampling. The small trainings continue the embedded
model, which was trained with three neighbors; those of the paper's size start from nothing.
"""

from typing import Any

from rdm_jax.ablation import recipes


def get_config(scale: str = "") -> dict[str, Any]:
    """Returns the grid, at the small scale or at that of the paper.

    Raises:
      UserError: there is no such scale.
    """
    paper = recipes.is_paper(scale)
    numbers = (1, 2, 4, 8, 16) if paper else (1, 4, 8)
    training = "run.conditioning.neighbors,run.conditioning.candidates"
    return {
        "title": "Number of neighbors at training and at sampling",
        "stages": recipes.paper_unprompted() if paper else recipes.unprompted(),
        "axes": {
            "k-trained": recipes.values(training, *numbers),
            "k": recipes.values("results.neighbors", *((4,) if paper else numbers)),
        },
        "plots": [
            {"x": "k-trained" if paper else "k", "y": y, "lines": "k" if paper else "k-trained"}
            for y in ("precision", "recall")
        ],
        **recipes.at(scale),
    }
