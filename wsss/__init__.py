"""Weakly supervised semantic segmentation: from image-level tags to a served segmentation model."""

__version__ = "0.1.0"
