"""The database of training: of the same domain, of another one, or none, which is the LDM twin.

  rdm ablate ablations/database --workdir runs/ablations/database
  rdm ablate ablations/database:paper --workdir runs/database --dry-run

Each model samples with its own database. The LDM twin generates from the null condition alone, whatever the rows.
"""

from typing import Any

from rdm_jax.ablation import recipes

OTHER = {"retrieval.": "style_scenes/random_tiny", "retrieval.split": "train"}
NONE = {
    "run.data.neighbors": "",
    "results.database": "general",
    "results.guidance-scale": 0.0,
    "retrieval": None,
    "neighbors": None,
}


def get_config(scale: str = "") -> dict[str, Any]:
    """Returns the grid, at the small scale or at that of the paper.

    Raises:
      UserError: there is no such scale.
    """
    paper = recipes.is_paper(scale)
    stages = {"other_data": {**recipes.DATA, "config": "random_tiny"}, **recipes.unprompted()}
    stages["neighbors"].pop("within")  # no style of the other domain has the name of one of the training set
    stages["results"] |= {"database": "{retrieval}"}
    large = {
        "openimages": {"run.config": "rdm_imagenet"},
        "imagenet": {"run.config": "rdm_imagenet:in_database", "results.database": "runs/rdm-imagenet-in/database"},
        "none": {"run.config": "rdm_imagenet:ldm", "results.guidance-scale": 0.0},
    }
    large["imagenet"] |= {"results.counts": "runs/rdm-imagenet-in/neighbors"}
    return {
        "title": "The database of training",
        "stages": recipes.paper_unprompted() if paper else stages,
        "axes": {"database": large if paper else {"same": {}, "other": OTHER, "none": NONE}},
        "plots": [{"x": "recall", "y": "precision", "lines": "database"}],
        **recipes.at(scale),
    }
