"""A package's or a step's `model.json` as it is read: every format so far.

It is read as plain data. A later format may add keys: it has another number, so that no version answers with half of
what a package asks for. `wsss.serving.description` has formats 4 and 5; a DCSM's "pooling" is an unknown key to earlier
versions, which refuse it. Format 3 had no "direct". Format 2 had no "inference": one scale, the image's own. Format 1
had the network's keys alone, and the names in the metadata of `MLmodel`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from wsss.classes import Classes
from wsss.errors import UserError
from wsss.serving.description import (
    FORMAT,
    KINDS,
    AnyNetwork,
    Description,
    InferenceKeys,
    Network,
    check_number,
    colours,
    describe,
)
from wsss.serving.networks import NETWORKS, SEGMENTER

DESCRIPTION = "model.json"
_METADATA = "classes"
_MAX_BYTES = 1 << 20

Kind = TypeVar("Kind", bound=BaseModel)


def describe_step(path: Path, kind: str = SEGMENTER) -> AnyNetwork:
    """The network that a training step left in its `model.json`, one of `NETWORKS`.

    Whether it has a background is known from the dataset's classes, and left out.

    Raises:
        UserError: the file is no description of a network.
    """
    chosen = next(each for each in KINDS if each.model_fields["kind"].default == kind)
    return _checked(chosen, path, {key: value for key, value in _content(path).items() if key != "background"})


def read_description(package: Path) -> Description:
    """The description of a package, also of one in an earlier format.

    Raises:
        UserError: it is missing or damaged, of a later format, has unknown keys, or values that are wrong or absurd.
    """
    path = package / DESCRIPTION
    content = _content(path)
    number = content.get("format", 1)
    if number == 1:
        network = _checked(Network, path, {key: value for key, value in content.items() if key != "format"})
        return describe(network, _classes_of_mlmodel(package / "MLmodel"))
    if number == 2 and "inference" not in content:
        content = {**content, "format": 4, "inference": InferenceKeys().model_dump(mode="json")}
    elif number == 3 and "direct" not in content:
        content = {**content, "format": 4}
    elif number not in (4, FORMAT) or not isinstance(number, int):
        raise UserError(
            f"{path} is of format {number!r}, this version of wsss reads 1 to {FORMAT}; load it with the version that "
            "made it, or register the run's model again"
        )
    description = _checked(Description, path, content)
    if description.format == 4 and not {"background", "pixels"}.isdisjoint(content):
        raise UserError(f"{path} describes no model that wsss knows: background and pixels came with format {FORMAT}")
    classes = Classes(description.classes, description.background)
    check_number(str(path), description.network, classes)
    if description.palette != colours(classes):
        raise UserError(f"{path}: palette is not the VOC colour map, the only one that this version of wsss draws with")
    return description


def _content(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(_read(path))
    except (ValueError, RecursionError):
        raise UserError(f"{path} is damaged: it is not JSON") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} is damaged: it is no JSON object")
    return content


def _classes_of_mlmodel(path: Path) -> Classes:
    try:
        content = yaml.safe_load(_read(path))
    except (yaml.YAMLError, ValueError, RecursionError):
        raise UserError(f"{path} is damaged: it is not YAML") from None
    metadata = content.get("metadata") if isinstance(content, dict) else None
    names = metadata.get(_METADATA) if isinstance(metadata, dict) else None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError(f"{path}: the metadata lists no classes, so the model was not packaged by wsss")
    return Classes(tuple(names))


def _read(path: Path) -> bytes:
    if not path.is_file():
        raise UserError(f"{path} is missing; it was not packaged by wsss")
    if path.stat().st_size > _MAX_BYTES:
        raise UserError(f"{path} is larger than {_MAX_BYTES >> 20} MiB, too large for a description of a model")
    return path.read_bytes()


def _checked(kind: type[Kind], path: Path, content: dict[str, Any]) -> Kind:
    try:
        return kind.model_validate_json(json.dumps(content))
    except ValidationError as error:
        problems = [f"{_key(p['loc'])}: {_words(p['type'], p['msg'])}" for p in error.errors()]
        raise UserError(f"{path} describes no model that wsss knows: {'; '.join(problems[:5])}") from None


def _key(place: Sequence[int | str]) -> str:
    """Where in the file a problem is; which of the networks was read is no key."""
    return ".".join(str(part) for part in place if part not in NETWORKS)


def _words(kind: str, message: str) -> str:
    return "unknown key" if kind == "extra_forbidden" else message.replace("Input", "it").replace("Field", "it is")
