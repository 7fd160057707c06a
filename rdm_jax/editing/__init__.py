"""Editing of pictures: canvases to paint on, inversion, and conditions mixed over time."""
