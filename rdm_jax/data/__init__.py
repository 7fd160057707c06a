"""Images and captions in (folders, zips, TFDS, the procedural set), batches out (grain)."""
