"""Neighbors of another image beside a caption, or of the image itself.

  rdm ablate ablations/shuffled --workdir runs/ablations/shuffled
  rdm ablate ablations/shuffled:paper --workdir runs/shuffled --dry-run

With shuffled neighbors the caption alone carries the content, so that a database need not hold the requested subject.
At the small scale two arms: the nearest neighbors of the prompt, and random ones of the style. ImageNet's captions are
the names of its classes.
"""

from typing import Any

from rdm_jax.ablation import recipes


def get_config(scale: str = "") -> dict[str, Any]:
    """Returns the grid, at the small scale or at that of the paper.

    Raises:
      UserError: there is no such scale.
    """
    paper = recipes.is_paper(scale)
    arms = ["style_database", "text_random_neighbors"]
    small = {**recipes.unprompted(), "results": recipes.swapped("{model}", arm=arms)}
    small.pop("reference")
    large = recipes.paper_trained(conditioning__text_and_neighbors_probability=0.4)
    large["results"] = recipes.paper_prompted("{model}")
    return {
        "title": "Shuffled neighbors",
        "stages": large if paper else small,
        "axes": {"shuffled": recipes.values("run.conditioning.shuffled_probability", 0.0, 0.4, 0.8)},
        "plots": [{"x": "shuffled", "y": y} for y in (["FID"] if paper else ["style", "subject"])],
        **recipes.at(scale),
    }
