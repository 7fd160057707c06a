"""Metrics against torch-fidelity, clean-fid, prdc and piq on the same arrays and networks."""

from __future__ import annotations

import sys
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from rdm_jax.bundle import Bundle
from rdm_jax.convert.conversion import convert
from rdm_jax.evaluation.features.extraction import extract
from rdm_jax.evaluation.features.image_sets import open_images
from rdm_jax.evaluation.features.networks import FeatureNetwork
from rdm_jax.evaluation.features.resizing import resize
from rdm_jax.evaluation.metrics.class_score import class_score
from rdm_jax.evaluation.metrics.frechet import frechet_distance, moments_of
from rdm_jax.evaluation.metrics.kernel import kernel_distance
from rdm_jax.evaluation.metrics.manifold import manifold
from rdm_jax.evaluation.metrics.pixels import psnr, ssim

pytestmark = pytest.mark.filterwarnings("ignore")
DEFAULTS = {"verbose": False, "rng_seed": 2020}


@pytest.fixture(scope="module")
def fidelity(torch, vision):
    return pytest.importorskip("torch_fidelity", reason="torch-fidelity is not here; see make parity")


@pytest.fixture(scope="module")
def sets():
    generator = np.random.default_rng(0)
    mixing = generator.normal(size=(24, 24)) / 5
    return [(generator.normal(shift, 1.0, (600, 24)) @ mixing).astype(np.float32) for shift in (0.0, 0.4)]


def test_the_frechet_distance_is_torch_fidelitys(torch, fidelity, sets):
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

    theirs = fid_statistics_to_metric(*(fid_features_to_statistics(torch.tensor(one)) for one in sets), False)
    ours = frechet_distance(*(moments_of(one) for one in sets))
    assert ours == pytest.approx(theirs["frechet_inception_distance"], rel=1e-5)


def test_the_kernel_distance_is_torch_fidelitys_subset_by_subset(torch, fidelity, sets):
    from torch_fidelity.metric_kid import kid_features_to_metric

    options = {"kid_subsets": 20, "kid_subset_size": 100, **DEFAULTS}
    theirs = kid_features_to_metric(*(torch.tensor(one) for one in sets), **options)
    ours = kernel_distance(*sets, subsets=20, size=100)
    assert ours.mean == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-4)
    assert ours.std == pytest.approx(theirs["kernel_inception_distance_std"], rel=1e-3)


def test_the_class_score_is_torch_fidelitys(torch, fidelity, sets):
    from torch_fidelity.metric_isc import isc_features_to_metric

    theirs = isc_features_to_metric(torch.tensor(sets[0]))
    ours = class_score(sets[0])
    assert ours.mean == pytest.approx(theirs["inception_score_mean"], rel=1e-7)
    assert ours.std == pytest.approx(theirs["inception_score_std"], rel=1e-6)


def test_precision_and_recall_are_torch_fidelitys(torch, fidelity, sets):
    from torch_fidelity.metric_prc import calculate_precision_recall_full

    precision, recall = calculate_precision_recall_full(*(torch.tensor(one).double() for one in sets), 3)
    found = manifold(*sets)
    assert (found.precision.mean(), found.recall.mean()) == (pytest.approx(precision), pytest.approx(recall))
    assert 0.05 < precision < 0.95


def test_density_and_coverage_are_those_of_their_authors(sets, monkeypatch):
    scipy_distance = pytest.importorskip("scipy.spatial.distance")
    pairwise = ModuleType("sklearn.metrics")
    pairwise.pairwise_distances = lambda x, y, metric, n_jobs: scipy_distance.cdist(x, y)
    metrics = ModuleType("sklearn")
    metrics.metrics = pairwise
    monkeypatch.setitem(sys.modules, "sklearn", metrics)
    monkeypatch.setitem(sys.modules, "sklearn.metrics", pairwise)
    prdc = pytest.importorskip("prdc", reason="prdc is not here; see make parity")
    theirs = prdc.compute_prdc(sets[1].astype(float), sets[0].astype(float), nearest_k=5)
    found = manifold(sets[0], sets[1], k=5)
    for name, value in theirs.items():
        assert getattr(found, name).mean() == pytest.approx(value), name


