"""Images with captions from folders, zips, TFDS and the procedural set, and batches of them (grain)."""
