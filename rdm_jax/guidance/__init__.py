"""What bends a sampling run: guides (denoiser to denoiser) and step hooks."""
