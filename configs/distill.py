r"""A few-step model by distillation: 8, 4, 2 and 1 evaluations from a teacher in 16 guided steps (docs/few_steps.md).

rdm train --config distill --config.teacher=style-scenes --workdir runs/few
rdm train --config distill:icons/rdm --config.teacher=icons --workdir runs/icons/few

After the colon is the config by which the teacher was trained: its images and its mixture of conditions. Without
`--config.teacher` it is the model of the name that this config gives.
"""

from typing import Any

from rdm_jax.core.errors import unknown
from rdm_jax.training.config import base_config

TASKS = {"diffusion": "distill", "roles": "distill_roles"}


def get_config(teacher: str = "style_scenes/rdm") -> dict[str, Any]:
    """Returns what the run sets.

    Raises:
      UserError: the teacher's config is of a task that cannot be distilled.
    """
    parent = base_config(teacher).to_dict()
    if parent["task"] not in TASKS:
        raise unknown("task of a teacher", str(parent["task"]), TASKS)
    sampling = parent["sampling"]
    scales = {name: float(sampling[name]) for name in ("guidance_scale", "style_scale") if name in sampling}
    of_data = {name: parent[name] for name in ("data", "emphasis", "conditioning") if name in parent}
    return {
        **of_data,
        "task": TASKS[parent["task"]],
        "name": f"{parent['name']}-few",
        "teacher": parent["name"],
        "stages": (8, 4, 2, 1),
        "updates": (1500, 1500, 2500, 5000),
        **{"guidance_scale": 1.0, **scales},
        "batch_size": parent["batch_size"],
        "log_every": 100,
        "eval_every": 500,
        "figures_every": 500,
        "checkpoint_every": 500,
        "ema_decay": 0.99,
        "optimizer": {"learning_rate": 3e-4, "warmup": 50, "decay": "linear"},
    }
