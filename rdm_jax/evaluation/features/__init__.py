"""Features of sets of images: reading, resizing, evaluating networks, and statistics on disk."""
