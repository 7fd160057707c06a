"""A training step compared with the same one in PyTorch (diffusers), and what EMA, saving and streaming cost.

make parity                                         # installs what the comparison needs
.venv-parity/bin/python benchmarks/training.py      # --only step, --repeats 15, --no-compile, --full

Timings are interleaved, step by step: where the speed of a machine drifts, all programs are slowed alike. Ratios are of
medians, with a bootstrap interval of 95 %. The network is rdm_imagenet's U-Net with a third of its channels on latents
of 32x32; with --full, and on a GPU, it is the whole U-Net on latents of 64x64, on a GPU in bfloat16, PyTorch under
autocast.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import importlib
import importlib.util
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

# Otherwise PyTorch's threads spin for a while after each call and take time from the other program.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import jax
import jax.numpy as jnp
import numpy as np
from machine import machine
from ml_collections import ConfigDict

from rdm_jax.convert import diffusers
from rdm_jax.convert.mapping import assemble
from rdm_jax.core.mesh import batch_sharding, make_mesh, put_batch, put_whole
from rdm_jax.core.schema import read
from rdm_jax.data.batches import training_batches
from rdm_jax.diffusion.objective import diffusion_loss
from rdm_jax.diffusion.schedule import build_schedule, signal_noise
from rdm_jax.models import build_denoiser
from rdm_jax.models.condition import Condition
from rdm_jax.training import flops
from rdm_jax.training.checkpoints import Checkpoints
from rdm_jax.training.config import load_architecture, load_config
from rdm_jax.training.loop import make_run
from rdm_jax.training.schema import Optimizer
from rdm_jax.training.step import (
    create_state,
    initial_state,
    make_optimizer,
    make_train_step,
    make_update,
    with_params,
)
from rdm_jax.training.tasks import make_task
from rdm_jax.training.workdir import Workdir

RATE, DECAY, WEIGHT_DECAY = 1e-4, 0.9999, 1e-2
SAVED_EVERY = 500

Step = Callable[[], Any]


def interleave(steps: Mapping[str, Step], repeats: int) -> dict[str, list[float]]:
    """Returns the seconds of each program's calls, one of each in turn, after two warm-up calls."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(repeats + 2):
        for name, call in steps.items():
            begin = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - begin)
    return {name: seconds[2:] for name, seconds in times.items()}


def ratio(times: Sequence[float], others: Sequence[float], resamples: int = 2000) -> tuple[float, float, float]:
    """Returns the ratio of two medians and its 2.5 and 97.5 percentiles under a bootstrap over the paired calls."""
    generator, pairs = np.random.default_rng(0), np.array([times, others])
    chosen = generator.integers(0, len(times), (resamples, len(times)))
    medians = np.median(pairs[:, chosen], axis=2)
    low, high = np.percentile(medians[0] / medians[1], [2.5, 97.5])
    return float(np.median(times) / np.median(others)), float(low), float(high)


def show(head: str, times: Mapping[str, list[float]], base: str, notes: Mapping[str, str] = {}) -> None:
    """Prints a table of medians and of ratios to the program `base`."""
    print(f"{head}; medians of {len(times[base])}; {machine()}\n")
    print(f"| | ms per step | of {base} | 95 % | |\n| --- | --- | --- | --- | --- |")
    for name, seconds in times.items():
        middle, low, high = ratio(seconds, times[base])
        print(
            f"| {name} | {1000 * statistics.median(seconds):.1f} | {middle:.3f} | {low:.3f} to {high:.3f} | "
            f"{notes.get(name, '')} |"
        )
    print(flush=True)


# A training step in both libraries.