def images(count, seed, size=40):
    generator = np.random.default_rng(seed)
    coarse = generator.integers(0, 256, (count, 5, 5, 3), dtype=np.uint8)
    return [np.asarray(Image.fromarray(one).resize((size, size - 8), Image.Resampling.BICUBIC)) for one in coarse]


@pytest.mark.parametrize("mode", ["clean", "legacy_pytorch"])
def test_resizing_is_clean_fids(torch, vision, mode):
    module = pytest.importorskip("cleanfid.resize", reason="clean-fid is not here; see make parity")
    for image in images(3, 1) + images(1, 2, 320):
        np.testing.assert_allclose(resize(image, mode), module.build_resizer(mode)(image), atol=2e-3)


def test_legacy_resizing_is_torch_fidelitys(torch, fidelity):
    from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x

    for image in images(2, 1) + images(1, 2, 320):
        tensor = torch.tensor(image.transpose(2, 0, 1)[None].astype(np.float32))
        theirs = interpolate_bilinear_2d_like_tensorflow1x(tensor, size=(299, 299), align_corners=False)
        np.testing.assert_allclose(resize(image, "legacy_tensorflow"), theirs[0].numpy().transpose(1, 2, 0), atol=2e-3)


def test_fid_of_files_is_torch_fidelitys_to_four_digits(torch, fidelity, randomized, tmp_path):
    """The whole path: files, resizing, converted weights, features, distance; Inception with random weights."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

    extractor = FeatureExtractorInceptionV3.__new__(FeatureExtractorInceptionV3)
    weights = tmp_path / "weights.pth"

    def randomly(network, state):
        return torch.save(randomized(network).state_dict(), weights)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.nn.Module, "load_state_dict", randomly)
        patch.setattr(torch, "load", lambda *_, **__: {})
        extractor.__init__("random", ["2048", "logits_unbiased"], feature_extractor_weights_path="none")
    convert(weights).write(tmp_path / "out")
    network = FeatureNetwork(Bundle.open(tmp_path / "out"), "inception", "legacy_tensorflow", batch=4)
    ours, theirs = [], []
    for seed in (1, 2):
        (tmp_path / str(seed)).mkdir()
        for number, image in enumerate(images(6, seed)):
            Image.fromarray(image).save(tmp_path / str(seed) / f"{number}.png")
        found = extract(open_images(tmp_path / str(seed)), [network], True)[1][0]
        batch = torch.tensor(np.stack(images(6, seed)).transpose(0, 3, 1, 2))
        pool, logits = extractor(batch)
        scale = float(pool.abs().max())
        np.testing.assert_allclose(found.features / scale, pool.numpy() / scale, atol=1e-4)
        np.testing.assert_allclose(found.logits, logits.numpy(), atol=1e-4 * float(logits.abs().max()))
        # Some of the features: the eigenvalues of all 2,048 take torch-fidelity minutes.
        ours.append(moments_of(found.features[:, :300]))
        theirs.append(fid_features_to_statistics(pool[:, :300].double()))
    expected = fid_statistics_to_metric(*theirs, False)["frechet_inception_distance"]
    assert frechet_distance(*ours) == pytest.approx(expected, rel=1e-4)


def test_psnr_and_ssim_are_piqs(torch, vision):
    piq = pytest.importorskip("piq", reason="piq is not here; see make parity")
    a = np.stack(images(4, 1))
    noise = np.random.default_rng(0).normal(0, 20, a.shape)
    b = np.clip(a + noise, 0, 255).astype(np.uint8)
    x, y = (torch.tensor(one.transpose(0, 3, 1, 2)).double() for one in (a, b))
    np.testing.assert_allclose(psnr(a, b), piq.psnr(x, y, data_range=255.0, reduction="none"), rtol=1e-6)
    theirs = piq.ssim(x, y, data_range=255.0, reduction="none", downsample=False)
    np.testing.assert_allclose(ssim(a, b), theirs, rtol=1e-6)
