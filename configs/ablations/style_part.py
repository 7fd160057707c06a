"""With or without the style tokens of neighbors, of a model with two roles of neighbors.

  rdm ablate ablations/style_part --workdir runs/ablations/style_part
  rdm ablate ablations/style_part:paper --workdir runs/style_part --dry-run

Without them the caption and the content neighbors alone condition the model. No vector of this package has a style part
that could be cut off: the style is in tokens of their own.
"""

from typing import Any

from rdm_jax.ablation import recipes


def get_config(scale: str = "") -> dict[str, Any]:
    """Returns the grid, at the small scale or at that of the paper.

    Raises:
      UserError: there is no such scale.
    """
    return {
        "title": "With or without the style tokens of neighbors",
        "stages": recipes.of_roles(scale),
        "axes": {
            "style": {
                "with": {"run.conditioning.style_dropout": 0.08},
                "without": {"run.conditioning.style_dropout": 1.0},
            }
        },
        **recipes.at(scale),
    }
