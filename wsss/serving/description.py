"""`model.json`: what a package says of its network, its classes and the pixels it expects, read as plain data.

    {"format": 2, "network": {...}, "classes": [...], "palette": [...], "preprocessing": {"mean": [...], "std": [...]}}

A later format may add keys (scales, mirrored copies, a CRF): it has another number, so that no version answers with
half of what a package asks for. Format 1 had the network's keys alone, and the names in the metadata of `MLmodel`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from wsss.classes import Classes, palette
from wsss.data.augmentation import MEAN, STD
from wsss.errors import UserError
from wsss.nets.backbones import BACKBONES

DESCRIPTION = "model.json"
FORMAT = 2
_METADATA = "classes"
_MAX_BYTES = 1 << 20

_Channel = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
_Deviation = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
_Byte = Annotated[int, Field(ge=0, le=255)]


class _Plain(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


Kind = TypeVar("Kind", bound=_Plain)


class Network(_Plain):
    """The arguments of `wsss.nets.deeplab.DeepLab`; `classes` counts the background."""

    kind: Literal["deeplab"] = "deeplab"
    classes: int = Field(ge=2, le=255)
    backbone: Literal[BACKBONES]  # type: ignore[valid-type]
    output_stride: Literal[8, 16]
    rates: tuple[Annotated[int, Field(ge=1, le=64)], ...] = Field(min_length=1, max_length=16)


class Preprocessing(_Plain):
    """Mean and deviation of the channels, of RGB in [0, 1]."""

    mean: tuple[_Channel, _Channel, _Channel] = MEAN
    std: tuple[_Deviation, _Deviation, _Deviation] = STD


class Description(_Plain):
    """The content of `model.json`."""

    format: Literal[2]
    network: Network
    classes: tuple[str, ...]
    palette: tuple[tuple[_Byte, _Byte, _Byte], ...]
    preprocessing: Preprocessing


def describe_step(path: Path) -> Network:
    """The network that a training step left in its `model.json`.

    Raises:
        UserError: the file is no description of a network.
    """
    return _checked(Network, path, _content(path))


def describe(network: Network, classes: Classes) -> Description:
    """The description of a package that is made now.

    Raises:
        UserError: the network has another number of classes than there are names.
    """
    _check_number("the network", network, classes)
    colours = [tuple(colour) for colour in palette()[: network.classes].tolist()]
    return Description(
        format=2, network=network, classes=classes.names, palette=tuple(colours), preprocessing=Preprocessing()
    )


def read_description(package: Path) -> Description:
    """The description of a package, also of one in format 1.

    Raises:
        UserError: it is missing or damaged, of a later format, has unknown keys, or values that are wrong or absurd.
    """
    path = package / DESCRIPTION
    content = _content(path)
    number = content.get("format", 1)
    if number == 1:
        network = _checked(Network, path, {key: value for key, value in content.items() if key != "format"})
        return describe(network, _classes_of_mlmodel(package / "MLmodel"))
    if number != FORMAT or not isinstance(number, int):
        raise UserError(
            f"{path} is of format {number!r}, this version of wsss reads 1 and {FORMAT}; load it with the version that "
            "made it, or register the run's model again"
        )
    description = _checked(Description, path, content)
    classes = Classes(description.classes)
    _check_number(str(path), description.network, classes)
    if description.palette != describe(description.network, classes).palette:
        raise UserError(f"{path}: palette is not the VOC colour map, the only one that this version of wsss draws with")
    return description


def _check_number(what: str, network: Network, classes: Classes) -> None:
    if network.classes != len(classes) + 1:
        raise UserError(f"{what} has {network.classes} classes, background included, not {len(classes) + 1}")


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
        problems = [f"{'.'.join(map(str, p['loc']))}: {_words(p['type'], p['msg'])}" for p in error.errors()]
        raise UserError(f"{path} describes no model that wsss knows: {'; '.join(problems[:5])}") from None


def _words(kind: str, message: str) -> str:
    return "unknown key" if kind == "extra_forbidden" else message.replace("Input", "it").replace("Field", "it is")
