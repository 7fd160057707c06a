"""The optimizer, the birth of a sharded state, and one jitted update."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Key

from rdm_jax.core import trees
from rdm_jax.core.errors import unknown
from rdm_jax.core.mesh import batch_sharding, parameter_shardings, replicated
from rdm_jax.training.config import Config
from rdm_jax.training.state import State

Params = Any
Batch = dict[str, Array]
Metrics = dict[str, Array]
Loss = Callable[[Params, Batch, Key[Array, ""], Array], tuple[Array, Metrics]]


def learning_rate(config: Config, steps: int) -> optax.Schedule:
    """Returns the learning rate by step: a linear warm-up to `config.learning_rate`, then `config.decay`.

    Raises:
      UserError: `config.decay` is neither "constant" nor "cosine".
    """
    decays = {
        "constant": lambda: optax.constant_schedule(config.learning_rate),
        "cosine": lambda: optax.cosine_decay_schedule(config.learning_rate, max(steps - config.warmup, 1), 0.01),
    }
    if config.decay not in decays:
        raise unknown("learning-rate decay", config.decay, decays)
    warmup = optax.linear_schedule(0.0, config.learning_rate, config.warmup)
    return optax.join_schedules([warmup, decays[config.decay]()], [config.warmup])


def make_optimizer(config: Config, steps: int) -> optax.GradientTransformation:
    """Returns AdamW with a warm-up, clipped by the global norm; those matching `config.frozen` stay."""
    tx = optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        optax.adamw(
            learning_rate(config, steps),
            config.b1,
            config.b2,
            weight_decay=config.weight_decay,
            mask=lambda params: jax.tree.map(lambda leaf: leaf.ndim > 1, params),
        ),
    )
    if not config.frozen:
        return tx
    return optax.multi_transform(
        {"train": tx, "freeze": optax.set_to_zero()}, lambda params: _labels(params, tuple(config.frozen))
    )


def hold_frozen(loss: Loss, frozen: Sequence[str]) -> Loss:
    """Returns the loss with no gradient for the parameters matching `frozen`: none is then computed for them."""

    def held(params: Params, batch: Batch, key: Key[Array, ""], step: Array) -> tuple[Array, Metrics]:
        """Returns what `loss` does."""
        labels = _labels(params, frozen)
        stopped = jax.tree.map(lambda x, label: jax.lax.stop_gradient(x) if label == "freeze" else x, params, labels)
        return loss(stopped, batch, key, step)

    return held


def _labels(params: Params, frozen: Sequence[str]) -> Params:
    patterns = [re.compile(pattern) for pattern in frozen]
    return trees.unflatten(
        {name: "freeze" if any(p.fullmatch(name) for p in patterns) else "train" for name in trees.flatten(params)}
    )


def create_state(
    init: Callable[[Key[Array, ""]], Params], tx: optax.GradientTransformation, seed: int, mesh: Mesh
) -> State:
    """Makes the state of step 0, every array born on the devices where it will stay."""

    def create() -> State:
        params = init(jax.random.key(seed))
        return State(jnp.zeros((), jnp.int32), params, jax.tree.map(jnp.copy, params), tx.init(params))

    shardings = parameter_shardings(mesh, jax.eval_shape(create))
    return jax.jit(create, out_shardings=shardings)()


def with_params(state: State, params: Params) -> State:
    """Returns the state with other parameters, in the old ones' places, and an average that starts from them."""
    placed = jax.tree.map(
        lambda old, new: jax.device_put(jnp.asarray(new, old.dtype), old.sharding), state.params, params
    )
    return dataclasses.replace(state, params=placed, ema=jax.tree.map(jnp.copy, placed))


def ema_decay(step: Array, decay: float) -> Array:
    """Returns min(decay, (1 + n) / (10 + n)) at update n: the average's warm-up in the original release (LitEma)."""
    n = step.astype(jnp.float32)
    return jnp.minimum(decay, (1.0 + n) / (10.0 + n))


def make_train_step(
    loss: Loss, tx: optax.GradientTransformation, decay: float, seed: int, mesh: Mesh
) -> Callable[[State, Batch], tuple[State, Metrics]]:
    """Returns the jitted update (state, batch) -> (state, metrics); the old state is donated.

    The step's random key is `fold_in(key(seed), step)`, so a resumed run draws what an uninterrupted one would.
    """

    def train_step(state: State, batch: Batch) -> tuple[State, Metrics]:
        """Returns the state after one update, and the loss, the gradient's norm and the loss's own metrics."""
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        (value, metrics), grads = jax.value_and_grad(loss, has_aux=True)(state.params, batch, key, state.step)
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        step = state.step + 1
        ema = optax.incremental_update(params, state.ema, 1.0 - ema_decay(step, decay))
        metrics = {"loss": value, "grad_norm": optax.tree.norm(grads), **metrics}
        return State(step, params, ema, opt_state), metrics

    return jax.jit(
        train_step, donate_argnums=0, in_shardings=(None, batch_sharding(mesh)), out_shardings=(None, replicated(mesh))
    )
