"""The options of autoregressive models."""

from __future__ import annotations

import dataclasses

from rdm_jax.core.options import option


@dataclasses.dataclass(frozen=True)
class Options:
    """How codes are chosen from logits, in this order: guidance, temperature, top-k, top-p.

    Attributes:
      guidance_scale: of the conditional over the unconditional logits; 1 disables it.
      temperature: logits are divided by it; above 0.
      top_k: only the k most probable codes remain; 0 keeps all.
      top_p: only the most probable codes whose probabilities add up to p remain, in (0, 1]; 1 keeps all.
    """

    guidance_scale: float = option(1.0, "classifier-free guidance scale; 1 disables it", metavar="G", label="CFG scale")
    temperature: float = option(1.0, "divides the logits, above 0", metavar="T", label="Temperature")
    top_k: int = option(0, "only the K most probable codes; 0 keeps all, 1 is greedy", metavar="K", label="Top-k")
    top_p: float = option(
        1.0, "only the most probable codes that add up to P, above 0, up to 1", metavar="P", label="Top-p"
    )
