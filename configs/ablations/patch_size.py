"""Size of the patches that a database holds.

  rdm ablate ablations/patch_size --workdir runs/ablations/patch_size
  rdm ablate ablations/patch_size:paper --workdir runs/patch_size --dry-run

At the small scale images have 64 pixels, and `whole` takes them as they are.
"""

from typing import Any

from rdm_jax.ablation import recipes


def patches(side: int) -> dict[str, Any]:
    """Returns the settings of a database of patches of 64-pixel images."""
    return {"retrieval.patches": 2, "retrieval.patch-size": side, "retrieval.shorter-side": 64}


def get_config(scale: str = "") -> dict[str, Any]:
    """Returns the grid, at the small scale or at that of the paper.

    Raises:
      UserError: there is no such scale.
    """
    paper = recipes.is_paper(scale)
    small, large = recipes.unprompted(), recipes.paper_unprompted(recipes.paper_database("data/openimages"))
    for stages in (small, large):
        stages["results"] |= {"database": "{retrieval}"}
    large["results"] |= {"counts": "{neighbors}"}
    large["run"] |= {"data.neighbors": "{neighbors}"}
    small["neighbors"].pop("within")  # patches of all styles, as of OpenImages
    sizes = recipes.values("retrieval.patch-size", 64, 128, 256)
    return {
        "title": "Size of the patches of the database",
        "stages": large if paper else small,
        "axes": {"patch": sizes if paper else {"whole": {}, "48": patches(48), "32": patches(32)}},
        "plots": [{"x": "recall", "y": "precision", "lines": "patch"}],
        **recipes.at(scale),
    }
