"""Replacing the database after training, of one trained model.

  rdm ablate ablations/database_replaced --workdir runs/ablations/database_replaced
  rdm ablate ablations/database_replaced:paper --workdir runs/database_replaced --dry-run

The reference stays: held-out images of all styles. `trained` is of the split that the model was trained with, `general`
other images of the same domain, `neon` a single style of it, `woodblock` a style that no training saw, and `random` are
images of a dozen random styles and of nine of the set.
"""

from typing import Any

from rdm_jax.ablation import recipes


def get_config(scale: str = "") -> dict[str, Any]:
    """Returns the grid, at the small scale or at that of the paper.

    Raises:
      UserError: there is no such scale.
    """
    paper = recipes.is_paper(scale)
    random = {**recipes.RETRIEVAL, "": "style_scenes/random_tiny", "split": "train"}
    small = {
        "data": recipes.DATA,
        "other_data": {**recipes.DATA, "config": "random_tiny"},
        "reference": recipes.REFERENCE,
        "trained": {**recipes.RETRIEVAL, "limit": 2000},
        "random": random,
        "results": recipes.proposed(),
    }
    large = {"results": recipes.without_counts(recipes.paper_sampled("rdm-imagenet"))}
    folders = ("runs/rdm-imagenet/database", "runs/rdm-imagenet-in/database", "runs/wikiart/database")
    labels = ("trained", "imagenet", "wikiart") if paper else ("trained", "general", "neon", "woodblock", "random")
    places = folders if paper else ("{trained}", "general", "neon", "woodblock", "{random}")
    return {
        "title": "Replacing the database after training",
        "stages": large if paper else small,
        "axes": {"database": {label: {"results.database": place} for label, place in zip(labels, places, strict=True)}},
        "plots": [{"x": "recall", "y": "precision", "lines": "database"}],
        **recipes.at(scale),
    }
