"""Latents by iterative denoising: samplers under classifier-free and other guidance."""
