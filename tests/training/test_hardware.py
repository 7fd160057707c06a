import dataclasses
from types import SimpleNamespace

import jax
import pytest

from rdm_jax.training.hardware import CHIPS, chip_of


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("TPU v5 lite", "v5e"),
        ("TPU v5e", "v5e"),
        ("TPU v5", "v5p"),
        ("TPU v5p", "v5p"),
        ("NVIDIA A100-SXM4-80GB", "A100"),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA H200", "H200"),
    ],
)
def test_known_kinds(kind, name) -> None:
    assert chip_of(SimpleNamespace(device_kind=kind)) is CHIPS[name]


@pytest.mark.parametrize(
    "kind",
    ["cpu", "TPU v4", "TPU v6 lite", "NVIDIA H100 PCIe", "NVIDIA H100 NVL", "NVIDIA A100-PCIE-40GB", "NVIDIA L4"],
)
def test_other_kinds_are_none_of_the_table(kind) -> None:
    assert chip_of(SimpleNamespace(device_kind=kind)) is None


def test_the_device_here_has_a_kind() -> None:
    assert chip_of(jax.devices("cpu")[0]) is None


def test_units() -> None:
    # A pod of v5e is sold as 50.6 PFLOP/s and 6.4 Tbit/s of network, one of v5p as 4.1 EFLOP/s.
    v5e, v5p = CHIPS["v5e"], CHIPS["v5p"]
    assert v5e.bfloat16 * v5e.domain == pytest.approx(50.63e15, rel=0.01)
    assert v5e.network_bandwidth * v5e.domain * 8 == pytest.approx(6.4e12)
    assert v5p.bfloat16 * v5p.domain == pytest.approx(4.11e18, rel=0.01)
    for chip in CHIPS.values():
        assert chip.memory_bandwidth > chip.link_bandwidth > chip.network_bandwidth
        assert chip.float32 <= chip.bfloat16
        with pytest.raises(dataclasses.FrozenInstanceError):
            chip.memory = 0
