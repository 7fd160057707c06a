"""LPIPS and Inception-v3 against their authors' and torchvision's, with random weights, converted here.

Torchvision stands in a folder of its own (`make parity`): where it was built for another PyTorch, whatever asks whether
it is there would fail, and diffusers asks. Its networks need none of its compiled operators.
"""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import pytest

from rdm_jax.bundle import Bundle
from rdm_jax.convert.conversion import convert

pytestmark = pytest.mark.filterwarnings("ignore")


def test_lpips_is_that_of_its_authors(torch, tensors, vision, randomized, tmp_path):
    lpips = pytest.importorskip("lpips", reason="lpips is not here; see make parity")
    network = randomized(lpips.LPIPS(net="vgg", pretrained=False, pnet_rand=True, verbose=False))
    torch.save(network.state_dict(), tmp_path / "lpips.pth", _use_new_zipfile_serialization=False)
    convert(tmp_path / "lpips.pth").write(tmp_path / "out")
    bundle = Bundle.open(tmp_path / "out")
    x = torch.tanh(tensors.random(2, 3, 64, 48))
    y = 0.7 * x + 0.3 * x.flip(0)
    with torch.inference_mode():
        tensors.close(
            bundle.lpips.apply({"params": bundle.params["lpips"]}, tensors.nhwc(x), tensors.nhwc(y)),
            network(x, y).flatten(),
        )
    published = Path(lpips.__file__).parent / "weights/v0.1/vgg.pth"  # as PyTorch before 1.6 wrote it
    vgg = randomized(vision.models.vgg16(weights=None))
    torch.save({k: v for k, v in vgg.state_dict().items() if "features" in k}, tmp_path / "vgg16.pth")
    convert(published, vgg=tmp_path / "vgg16.pth").write(tmp_path / "published")
    weights = Bundle.open(tmp_path / "published").params["lpips"]
    wanted = torch.load(published, map_location="cpu", weights_only=True)
    for stage in range(5):
        np.testing.assert_array_equal(
            weights[f"weights_{stage}"]["kernel"][:, 0], wanted[f"lin{stage}.model.1.weight"].numpy()[0, :, 0, 0]
        )


def test_inception_is_that_of_the_frechet_distance(torch, tensors, vision, randomized, tmp_path, monkeypatch):
    """Torchvision's, with what the release of 2015 has otherwise: averages without the margin, a maximum at the end."""
    pool, functional = torch.nn.functional.avg_pool2d, torch.nn.functional
    network = vision.models.inception_v3(weights=None, num_classes=1008, aux_logits=False, init_weights=False)
    network = randomized(network)
    monkeypatch.setattr(functional, "avg_pool2d", functools.partial(pool, count_include_pad=False))
    last, seen = network.Mixed_7c, {}

    def last_block(x):
        with monkeypatch.context() as patch:
            patch.setattr(functional, "avg_pool2d", functional.max_pool2d)
            return type(last)._forward(last, x)

    last._forward = last_block
    network.avgpool.register_forward_hook(lambda module, inputs, out: seen.update(pool=out.flatten(1)))
    network.Mixed_6e.register_forward_hook(lambda module, inputs, out: seen.update(spatial=out))
    torch.save(network.state_dict(), tmp_path / "pt_inception.pth", _use_new_zipfile_serialization=False)
    convert(tmp_path / "pt_inception.pth").write(tmp_path / "out")
    bundle = Bundle.open(tmp_path / "out")
    x = torch.tanh(tensors.random(2, 3, 139, 107))
    with torch.inference_mode():
        seen["logits"] = network(x)
    ours = bundle.inception.apply({"params": bundle.params["inception"]}, tensors.nhwc(x))
    assert set(ours) == set(seen)
    for name, theirs in seen.items():
        scale = float(theirs.abs().max())
        tensors.close(ours[name] / scale, theirs / scale)
