"""The pages of searches and ablations."""