def step(args: argparse.Namespace) -> None:
    """Times the update of parameters and EMA from one batch in both libraries, and compares their losses."""
    if importlib.util.find_spec("torch") is None or importlib.util.find_spec("diffusers") is None:
        sys.exit("benchmarks/training.py: torch and diffusers are not installed; `make parity` installs them")
    accelerated = jax.default_backend() == "gpu"
    whole = args.full or accelerated
    settings = load_architecture("rdm_imagenet").denoiser.to_dict()
    settings |= {} if whole else {"model_channels": 64}
    side, size = (64 if whole else 32), args.batch_size
    torch: Any = importlib.import_module("torch")
    torch.manual_seed(0)
    module: Any = importlib.import_module("diffusers").UNet2DConditionModel.from_config(
        diffusers.to_unet_config(settings, side)
    )
    network = build_denoiser(settings | {"dtype": "bfloat16" if accelerated else "float32"})
    weights = {name: value.numpy().copy() for name, value in module.state_dict().items()}
    params = {"denoiser": assemble(diffusers.unet_plan(weights, network, frozenset()))}
    schedule = build_schedule({"num_timesteps": 1000, "schedule": "cosine"})
    generator = np.random.default_rng(0)
    batch = {
        "x0": generator.normal(size=(size, side, side, 3)).astype(np.float32),
        "noise": generator.normal(size=(size, side, side, 3)).astype(np.float32),
        "context": generator.normal(size=(size, 4, settings["context_dim"])).astype(np.float32),
        "t": generator.integers(0, 1000, size).astype(np.int32),
    }
    ours, work = our_step(network, params, schedule, batch)
    steps, first = {"rdm_jax": ours}, {}
    for name, compiled in (("PyTorch, eager", False), ("PyTorch, compiled", True)):
        if not (compiled and args.no_compile):
            steps[name] = _theirs(module, weights, schedule, batch, "cuda" if accelerated else "cpu", compiled)
    losses = {}
    for name, call in steps.items():
        begin = time.perf_counter()
        losses[name] = call()
        first[name] = f"first step {time.perf_counter() - begin:.1f} s"
    times = interleave(steps, args.repeats)
    count = sum(leaf.size for leaf in jax.tree.leaves(params)) / 1e6
    show(
        f"U-Net of {count:.0f} M parameters, {size} latents of {side}x{side}, AdamW and EMA",
        times,
        "rdm_jax",
        first,
    )
    rate = work / statistics.median(times["rdm_jax"]) / 1e9
    difference = max(abs(losses[name] - losses["rdm_jax"]) for name in losses)
    print(f"{work / 1e9:.0f} GFLOP per step, {rate:.0f} GFLOP/s in rdm_jax; losses differ by {difference:.1e}\n")


def our_step(network: Any, params: Any, schedule: Any, batch: dict[str, np.ndarray]) -> tuple[Step, float]:
    """Returns an update of parameters, moments and moving average from one batch, and its floating-point operations.

    Args:
      network: a denoiser.
      params: {"denoiser": its parameters}.
      schedule: of the noise.
      batch: x0 and noise [b, h, w, c], context [b, n, d] and times t [b].
    """
    settings = {"learning_rate": RATE, "warmup": 0, "decay": "constant", "weight_decay": WEIGHT_DECAY, "clip_norm": 0.0}
    config = ConfigDict(read(Optimizer, settings))
    tx, mesh = make_optimizer(config, 1000), make_mesh()
    update = make_update(_loss(network, schedule), tx, DECAY, 0)
    # Fused attention hides its products from the count; they are those of the plain one.
    plain = make_update(_loss(network.clone(attention_implementation=None), schedule), tx, DECAY, 0)

    def zeros(key: Any) -> Any:  # parameters that a program closes over are constants of it, a gigabyte here
        return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), params), {}

    state = with_params(create_state(lambda: initial_state(zeros, tx, 0), mesh), params)
    train_step, placed = make_train_step(update, mesh), put_batch(batch, batch_sharding(mesh))
    work = flops.count(plain, state, {}, placed).flops
    current = [state]

    def call() -> float:
        """Takes a step and waits for it."""
        current[0], metrics = train_step(current[0], {}, placed)
        return float(jax.block_until_ready((current[0], metrics))[1]["loss"])

    return call, work


def _loss(network: Any, schedule: Any) -> Callable[..., Any]:
    """Returns the loss of a step of training."""

    def loss(params: Any, extras: Any, batch: Any, key: Any, step: Any) -> Any:
        def apply(x: Any, t: Any, context: Any) -> Any:
            return network.apply({"params": params["denoiser"]}, x, t, Condition(context))

        losses = diffusion_loss(apply, batch["x0"], batch["context"], batch["t"], batch["noise"], schedule, "eps")
        return jnp.mean(losses), ({}, extras.stats)

    return loss


