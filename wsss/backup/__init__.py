"""Backups of what a group keeps: made while people work, checked by restoring, restored into an empty place."""
