"""Top-m against the guidance scale: precision and recall as a Pareto plot, of one trained model.

  rdm ablate ablations/top_m --workdir runs/ablations/top_m
  rdm ablate ablations/top_m:paper --workdir runs/top_m --dry-run

Queries are the m most frequent neighbors of training images, all alike, as the released sampler has them.
"""

from typing import Any

from rdm_jax.ablation import recipes


def get_config(scale: str = "") -> dict[str, Any]:
    """Returns the grid, at the small scale or at that of the paper.

    Raises:
      UserError: there is no such scale.
    """
    paper = recipes.is_paper(scale)
    small = {
        "data": recipes.DATA,
        "reference": recipes.REFERENCE,
        "counts": {**recipes.NEIGHBORS, "database": "general", "encoder": recipes.MODEL},
        "results": recipes.proposed(counts="{counts}"),
    }
    small["counts"].pop("within")
    fractions = (0.0001, 0.001, 0.01, 0.1, 1.0) if paper else (0.01, 0.1, 1.0)
    return {
        "title": "Top-m against the guidance scale",
        "stages": {"results": recipes.paper_sampled("rdm-imagenet")} if paper else small,
        "axes": {
            "scale": recipes.values("results.guidance-scale", 1.0, 2.0, 4.0),
            "m": recipes.values("results.top-m", *fractions),
        },
        "plots": [{"x": "recall", "y": "precision", "lines": "scale"}],
        **recipes.at(scale),
    }
