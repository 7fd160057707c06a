"""What all parts measure: a U-Net and its inputs, and the same network in PyTorch where that is installed."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import importlib.util
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import networks
import numpy as np
from full_size import Scaled
from jaxtyping import Float, Int
from sampling_tables.throughput import BATCHES

from rdm_jax.core import trees
from rdm_jax.models import abstract_params, build_denoiser
from rdm_jax.training.config import load_architecture
from rdm_jax.training.hardware import chip_of

TORCH = "torch", "diffusers"
COMPILED = "torch.compile, channels-last"
CUDNN_TYPES = "bfloat16", "float16"


@dataclasses.dataclass(frozen=True)
class Size:
    """How much is measured.

    Attributes:
      network: what differs from the `denoiser` section of rdm_imagenet.
      side: of the latents.
      images: generated, and trained on, at once; guidance evaluates the network on twice as many.
      steps: of whole samples with guidance.
      few_steps: of few-step models.
      batches: of few-step models.
      tokens: the pixels of a feature map, in the attention that is measured alone.
      calls: of an attention kernel in one program, so that the start of a program does not count.
      rounds: how often everything is timed.
    """

    network: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    side: int = 64
    images: int = 16
    steps: int = 50
    few_steps: int = 4
    batches: tuple[int, ...] = BATCHES
    tokens: tuple[int, ...] = (1024, 4096)
    calls: int = 50
    rounds: int = 10


TINY = Size(
    network={
        "model_channels": 32,
        "channel_mult": (1, 2),
        "num_res_blocks": 1,
        "attention_resolutions": (2,),
        "num_head_channels": 32,
        "context_dim": 16,
    },
    side=8,
    images=2,
    steps=2,
    few_steps=2,
    batches=(1, 2),
    tokens=(16,),
    calls=2,
    rounds=2,
)


@dataclasses.dataclass(frozen=True, eq=False)
class Job:
    """What all parts measure.

    Attributes:
      size: how much.
      dtype: that networks compute in.
      model: whose few-step sampling is measured.
      tiny: whether its network is replaced by a small one.
    """

    size: Size
    dtype: str
    model: str
    tiny: bool

    @property
    def settings(self) -> dict[str, Any]:
        """The `denoiser` section of the U-Net."""
        return {**load_architecture("rdm_imagenet").denoiser.to_dict(), **self.size.network}

    @property
    def peak(self) -> float | None:
        """FLOP/s of the card in the job's type; None if the card is not in the table of chips."""
        chip = chip_of(jax.devices()[0])
        return chip and float(getattr(chip, self.dtype))

    @property
    def kernels(self) -> dict[str, str]:
        """By the implementation of attention: why it cannot be measured here; "" where it can."""
        supported = jax.default_backend() == "gpu" and self.dtype in CUDNN_TYPES
        return {"xla": "", "cudnn": "" if supported else f"needs a GPU and {' or '.join(CUDNN_TYPES)}"}

    @property
    def without_torch(self) -> str:
        """Why PyTorch is not measured; "" where it is."""
        missing = [name for name in TORCH if importlib.util.find_spec(name) is None]
        if missing:
            return f"not measured: {' and '.join(missing)} not installed"
        torch: Any = importlib.import_module("torch")
        unequal = jax.default_backend() == "gpu" and not torch.cuda.is_available()
        return "not measured: this PyTorch does not find the GPU" if unequal else ""

    def network(self, attention: str | None = None, dtype: str | None = None) -> Any:
        """Returns the U-Net with an implementation of attention."""
        return build_denoiser({**self.settings, "dtype": dtype or self.dtype, "attention_implementation": attention})

    @functools.cached_property
    def inputs(
        self,
    ) -> tuple[Float[np.ndarray, "b h w c"], Int[np.ndarray, " b"], Float[np.ndarray, "b n d"]]:
        """Latents, times and tokens of one evaluation under guidance: the null conditions first."""
        generator, count, side = np.random.default_rng(0), 2 * self.size.images, self.size.side
        x = generator.standard_normal((count, side, side, self.settings["in_channels"]), np.float32)
        tokens = generator.standard_normal((count, 4, self.settings["context_dim"]), np.float32)
        tokens[: self.size.images] = 0
        return x, np.full(count, 500, np.int32), tokens

    @functools.cached_property
    def torch_case(self) -> networks.Case:
        """The same network in PyTorch, with the same inputs, and its parameters as ours."""
        torch: Any = importlib.import_module("torch")
        x, t, tokens = (torch.from_numpy(value) for value in self.inputs)
        inputs = x.permute(0, 3, 1, 2).contiguous(), t.long(), tokens
        return networks.unet_case(self.settings, self.dtype, inputs)

    @functools.cached_property
    def torch_program(self) -> tuple[Any, list[Any]]:
        """PyTorch's compiled network, channels last, and its inputs."""
        return networks.torch_programs(self.torch_case, self.dtype, True)[COMPILED]

    @functools.cached_property
    def params(self) -> dict[str, Any]:
        """The parameters of the U-Net in float32: those of PyTorch's, or random ones of equal shapes."""
        if not self.without_torch:
            return self.torch_case.params
        return random_params(self.network())

    @functools.cached_property
    def sampling_params(self) -> dict[str, Any]:
        """The parameters as they are for sampling, in the job's type on the card."""
        return jax.tree.map(lambda leaf: jnp.asarray(leaf, self.dtype), self.params)


def random_params(network: Any) -> dict[str, Any]:
    """Returns random parameters of a network in float32, with which its activations are about 1."""
    shapes = abstract_params(network)
    leaves = {name: Scaled(name, leaf.shape).read().astype(np.float32) for name, leaf in shapes.items()}
    return trees.unflatten(leaves)
