"""What a model is worth: statistics, judges that share nothing with it, and whether it swaps style."""
