"""Datasets of images and tags: PASCAL VOC 2012, SBD, a plain folder, and the built-in shapes."""

from wsss.data.dataset import Dataset
from wsss.data.workspace import open_dataset

__all__ = ["Dataset", "open_dataset"]
