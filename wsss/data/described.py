"""A dataset as the record of a run knows it: what it is called and holds, without an image."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wsss.classes import Classes
from wsss.data.dataset import Dataset
from wsss.errors import UserError


def facts(dataset: Dataset) -> dict[str, Any]:
    """What is known of a dataset without its images and tags, JSON-ready."""
    return {
        "name": dataset.name,
        "kind": dataset.kind,
        "classes": list(dataset.classes.names),
        "tags_source": dataset.tags_source,
        "splits": {split: list(ids) for split, ids in dataset.splits.items()},
        "digest": dataset.digest,
    }


def described(content: Mapping[str, Any], where: str) -> Dataset:
    """The dataset of `facts`, which has neither images nor tags.

    Args:
        content: what `facts` gave.
        where: it comes from, for the error message.

    Raises:
        UserError: it is something else.
    """
    try:
        texts = {key: content[key] for key in ("name", "kind", "tags_source", "digest")}
        if not all(isinstance(text, str) for text in texts.values()):
            raise TypeError("names must be text")
        splits = {str(split): tuple(map(str, ids)) for split, ids in content["splits"].items()}
        classes = Classes(tuple(map(str, content["classes"])))
    except (KeyError, TypeError, ValueError, AttributeError, UserError) as error:
        raise UserError(f"{where} does not describe its dataset ({error}); it is damaged") from None
    return Dataset(root=Path(), classes=classes, settings={}, splits=splits, _images={}, _tags={}, **texts)
