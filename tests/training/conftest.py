"""A diffusion task on two folders of small random images, with neighbors computed ahead."""

import signal
from typing import Any

import pytest

from rdm_jax.bundle import Bundle, merge
from rdm_jax.training.config import load_config
from rdm_jax.training.tasks import diffusion, task_module
from rdm_jax.training.tasks.codes import CodesTask
from tests.helpers import tiny, tiny_diffusion

CODES = 12  # of the first stage


@pytest.fixture(scope="session")
def make_diffusion_task(tmp_path_factory):
    """A function of overrides that returns the task on two folders of twelve images each, with neighbors within one."""
    root = tmp_path_factory.mktemp("diffusion")
    tiny_diffusion.write(root)

    def make(
        *overrides: str, neighbors: str = "within", config: str = tiny_diffusion.CONFIG, task: Any = diffusion
    ) -> diffusion.DiffusionTask:
        given = (*tiny_diffusion.overrides(root, neighbors), *overrides)
        return task.make(load_config(config, given), root, lambda *_: None)

    return make


@pytest.fixture(scope="session")
def make_codes_task(make_diffusion_task, tmp_path_factory):
    """A function of a config's name and overrides that returns its task over codes, on the same images."""
    diffusion, root = make_diffusion_task(), tmp_path_factory.mktemp("codes")
    stage = {"name": "vq", "autoencoder": {**tiny.CONFIG["autoencoder"], "kind": "vq", "num_codes": CODES}}
    base = Bundle({"name": "tiny", "clip": diffusion.base.config["clip"]}, {"clip": diffusion.base.params["clip"]})
    params = tiny.random_params(stage, "autoencoder")
    params["codebook"] *= 8.0  # as far apart as the latents, so that several codes are used
    merge([base, Bundle(stage, {"autoencoder": params}), Bundle({}, {}, diffusion.base.tokenizer)], name="tiny").save(
        root / "base", dtype="float32"
    )

    def make(name: str, *overrides: str) -> CodesTask:
        data = diffusion.config.data
        places = f"data.source={data.source}", f"data.data_dir={root}", f"data.neighbors={data.neighbors}"
        small = "data.split=", "data.size=16", "data.held_out_rows=4", "batch_size=2", f"base={root / 'base'}"
        few = "conditioning.candidates=4", "conditioning.neighbors=3", "sampling.height=16", "sampling.width=16"
        model = "model.width=16", "model.depth=2", "model.head_channels=8", "emphasis.style.neon=1"
        config = load_config(name, (*places, *small, *few, *model, *overrides))
        return task_module(config.task).make(config, root, lambda *_: None)

    return make


@pytest.fixture(autouse=True)
def ctrl_c_interrupts():
    """Lets Ctrl-C raise KeyboardInterrupt: a shell that starts the tests in the background has them ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
