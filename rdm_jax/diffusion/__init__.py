"""The mathematics of noise: schedule, parameterisation, objective and samplers; no network is known here."""
