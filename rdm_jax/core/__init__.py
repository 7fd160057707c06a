"""What all other packages use: errors, files, images, random keys, trees, meshes."""
