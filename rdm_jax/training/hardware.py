"""What accelerators can do at most, by their makers' data sheets.

Sources:
  v5e: https://cloud.google.com/tpu/docs/v5e (197 TFLOP/s, 16 GB, 819 GB/s; 400 GB/s of ICI per chip in both directions
    over a 2D torus; a pod of 256 has 6.4 Tbit/s of network).
  v5p: https://cloud.google.com/tpu/docs/v5p (459 TFLOP/s, 95 GB, 2765 GB/s; 1200 GB/s of ICI over a 3D torus; a pod of
    8960; 50 Gbit/s of network per chip).
  A100, H100, H200: NVIDIA's data sheets of the SXM modules, products without sparsity (312 and 989 TFLOP/s, in TF32
    half of that; 2039, 3350 and 4800 GB/s; NVLink 600 and 900 GB/s in both directions). Eight to a DGX, each with a
    network card of 200 Gbit/s (A100) or 400 Gbit/s.

A bandwidth between chips counts one direction. That of a TPU is one axis of its torus, the ring that a collective runs
around: one laid over more axes is faster, and one on an axis that is cut open is slower.
"""

from __future__ import annotations

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class Chip:
    """An accelerator's peaks.

    Attributes:
      name: what it is called in tables.
      bfloat16: FLOP/s of products of bfloat16, 2 for a multiplication and an addition.
      float32: FLOP/s of products of float32 at JAX's default precision: one pass of bfloat16 on TPUs, TF32 on GPUs.
      memory: bytes of HBM.
      memory_bandwidth: bytes/s between HBM and the chip.
      link_bandwidth: bytes/s that it sends to chips of its domain (ICI, NVLink).
      domain: how many chips such links hold together.
      network_bandwidth: bytes/s that it sends to chips of other domains.
    """

    name: str
    bfloat16: float
    float32: float
    memory: int
    memory_bandwidth: float
    link_bandwidth: float
    domain: int
    network_bandwidth: float


CHIPS = {
    chip.name: chip
    for chip in (
        Chip("v5e", 197e12, 197e12, 16 * 2**30, 819e9, 100e9, 256, 3.125e9),
        Chip("v5p", 459e12, 459e12, 95 * 2**30, 2765e9, 200e9, 8960, 6.25e9),
        Chip("A100", 312e12, 156e12, 80 * 10**9, 2039e9, 300e9, 8, 25e9),
        Chip("H100", 989e12, 494.5e12, 80 * 10**9, 3350e9, 450e9, 8, 50e9),
        Chip("H200", 989e12, 494.5e12, 141 * 10**9, 4800e9, 450e9, 8, 50e9),
    )
}
_TPU_KINDS = {"TPU v5 lite": "v5e", "TPU v5e": "v5e", "TPU v5": "v5p", "TPU v5p": "v5p"}


def chip_of(device: Any) -> Chip | None:
    """Returns the chip that a `jax.Device` is, or None if the table does not hold it (a CPU, another form)."""
    kind = device.device_kind
    if kind in _TPU_KINDS:
        return CHIPS[_TPU_KINDS[kind]]
    other_form = any(word in kind for word in ("PCIe", "PCIE", "NVL", "40GB"))  # other clocks, other memory
    for name in ("A100", "H100", "H200"):
        if kind.startswith(f"NVIDIA {name}") and not other_form:
            return CHIPS[name]
    return None
