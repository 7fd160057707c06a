"""Complexity of the data, with a database and without.

  rdm ablate ablations/complexity --workdir runs/ablations/complexity
  rdm ablate ablations/complexity:paper --workdir runs/complexity --dry-run

At the small scale twelve styles against thousands of random ones, each measured against images of its own set. At the
paper's, dogs, mammals and animals of ImageNet: folders of its classes 151 to 280, 147 to 388 and 0 to 397.
"""

from typing import Any

from rdm_jax.ablation import recipes

SUBSETS = ("dogs", "mammals", "animals")
RANDOM = {
    "reference.": "style_scenes/random",
    "reference.split": "unseen",
    "retrieval.": "style_scenes/random",
    "retrieval.split": "train[30000:40000]",
    "neighbors.dataset": "style_scenes/random",
    "run.data.source": "style_scenes/random",
    "run.emphasis": {},
}
WITHOUT = {"run.data.neighbors": "", "results.guidance-scale": 0.0, "neighbors": None}


def get_config(scale: str = "") -> dict[str, Any]:
    """Returns the grid, at the small scale or at that of the paper.

    Raises:
      UserError: there is no such scale.
    """
    paper = recipes.is_paper(scale)
    small = {"other_data": {**recipes.DATA, "config": "random"}, **recipes.unprompted()}
    small["neighbors"].pop("within")
    small["results"] |= {"database": "{retrieval}"}
    small["reference"] |= {"spread": small["reference"].pop("limit")}
    large = recipes.paper_unprompted()
    large["results"].pop("counts")
    large["results"].pop("top-m")
    subsets = {
        name: {
            "run.data.source": f"data/imagenet-{name}/train",
            "run.data.split": "",
            "run.data.neighbors": f"runs/imagenet-{name}/neighbors",
            "results.reference": f"data/imagenet-{name}/validation",
        }
        for name in SUBSETS
    }
    without = {"run.data.neighbors": "", "results.guidance-scale": 0.0}
    return {
        "title": "Complexity of the data",
        "stages": large if paper else small,
        "axes": {
            "data": subsets if paper else {"twelve styles": {}, "random styles": RANDOM},
            "neighbors": {"with": {}, "without": without if paper else WITHOUT},
        },
        "plots": [{"x": "recall", "y": "precision", "lines": "neighbors"}],
        **recipes.at(scale),
    }
