"""Raw or unit-norm tokens.

  rdm ablate ablations/unit_tokens --workdir runs/ablations/unit_tokens
  rdm ablate ablations/unit_tokens:paper --workdir runs/unit_tokens --dry-run

The small trainings start from nothing: the embedded model was trained with raw tokens.
"""

from typing import Any

from rdm_jax.ablation import recipes


def get_config(scale: str = "") -> dict[str, Any]:
    """Returns the grid, at the small scale or at that of the paper.

    Raises:
      UserError: there is no such scale.
    """
    paper = recipes.is_paper(scale)
    small = recipes.unprompted(steps=2000)
    small["run"].pop("init-from")
    small["run"] |= {"optimizer.learning_rate": 1e-3}
    labels = {label: {"run.conditioning.unit_tokens": unit} for label, unit in (("raw", False), ("unit", True))}
    return {
        "title": "Raw or unit-norm tokens",
        "stages": recipes.paper_unprompted() if paper else small,
        "axes": {"tokens": labels},
        "plots": [{"x": "recall", "y": "precision", "lines": "tokens"}],
        **recipes.at(scale),
    }
