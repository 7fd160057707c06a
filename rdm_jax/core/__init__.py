"""What every other room stands on: errors, files, images, random keys, trees, meshes."""
