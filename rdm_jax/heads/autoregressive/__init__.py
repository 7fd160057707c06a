"""Images as sequences of codes, sampled one after another."""
