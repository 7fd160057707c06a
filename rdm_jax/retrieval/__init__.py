"""Embeddings of images and texts, databases of them, and the nearest rows of a query."""
