"""The optimizer, the initialization of a sharded state, and one jitted update."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Key

from rdm_jax.core import trees
from rdm_jax.core.errors import UserError
from rdm_jax.core.mesh import Rules, batch_sharding, replicated, state_shardings
from rdm_jax.training.config import Config
from rdm_jax.training.state import Extras, State

Params = Any
Batch = dict[str, Array]
Metrics = dict[str, Array]
Loss = Callable[[Params, Extras, Batch, Key[Array, ""], Array], tuple[Array, tuple[Metrics, Any]]]
CompilerOptions = dict[str, Any]
Update = Callable[[State, Any, Batch], tuple[State, Metrics]]


DECAYS: dict[str, Callable[[float, int], optax.Schedule]] = {
    "constant": lambda rate, steps: optax.constant_schedule(rate),
    "cosine": lambda rate, steps: optax.cosine_decay_schedule(rate, steps, 0.01),
    "linear": lambda rate, steps: optax.linear_schedule(rate, 0.05 * rate, steps),
}
"""By name: from the learning rate and the number of steps after the warm-up to the rate of each of them."""


def learning_rate(config: Config, *stages: int) -> optax.Schedule:
    """Returns the learning rate by step: a linear warm-up to `config.learning_rate`, then `config.decay`.

    Args:
      config: the `optimizer` section of a run.
      *stages: the number of steps of each stage; the schedule starts anew in every one.
    """

    def stage(steps: int) -> optax.Schedule:
        """Returns the schedule of one stage."""
        warmup = optax.linear_schedule(0.0, config.learning_rate, config.warmup)
        decay = DECAYS[config.decay](config.learning_rate, max(steps - config.warmup, 1))
        return optax.join_schedules([warmup, decay], [config.warmup])

    return optax.join_schedules([stage(steps) for steps in stages], list(itertools.accumulate(stages[:-1])))


def step_in_stage(step: Array | int, stages: Sequence[int]) -> Array:
    """Returns the number of a step within its stage, from 1 on.

    Args:
      step: its number in the run, from 1 on; may be traced.
      stages: the number of steps of each stage.
    """
    begins = jnp.asarray([0, *itertools.accumulate(stages[:-1])], jnp.int32)
    return step - jnp.max(jnp.where(begins < step, begins, 0))


def make_optimizer(config: Config, *stages: int) -> optax.GradientTransformation:
    """Returns the optimizer of `config.kind` with a warm-up, clipped by the global norm unless `clip_norm` is 0.

    Parameters matching `config.frozen` stay, and have no moments. Moments are kept from stage to stage.

    Args:
      config: the `optimizer` section of a run.
      *stages: the number of steps of each stage (see `learning_rate`).
    """
    tx = OPTIMIZERS[config.kind](config, learning_rate(config, *stages))
    if config.clip_norm:
        tx = optax.chain(optax.clip_by_global_norm(config.clip_norm), tx)
    if not config.frozen:
        return tx
    return optax.multi_transform(
        {"train": tx, "freeze": optax.set_to_zero()}, lambda params: _labels(params, tuple(config.frozen))
    )


def _adamw(config: Config, rate: optax.Schedule) -> optax.GradientTransformation:
    return optax.adamw(rate, config.b1, config.b2, weight_decay=config.weight_decay, mask=_matrices)


def _muon(config: Config, rate: optax.Schedule) -> optax.GradientTransformation:
    """Returns Muon for kernels (arXiv 2502.16982), whose updates are as large as AdamW's, and AdamW for the rest."""
    return optax.contrib.muon(
        rate,
        weight_decay=config.weight_decay,
        weight_decay_mask=_matrices,
        adam_b1=config.b1,
        adam_b2=config.b2,
        muon_weight_dimension_numbers=_kernels,
        consistent_rms=0.2,
    )


OPTIMIZERS: dict[str, Callable[[Config, optax.Schedule], optax.GradientTransformation]] = {
    "adamw": _adamw,
    "muon": _muon,
}
"""By name: from the `optimizer` section and the learning rate by step to the optimizer."""


def _matrices(params: Params) -> Params:
    """Returns which parameters decay: all but vectors."""
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)


def _kernels(params: Params) -> Params:
    """Returns the axes of each kernel, inputs and outputs; None for every other parameter, tables among them."""

    def axes(path: jax.tree_util.KeyPath, leaf: Any) -> optax.contrib.MuonDimensionNumbers | None:
        """Returns those of one parameter."""
        if leaf.ndim < 2 or not jax.tree_util.keystr(path[-1:], simple=True).endswith("kernel"):
            return None
        return optax.contrib.MuonDimensionNumbers(tuple(range(leaf.ndim - 1)), (leaf.ndim - 1,))

    return jax.tree_util.tree_map_with_path(axes, params)


def hold_frozen(loss: Loss, frozen: Sequence[str]) -> Loss:
    """Returns the loss with no gradient for the parameters matching `frozen`: none is computed for them."""

    def frozen_loss(
        params: Params, extras: Extras, batch: Batch, key: Key[Array, ""], step: Array
    ) -> tuple[Array, tuple[Metrics, Any]]:
        """Returns what `loss` does."""
        labels = _labels(params, frozen)
        stopped = jax.tree.map(lambda x, label: jax.lax.stop_gradient(x) if label == "freeze" else x, params, labels)
        return loss(stopped, extras, batch, key, step)

    return frozen_loss


def _labels(params: Params, frozen: Sequence[str]) -> Params:
    patterns = [re.compile(pattern) for pattern in frozen]
    return trees.unflatten(
        {name: "freeze" if any(p.fullmatch(name) for p in patterns) else "train" for name in trees.flatten(params)}
    )


