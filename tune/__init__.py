"""The search: spaces taken from the methods' settings, trials on Ray, each a run like any other."""
