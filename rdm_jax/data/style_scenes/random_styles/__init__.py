"""Random styles: thousands of ways to paint a scene, each drawn from its number."""