def initial_state(
    init: Callable[[Key[Array, ""]], tuple[Params, Any]],
    tx: optax.GradientTransformation,
    seed: int,
    averaged: Callable[[Params], Params] = lambda params: params,
) -> State:
    """Returns the state of step 0.

    Args:
      init: from a random key to parameters and stats.
      tx: the optimizer.
      seed: of the key.
      averaged: from parameters to those that have a moving average.
    """
    params, stats = init(jax.random.key(seed))
    ema = jax.tree.map(jnp.copy, averaged(params))
    return State(jnp.zeros((), jnp.int32), params, ema, tx.init(params), stats)


def create_state(
    create: Callable[[], State], mesh: Mesh, rules: Rules = (), compiler_options: CompilerOptions | None = None
) -> State:
    """Returns the state of step 0, every array initialized on the devices where it stays."""
    shardings = state_shardings(mesh, jax.eval_shape(create), rules)
    return jax.jit(create, out_shardings=shardings, compiler_options=compiler_options)()


def with_params(state: State, params: Params) -> State:
    """Returns the state with other parameters, in the old ones' places, and an average that starts from them."""
    placed = jax.tree.map(
        lambda old, new: jax.device_put(jnp.asarray(new, old.dtype), old.sharding), state.params, params
    )
    ema = {part: jax.tree.map(jnp.copy, placed[part]) for part in state.ema}
    return dataclasses.replace(state, params=placed, ema=ema)


def ema_decay(step: Array | int, decay: float) -> Array:
    """Returns min(decay, (1 + n) / (10 + n)) at update n: the average's warm-up in the original release (LitEma)."""
    n = jnp.asarray(step, jnp.float32)
    return jnp.minimum(decay, (1.0 + n) / (10.0 + n))


def accumulated(loss: Loss, parts: int) -> Callable[..., tuple[tuple[Array, tuple[Metrics, Any]], Params]]:
    """Returns `jax.value_and_grad(loss, has_aux=True)` over a batch taken in parts, one after the other.

    Part j holds examples j, j + parts, ...: each device splits what it has, and no example moves. Loss, metrics and
    gradients are the means over the parts, stats go from part to part, and part j's key is `fold_in(key, j)`.

    Args:
      loss: of a part.
      parts: how many; 1 is the whole batch at once, with `key` itself.

    Raises:
      UserError: (when called) the batch does not divide into the parts.
    """
    gradients = jax.value_and_grad(loss, has_aux=True)
    if parts == 1:
        return gradients

    def split(array: Array) -> Array:
        if len(array) % parts:
            raise UserError(f"accumulate={parts} does not divide a batch of {len(array)}; choose a divisor")
        return array.reshape(len(array) // parts, parts, *array.shape[1:]).swapaxes(0, 1)

    def in_parts(
        params: Params, extras: Extras, batch: Batch, key: Key[Array, ""], step: Array
    ) -> tuple[tuple[Array, tuple[Metrics, Any]], Params]:
        """Returns ((loss, (metrics, stats)), gradients)."""

        def add(carry: tuple[Any, Any], part: tuple[Array, Batch]) -> tuple[tuple[Any, Any], None]:
            """Returns the stats after one more part, and the sums with its values."""
            stats, sums = carry
            number, examples = part
            (value, (metrics, stats)), grads = gradients(
                params, dataclasses.replace(extras, stats=stats), examples, jax.random.fold_in(key, number), step
            )
            return (stats, jax.tree.map(jnp.add, sums, (value, metrics, grads))), None

        batches = (jnp.arange(parts), jax.tree.map(split, batch))
        first = jax.tree.map(lambda array: array[0], batches)
        shapes = jax.eval_shape(lambda: gradients(params, extras, first[1], key, step))
        zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), (shapes[0][0], shapes[0][1][0], shapes[1]))
        (stats, sums), _ = jax.lax.scan(add, (extras.stats, zeros), batches)
        value, metrics, grads = jax.tree.map(lambda total: total / parts, sums)
        return (value, (metrics, stats)), grads

    return in_parts


def make_update(
    loss: Loss,
    tx: optax.GradientTransformation,
    decay: float,
    seed: int,
    *,
    averaged: Callable[[Params], Params] = lambda params: params,
    accumulate: int = 1,
    stages: Sequence[int] = (0,),
) -> Update:
    """Returns the update (state, frozen, batch) -> (state, metrics), not yet compiled.

    The step's random key is `fold_in(key(seed), step)`, so a resumed run has the random numbers of an uninterrupted
    one. The average warms up in every stage. The metrics hold the loss, the norms of gradients and parameters, and the
    loss's own.
    """
    gradients = accumulated(loss, accumulate)

    def update(state: State, frozen: Any, batch: Batch) -> tuple[State, Metrics]:
        """Returns the state after one update, and its metrics."""
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        extras = Extras(state.stats, frozen)
        (value, (metrics, stats)), grads = gradients(state.params, extras, batch, key, state.step)
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        step = state.step + 1
        ema = optax.incremental_update(averaged(params), state.ema, 1.0 - ema_decay(step_in_stage(step, stages), decay))
        norms = {"grad_norm": optax.tree.norm(grads), "param_norm": optax.tree.norm(params)}
        return State(step, params, ema, opt_state, stats), {"loss": value, **norms, **metrics}

    return update


def make_train_step(update: Update, mesh: Mesh, compiler_options: CompilerOptions | None = None) -> Any:
    """Returns the update jitted for a mesh: the old state is donated, metrics are replicated."""
    return jax.jit(
        update,
        donate_argnums=0,
        in_shardings=(None, None, batch_sharding(mesh)),
        out_shardings=(None, replicated(mesh)),
        compiler_options=compiler_options,
    )
