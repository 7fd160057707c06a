"""The null condition: zeros or learned, with dropping of conditions or without, at several guidance scales.

  rdm ablate ablations/null --workdir runs/ablations/null
  rdm ablate ablations/null:paper --workdir runs/null --dry-run

A learned null token needs dropping, which trains it. The released models were trained without dropping, and are guided
with zeros. All trainings start from nothing: the embedded model has seen dropped conditions.
"""

from typing import Any

from rdm_jax.ablation import recipes

NULLS = {
    "zeros": {"run.conditioning.null": "zeros", "run.conditioning.null_probability": 0.1},
    "learned": {"run.conditioning.null": "learned", "run.conditioning.null_probability": 0.1},
    "zeros-not-dropped": {"run.conditioning.null": "zeros", "run.conditioning.null_probability": 0.0},
}


def get_config(scale: str = "") -> dict[str, Any]:
    """Returns the grid, at the small scale or at that of the paper.

    Raises:
      UserError: there is no such scale.
    """
    paper = recipes.is_paper(scale)
    small = recipes.unprompted(steps=2000)
    small["run"].pop("init-from")
    small["run"] |= {"optimizer.learning_rate": 1e-3}
    return {
        "title": "The null condition",
        "stages": recipes.paper_unprompted() if paper else small,
        "axes": {"null": NULLS, "scale": recipes.values("results.guidance-scale", 1.0, 2.0, 4.0)},
        "plots": [{"x": "recall", "y": "precision", "lines": "null"}],
        **recipes.at(scale),
    }
