"""Numerics that learn nothing."""
