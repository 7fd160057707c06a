"""Random styles made of real ones: one-color drawings are given other lines, fills, colors and pixels."""

from rdm_jax.training.restyling.collection import with_restyled as with_restyled
