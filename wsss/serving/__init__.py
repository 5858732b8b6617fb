"""The packaged model and what serves it."""
