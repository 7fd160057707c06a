"""Size of the database at sampling, of one trained model.

  rdm ablate ablations/database_size --workdir runs/ablations/database_size
  rdm ablate ablations/database_size:paper --workdir runs/database_size --dry-run

Every database is a random part of the one that the model was trained with: the images of the split are in random order.
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
        "part": {**recipes.RETRIEVAL},
        "results": recipes.proposed(database="{part}"),
    }
    large = {
        "part": {"command": "database subset", "": "runs/rdm-imagenet/database"},
        "results": recipes.without_counts(recipes.paper_sampled("rdm-imagenet", database="{part}")),
    }
    sizes = (10_000, 100_000, 1_000_000, 20_000_000) if paper else (25, 250, 2500, 20_000)
    return {
        "title": "Size of the database at sampling",
        "stages": large if paper else small,
        "axes": {"rows": recipes.values("part.limit", *sizes)},
        "plots": [{"x": "rows", "y": y} for y in ("precision", "recall")],
        **recipes.at(scale),
    }
