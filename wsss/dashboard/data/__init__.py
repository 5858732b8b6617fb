"""The page Data: what is in a dataset."""
