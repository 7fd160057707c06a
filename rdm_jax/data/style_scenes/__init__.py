"""A procedural set of 64x64 images: twelve subjects in eight colors on six grounds, in twelve styles."""
