"""Evaluation of models: statistics, independent classifiers, whether another database means another style, guidance."""
