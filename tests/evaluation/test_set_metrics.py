"""What numbers are called, and what a metric needs."""

import numpy as np
import pytest

from rdm_jax.core.errors import UserError
from rdm_jax.evaluation import set_metrics
from rdm_jax.evaluation.features import published
from rdm_jax.evaluation.features.extraction import SetFeatures
from rdm_jax.evaluation.features.networks import FeatureNetwork
from rdm_jax.evaluation.metrics.frechet import moments_of
from rdm_jax.evaluation.set_comparison import Comparison, MeasuredSet, Options
from tests.helpers import classifier, tiny


def comparison(network, count=40, **options):
    """Returns two random sets in features of a network."""
    sets = []
    for seed in range(2):
        generator = np.random.default_rng(seed)
        features = generator.normal(0.2 * seed, 1.0, (count, 16)).astype(np.float32)
        logits = generator.normal(size=(count, 5)).astype(np.float32)
        found = SetFeatures(moments_of(features), features, logits)
        sets.append(MeasuredSet(None, None, {network: found}, {"name": f"set {seed}", "images": count}))
    return Comparison(sets[0], sets[1], None, Options(**options))


def titles(network, names):
    rows = set_metrics.measure(comparison(network), set_metrics.parse_metrics(names), dict.fromkeys(names, network))
    return [row["title"] for row in rows]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (published.INCEPTION, ["FID", "KID", "Inception Score"]),
        (published.VIT_B_32, ["CLIP-FID", f"kernel distance in features of {published.VIT_B_32}"]),
        (published.VIT_L_14_336, [f"Fréchet distance in features of {published.VIT_L_14_336}"]),
        (
            None,
            ["Fréchet distance in features of the clip of 'tiny'", "kernel distance in features of the clip of 'tiny'"],
        ),
    ],
)
def test_only_published_weights_have_the_names_of_the_literature(name, expected):
    network = FeatureNetwork(tiny.bundle(), "clip")
    vars(network)["published"] = name
    assert titles(network, ["fid", "kid", "is"][: len(expected)]) == expected
    assert (titles(network, ["cmmd"]) == ["CMMD"]) == (name == published.VIT_L_14_336)


def test_intervals_of_distances_hold_them():
    network = FeatureNetwork(classifier.bundle(), "classifier")
    sets = comparison(network, count=200, bootstrap=200)
    for name in ("fid", "cmmd"):
        (row,) = set_metrics.measure(sets, set_metrics.parse_metrics([name]), {name: network})
        assert row["low"] < row["value"] < row["high"]


def test_a_rank_that_is_not_full_is_refused_or_stated():
    network = FeatureNetwork(classifier.bundle(), "classifier")
    metrics = set_metrics.parse_metrics(["fid"])
    with pytest.raises(UserError, match="set 0 has 16 images, and a covariance of 16 features needs 17"):
        set_metrics.measure(comparison(network, 16), metrics, {"fid": network})
    (row,) = set_metrics.measure(comparison(network, 16, allow_few=True), metrics, {"fid": network})
    assert row["parameters"]["too_few_images"] == ["set 0", "set 1"]


def test_networks_are_the_first_of_their_kind_and_shared():
    clip, other = tiny.bundle(), classifier.bundle()
    names = set_metrics.parse_metrics(["fid", "kid", "clip-fid", "gram", "psnr"])
    found = set_metrics.networks_of(names, [other, clip], "clean")
    assert found["fid"] is found["kid"] is found["clip-fid"] and found["fid"].part == "clip"
    assert found["gram"].bundle is other and "psnr" not in found
    assert set_metrics.networks_of(names, [clip], "clean")["gram"].stand_in
