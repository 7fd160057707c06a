"""Sharing models and databases: their cards, and what a repository of the Hugging Face Hub holds of them."""
