"""Number of neighbors at sampling, of one trained model.

  rdm ablate ablations/sampling_neighbors --workdir runs/ablations/sampling_neighbors          the embedded model
  rdm ablate ablations/sampling_neighbors:paper --workdir runs/sampling_neighbors --dry-run    ImageNet's RDM

`results` generates from rows of the database without a prompt (the row is its own first neighbor); `swap` from neutral
prompts with the databases of styles.
"""

from typing import Any

from rdm_jax.ablation import recipes


def get_config(scale: str = "") -> dict[str, Any]:
    """Returns the grid, at the small scale or at that of the paper.

    Raises:
      UserError: there is no such scale.
    """
    paper = recipes.is_paper(scale)
    small = {"data": recipes.DATA, "reference": recipes.REFERENCE}
    small |= {"results": recipes.proposed(), "swap": recipes.swapped()}
    large = {"results": recipes.paper_sampled("rdm-imagenet")}
    return {
        "title": "Number of neighbors at sampling",
        "stages": large if paper else small,
        "axes": {
            "k": recipes.values(
                "results.neighbors" + ("" if paper else ",swap.neighbors"),
                *((1, 2, 4, 8, 16) if paper else (1, 2, 4, 16)),
            )
        },
        "plots": [{"x": "k", "y": y if paper else f"results: {y}"} for y in ("precision", "recall")],
        **recipes.at(scale),
    }
