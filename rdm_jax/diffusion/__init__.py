"""The mathematics of noise: schedule, parameterization, objective and samplers; nothing here depends on a network."""
