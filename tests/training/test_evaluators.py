"""Evaluators in training: by name, on images of held-out conditions, the same as the metrics of two sets."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from rdm_jax.bundle import Bundle
from rdm_jax.core.errors import UserError
from rdm_jax.data.array_source import ArraySource
from rdm_jax.evaluation.features.extraction import extract
from rdm_jax.evaluation.features.networks import FeatureNetwork
from rdm_jax.evaluation.metrics.kernel import kernel_distance
from rdm_jax.training.evaluators import Evaluators
from tests.helpers import classifier

SAMPLING = (
    "sampling.steps=2",
    "sampling.height=16",
    "sampling.width=16",
    "sampling.condition=neighbors",
    "data.held_out_rows=16",
    "eval_every=1",
)


@pytest.fixture(scope="module")
def features(tmp_path_factory):
    folder = tmp_path_factory.mktemp("features") / "classifier"
    classifier.bundle().save(folder, "float32")
    return folder


@pytest.mark.slow
def test_a_set_metric_is_that_of_generated_and_held_out_images(make_diffusion_task, features):
    task = make_diffusion_task(*SAMPLING, "evaluators=loss,kid", f"evaluator_features={features}")
    evaluators = Evaluators.of(task.config, task)
    params, _ = jax.jit(task.init)(jax.random.key(0))
    params = jax.device_get(params)
    values = dict(evaluators.measure(task, params))
    name = "kernel-distance-in-features-of-the-classifier-of-random"
    assert set(values) == {"loss", name}
    generated, real = task.generated(params, 16)
    assert np.array_equal(real, np.stack([np.asarray(task.images.images[row]) for row in task.held_out]))
    assert len(generated) == 16
    network = FeatureNetwork(Bundle.open(features), "classifier")
    ours, theirs = (
        extract(ArraySource("images", images), [network], keep=True)[1][0].features for images in (generated, real)
    )
    assert ours is not None and theirs is not None
    expected = kernel_distance(ours, theirs, 100, 16, task.config.seed or 2020).mean
    assert values[name] == pytest.approx(expected, rel=1e-5, abs=1e-7)
    assert dict(evaluators.measure(task, params)) == values


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["evaluators=loss,kidd"], r"unknown evaluator 'kidd'; did you mean 'kid'"),
        (["evaluators=fid"], r"unknown evaluator 'fid'.*`rdm evaluate model` has the other metrics"),
        (["evaluators=kid", "data.held_out_rows=4"], "need 16, and task 'diffusion' has 4 here"),
        (["evaluators=kid", "evaluated_images=8"], "need 16, and task 'diffusion' has 8 here"),
    ],
)
def test_evaluators_that_cannot_be_are_refused_before_training(make_diffusion_task, overrides, message):
    task = make_diffusion_task(*SAMPLING, *overrides)
    with pytest.raises(UserError, match=message):
        Evaluators.of(task.config, task)


def test_the_losses_alone_need_no_network(make_diffusion_task):
    task = make_diffusion_task("eval_every=1")
    evaluators = Evaluators.of(task.config, task)
    assert evaluators.loss and not evaluators.metrics
    none = make_diffusion_task(*SAMPLING, "eval_every=0", "evaluators=kid")
    assert not Evaluators.of(none.config, none).networks
