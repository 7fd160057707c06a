"""The tabs of the page, one file each; what they share is in `shared`."""
