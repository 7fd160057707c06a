"""Images that a model in training generates, for the same conditions and seed at every step."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, UInt8

from rdm_jax.bundle import Bundle
from rdm_jax.generator import Generator, join


@dataclasses.dataclass
class Figures:
    """Generates images by a bundle's own sampling settings; what the first call compiles serves all later ones.

    Attributes:
      generator: of the first bundle; None before the first call.
    """

    generator: Generator | None = None

    def generate(
        self,
        bundle: Bundle,
        queries: Float[np.ndarray, "q d"],
        neighbors: Float[np.ndarray, "q k d"] | None,
        *,
        texts: Sequence[str],
        trained: Sequence[str],
        condition: str,
        seed: int,
    ) -> UInt8[np.ndarray, "q h w 3"]:
        """Returns an image for each query.

        Args:
          bundle: a whole model, of the same networks in every call.
          queries: the query vectors.
          neighbors: the vectors of their neighbors; None where the condition has none.
          texts: of the queries, for models that read them.
          trained: the parts that differ from call to call.
          condition: a name in `request.CONDITIONS`.
          seed: of the random numbers; image i's are the same in every call.
        """
        if self.generator is None:
            self.generator = Generator.load(bundle)
        else:
            changed = self.generator.with_params({part: bundle.params[part] for part in trained})
            current = dataclasses.replace(changed.bundle, config=bundle.config)  # a learned null token is in it
            self.generator = dataclasses.replace(changed, model=dataclasses.replace(changed.model, bundle=current))
        plan = self.generator.plan_vectors(queries, neighbors, texts, condition=condition, seed=seed)
        return join(list(self.generator.generate(plan))).images
