"""What a model is worth: statistics, classifiers that share nothing with it, and whether it swaps style."""