def _theirs(
    module: Any, weights: Any, schedule: Any, batch: dict[str, np.ndarray], device: str, compiled: bool
) -> Step:
    torch: Any = importlib.import_module("torch")
    net = copy.deepcopy(module).to(device)
    net.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()})
    net = net.to(memory_format=torch.channels_last)
    called = torch.compile(net) if compiled else net
    optimizer = torch.optim.AdamW(net.parameters(), RATE, weight_decay=WEIGHT_DECAY, fused=True)
    average = [parameter.detach().clone() for parameter in net.parameters()]
    alpha, sigma = (
        torch.from_numpy(np.array(v))[:, None, None, None] for v in signal_noise(schedule, jnp.asarray(batch["t"]))
    )
    x0, noise = (torch.from_numpy(batch[name]).permute(0, 3, 1, 2) for name in ("x0", "noise"))
    x = (alpha * x0 + sigma * noise).to(device, memory_format=torch.channels_last)
    noise, context = noise.to(device), torch.from_numpy(batch["context"]).to(device)
    t = torch.from_numpy(batch["t"]).to(device)
    half = torch.autocast(device, torch.bfloat16) if device == "cuda" else contextlib.nullcontext()

    def call() -> float:
        """Takes a step and waits for it."""
        with half:
            loss = torch.nn.functional.mse_loss(called(x, t, context).sample.float(), noise)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(average, list(net.parameters()), 1.0 - DECAY)
        return float(loss.detach())

    return call


# What happens beside a step.


def extras(args: argparse.Namespace) -> None:
    """Times the embedded model's step with and without EMA, streamed neighbors and checkpoints."""
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        config = load_config("smoke").unlock()
        full = load_config("style_scenes/rdm")
        config.model, config.batch_size = full.model, full.batch_size
        config.checkpoint_every = SAVED_EVERY
        task, mesh = make_task(config, Path(folder), lambda *_: None), make_mesh()
        sharding, frozen = batch_sharding(mesh), put_whole(task.frozen, mesh)
        batches = training_batches(task.read, task.size, config.batch_size, 0, complete=task.complete)
        fixed = put_batch(next(batches), sharding)
        create, update = make_run(config, task)
        plain = make_update(
            task.loss, make_optimizer(config.optimizer, config.steps), 0.0, 0, averaged=lambda params: {}
        )
        bare = create_state(
            lambda: initial_state(task.init, make_optimizer(config.optimizer, config.steps), 0, lambda params: {}), mesh
        )
        with_ema, without = make_train_step(update, mesh), make_train_step(plain, mesh)
        states = {"EMA": create_state(create, mesh), "bare": bare, "streamed": create_state(create, mesh)}

        def take(name: str, train_step: Any, batch: Callable[[], Any]) -> Step:
            def call() -> None:
                states[name], metrics = train_step(states[name], frozen, batch())
                jax.block_until_ready((states[name], metrics))

            return call

        times = interleave(
            {
                "a step": take("EMA", with_ema, lambda: fixed),
                "without EMA": take("bare", without, lambda: fixed),
                "with streamed neighbors": take("streamed", with_ema, lambda: put_batch(next(batches), sharding)),
            },
            args.repeats * 4,
        )
        show(f"The embedded model's step, {config.batch_size} latents of 16x16, 3 neighbors", times, "a step")
        _checkpoint(args, folder, states["EMA"], statistics.median(times["a step"]))


def _checkpoint(args: argparse.Namespace, folder: str, state: Any, step_seconds: float) -> None:
    checkpoints, delays = Checkpoints(Workdir(Path(folder) / "run"), 2), []
    for _ in range(args.repeats + 1):  # the first pass compiles the additions
        begin = time.perf_counter()
        checkpoints.save(state, {}, {})
        delays.append(time.perf_counter() - begin)
        checkpoints.close()
        checkpoints = Checkpoints(Workdir(Path(folder) / "run"), 2)
        state = jax.tree.map(lambda leaf: leaf + 1 if leaf.ndim == 0 and leaf.dtype == jnp.int32 else leaf, state)
    checkpoints.close()
    middle = statistics.median(delays[1:])
    low, high = np.percentile(delays[1:], [2.5, 97.5])
    fraction = middle / (SAVED_EVERY * step_seconds)
    print(
        f"A checkpoint delays a step by {1000 * middle:.0f} ms ({1000 * low:.0f} to {1000 * high:.0f}): "
        f"{fraction:.2%} of {SAVED_EVERY} steps; the rest is written in the background\n"
    )


PARTS = {"step": step, "extras": extras}


def main() -> int:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=PARTS, action="append", help="a part (repeatable)")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--no-compile", action="store_true", help="leave out torch.compile, which takes minutes")
    parser.add_argument("--full", action="store_true", help="the whole network, on a CPU too")
    args = parser.parse_args()
    for part in args.only or PARTS:
        PARTS[part](args)
    return 0


if __name__ == "__main__":
    sys.exit(main())
