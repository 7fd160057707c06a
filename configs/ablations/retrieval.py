"""Recall of the retrieval of training.

  rdm ablate ablations/retrieval --workdir runs/ablations/retrieval
  rdm ablate ablations/retrieval:paper --workdir runs/retrieval --dry-run

The neighbors of a training image are k random ones of its c nearest: on average k / c of the k nearest are among them,
as with an index of that recall. At the paper's scale the index itself is exact or ScaNN. Left out: other metrics, since
rows are compared by their cosine alone.
"""

from typing import Any

from rdm_jax.ablation import recipes

CANDIDATES = {"1.00": 3, "0.50": 6, "0.15": 20}


def get_config(scale: str = "") -> dict[str, Any]:
    """Returns the grid, at the small scale or at that of the paper.

    Raises:
      UserError: there is no such scale.
    """
    paper = recipes.is_paper(scale)
    large = recipes.paper_unprompted(recipes.paper_database("data/openimages"))
    large["run"] |= {"data.neighbors": "{neighbors}"}
    axes = {"retrieval-recall": {label: {"run.conditioning.candidates": c} for label, c in CANDIDATES.items()}}
    return {
        "title": "Recall of the retrieval of training",
        "stages": large if paper else recipes.unprompted(),
        "axes": {"index": recipes.values("neighbors.index", "exact", "scann")} if paper else axes,
        "plots": [] if paper else [{"x": "retrieval-recall", "y": y} for y in ("precision", "density")],
        **recipes.at(scale),
    }
