"""Stages that several methods share, and the inference they have in common."""
