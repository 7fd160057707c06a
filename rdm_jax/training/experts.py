"""Joins a model and networks that are fine-tuned on ranges of its noise to one model of experts."""

from __future__ import annotations

from collections.abc import Sequence

from rdm_jax.bundle import Bundle
from rdm_jax.core import trees
from rdm_jax.core.errors import UserError
from rdm_jax.diffusion.experts import RANGE, SECTION, arrange, stack

NETWORK = "denoiser"
SAME = ("num_timesteps", "schedule", "beta_start", "beta_end", "prediction")


def with_experts(model: Bundle, experts: Sequence[Bundle]) -> Bundle:
    """Returns a model whose noise is shared among its own network and experts, which take their ranges over.

    Where ranges lie inside each other, the narrowest one takes its noise. A network without any noise left is dropped.

    Args:
      model: the undivided model.
      experts: runs or models that were trained on a range (`expert_level`).

    Raises:
      UserError: a model has no denoiser, has experts already, has another network or schedule, or none of the ranges;
        or neighbors are read by the denoiser itself.
    """
    model.require(NETWORK)
    diffusion = model.config["diffusion"]
    _check_undivided(model)
    ranges = [(0.0, float(diffusion["num_timesteps"]))]
    for expert in experts:
        expert.require(NETWORK)
        _check_undivided(expert)
        own = expert.config["diffusion"]
        if RANGE not in own:
            raise UserError(f"model {expert.name!r} is no expert: it was trained on all noise; set expert_level")
        differ = [key for key in SAME if own.get(key) != diffusion.get(key)]
        if differ or _shapes(model) != _shapes(expert):
            what = f"another {' and another '.join(differ)}" if differ else "another network"
            raise UserError(f"expert {expert.name!r} has {what} than {model.name!r}; fine-tune it from that model")
        ranges.append((float(own[RANGE][0]), float(own[RANGE][1])))
    arranged, used = arrange(ranges, diffusion["num_timesteps"])
    networks = [one.params[NETWORK] for one in (model, *experts)]
    settings = {key: value for key, value in diffusion.items() if key != RANGE}
    config = {**model.config, "diffusion": {**settings, SECTION: arranged.section}}
    params = {**model.params, NETWORK: stack([networks[number] for number in used])}
    return Bundle(
        {key: value for key, value in config.items() if key != "sha256"},
        params,
        model.tokenizer,
        noised_tokenizer=model.noised_tokenizer,
    )


def _shapes(model: Bundle) -> dict[str, tuple[int, ...]]:
    return {path: leaf.shape for path, leaf in trees.flatten(model.params[NETWORK]).items()}


def _check_undivided(model: Bundle) -> None:
    if SECTION in model.config["diffusion"]:
        raise UserError(f"model {model.name!r} has experts already; give the model that they were grown from")
    reads = model.config.get("style_encoder", {}).get("view"), model.config.get("image_adapter", {}).get("kind")
    if "features" in reads:
        raise UserError(f"model {model.name!r} reads its neighbors by its denoiser, which experts would change")
