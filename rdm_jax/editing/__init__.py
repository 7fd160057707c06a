"""Editing of images: canvases to paint on, inversion, and conditions mixed over time."""
