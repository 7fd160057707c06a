"""Weight of the neighbors against the query in attention, of one trained model.

  rdm ablate ablations/weights --workdir runs/ablations/weights
  rdm ablate ablations/weights:paper --workdir runs/weights --dry-run

A weight counts a token several times in every attention; only the ratio to the query's matters. At the small scale, two
arms: the nearest neighbors in the database of a style, and random ones, which show another subject than the prompt.
"""

from typing import Any

from rdm_jax.ablation import recipes

ARMS = ("style_database", "text_random_neighbors")


def get_config(scale: str = "") -> dict[str, Any]:
    """Returns the grid, at the small scale or at that of the paper.

    Raises:
      UserError: there is no such scale.
    """
    paper = recipes.is_paper(scale)
    weights = (0.01, 0.1, 1.0, 3.0, 30.0)
    calls = {str(weight): {"results.with": f"weights(of_neighbors={weight})"} for weight in weights}
    return {
        "title": "Weight of the neighbors against the query",
        "stages": {"results": recipes.paper_prompted("rdm-imagenet") if paper else recipes.swapped(arm=list(ARMS))},
        "axes": {"weight": calls},
        "measures": [] if paper else ["style, A", "subject, A", "style, random", "subject, random", "color, random"],
        "plots": [{"x": "weight", "y": y} for y in (["FID"] if paper else ["style", "subject"])],
        **recipes.at(scale),
    }
