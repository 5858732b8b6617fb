"""`model.json`: what a package says of its network, its classes, the pixels it expects and how it predicts.

    {"format": 5, "network": {...}, "classes": [...], "palette": [...], "preprocessing": {"mean": [...], "std": [...]},
     "inference": {"sides": [LOW, HIGH], "scales": [...], "flip": false, "crf": null or {...}}, "direct": null or {...},
     "background": false, "pixels": {...}}

It is read as plain data. A later format may add keys: it has another number, so that no version answers with half of
what a package asks for. Format 5 is format 4 with the last line: what has a background and takes RGB files is still
written as 4. In both, "network" of a DCSM that pools by the mean says so ("pooling"), which earlier versions refuse as
an unknown key. Format 3 had no "direct". Format 2 had no "inference": one scale, the image's own. Format 1 had the
network's keys alone, and the names in the metadata of `MLmodel`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from wsss.classes import Classes, palette
from wsss.data.augmentation import MEAN, STD
from wsss.data.pixels import Pixels
from wsss.errors import UserError
from wsss.nets.backbones import BACKBONES
from wsss.serving.deployed import MAX_SIDE
from wsss.serving.heatmaps import Direct, direct_of
from wsss.serving.networks import NETWORKS, SEGMENTER
from wsss.serving.segmenter import Inference
from wsss.settings import flatten, parse
from wsss.stages.refine import CrfSettings

DESCRIPTION = "model.json"
FORMAT = 5
_METADATA = "classes"
_MAX_BYTES = 1 << 20

_Channel = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
_Deviation = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
_Side = Annotated[int, Field(ge=1, le=1 << 15)]
_Scale = Annotated[float, Field(ge=0.1, le=8, allow_inf_nan=False)]
_Cell = Literal[2, 4, 8, 16]
_Background = Literal["power", "constant", "none"]
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


class Localizer(_Plain):
    """The arguments of a localizer that predicts without a segmenter; `classes` does not count the background."""

    classes: int = Field(ge=1, le=254)
    backbone: Literal[BACKBONES]  # type: ignore[valid-type]
    output_stride: Literal[8, 16]
    dropout: float = Field(ge=0, lt=1)


class FcnMil(Localizer):
    """Those of `wsss.methods.fcn_mil.network.FcnMil`."""

    kind: Literal["fcn_mil"] = "fcn_mil"


class Dcsm(Localizer):
    """Those of `wsss.methods.dcsm.network.DcsmNet`."""

    kind: Literal["dcsm"] = "dcsm"
    pooling: Literal["max", "average"] = "max"


class Wildcat(Localizer):
    """Those of `wsss.methods.wildcat.Wildcat`."""

    kind: Literal["wildcat"] = "wildcat"
    per_class: int = Field(ge=1, le=64)
    k_top: float = Field(ge=0, le=1 << 30)
    k_bottom: float = Field(ge=0, le=1 << 30)
    alpha: float = Field(ge=0, le=10)
    legacy_half: bool
    legacy_grad_scale: bool


AnyNetwork = Network | FcnMil | Dcsm | Wildcat
_NETWORKS: tuple[type[AnyNetwork], ...] = (Network, FcnMil, Dcsm, Wildcat)


class Preprocessing(_Plain):
    """Mean and deviation of the channels, of RGB in [0, 1]."""

    mean: tuple[_Channel, _Channel, _Channel] = MEAN
    std: tuple[_Deviation, _Deviation, _Deviation] = STD


class InferenceKeys(_Plain):
    """The values of an `Inference`; those of the CRF are checked where they are read."""

    sides: tuple[_Side, _Side] = (1, MAX_SIDE)
    scales: tuple[_Scale, ...] = Field(default=(1.0,), min_length=1, max_length=16)
    flip: bool = False
    crf: dict[str, float] | None = None

    @model_validator(mode="after")
    def _in_order(self) -> InferenceKeys:
        if self.sides[0] > self.sides[1]:
            raise ValueError("sides must be the shorter and the longer one")
        return self


class DirectKeys(_Plain):
    """How a localizer's maps become scores; see `wsss.serving.heatmaps.Direct`."""

    cell: _Cell
    background: _Background | None = None
    alpha: float = Field(default=1.0, ge=0.05, le=256)
    threshold: float = Field(default=0.0, ge=0, le=1)
    side: int | None = Field(default=None, ge=1, le=1 << 12)

    @classmethod
    def of(cls, direct: Direct | None) -> DirectKeys | None:
        """The values of a `Direct`; which classes are seen stands in the network's."""
        if direct is None:
            return None
        background, alpha, threshold = direct.background or (None, 1.0, 0.0)
        values = {"background": background, "alpha": alpha, "threshold": threshold}
        return cls.model_validate({"cell": direct.cell, "side": direct.side, **values})


class Description(_Plain):
    """The content of `model.json`."""

    format: Literal[4, 5]
    network: AnyNetwork = Field(discriminator="kind")
    classes: tuple[str, ...]
    palette: tuple[tuple[_Byte, _Byte, _Byte], ...]
    preprocessing: Preprocessing
    inference: InferenceKeys
    direct: DirectKeys | None = None
    background: bool = True
    pixels: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _direct_of_localizers(self) -> Description:
        if isinstance(self.network, Localizer) != (self.direct is not None):
            raise ValueError("direct belongs to a localizer, and to nothing else")
        if isinstance(self.network, Wildcat | Dcsm) and not (self.direct and self.direct.background):
            raise ValueError("direct.background is missing")
        if self.direct and self.direct.background and (self.direct.background != "none") != self.background:
            raise ValueError("direct.background and background contradict each other")
        return self

    @model_validator(mode="after")
    def _pixels_can_be_read(self) -> Description:
        try:
            Pixels.of_record(self.pixels)
        except (KeyError, TypeError) as error:
            raise ValueError(f"pixels is no conversion of images ({error})") from None
        return self

    @property
    def architecture(self) -> dict[str, Any]:
        """The arguments of the network's class besides its weights."""
        own = self.network.model_dump(exclude={"kind"})
        return own if self.background or isinstance(self.network, Wildcat | Dcsm) else {**own, "background": False}

    def as_json(self, indent: int | None = 1) -> str:
        """The text of `model.json`."""
        left_out: dict[str, Any] = {"background": True, "pixels": True} if self.format == 4 else {}
        if isinstance(self.network, Dcsm) and self.network.pooling == "max":
            left_out["network"] = {"pooling"}
        return self.model_dump_json(indent=indent, exclude=left_out)


def describe_step(path: Path, kind: str = SEGMENTER) -> AnyNetwork:
    """The network that a training step left in its `model.json`, one of `NETWORKS`.

    Whether it has a background is known from the dataset's classes, and left out.

    Raises:
        UserError: the file is no description of a network.
    """
    chosen = next(each for each in _NETWORKS if each.model_fields["kind"].default == kind)
    return _checked(chosen, path, {key: value for key, value in _content(path).items() if key != "background"})


def describe(network: AnyNetwork, classes: Classes, inference: Inference | None = None) -> Description:
    """The description of a package that is made now.

    Raises:
        UserError: the network has another number of classes than there are names.
    """
    _check_number("the network", network, classes)
    chosen = inference or Inference()
    plain = classes.background and chosen.pixels is None
    return Description(
        format=4 if plain else 5,
        network=network,
        classes=classes.names,
        palette=_colours(classes),
        preprocessing=Preprocessing(),
        inference=InferenceKeys(
            sides=chosen.sides,
            scales=chosen.scales,
            flip=chosen.flip,
            crf=None if chosen.crf is None else _crf_keys(chosen.crf),
        ),
        direct=DirectKeys.of(chosen.direct),
        background=classes.background,
        pixels=None if chosen.pixels is None else chosen.pixels.record(),
    )


def inference_of(description: Description, where: str) -> Inference:
    """How a package predicts.

    Raises:
        UserError: a setting of its CRF is unknown or out of its range.
    """
    keys, direct = description.inference, direct_of(description.model_dump())
    pixels = Pixels.of_record(description.pixels)
    if keys.crf is None:
        return Inference(keys.sides, keys.scales, keys.flip, direct=direct, pixels=pixels)
    values = {name: int(v) if name == "iterations" and v == int(v) else v for name, v in keys.crf.items()}
    crf = parse(CrfSettings, values, f"{where}: inference.crf.")
    return Inference(keys.sides, keys.scales, keys.flip, crf, direct, pixels)


def _crf_keys(crf: CrfSettings) -> dict[str, float]:
    names = [field.name for field in fields(CrfSettings)]
    return {name: float(value) for name, value in flatten(crf).items() if name in names}


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
    _check_number(str(path), description.network, classes)
    if description.palette != _colours(classes):
        raise UserError(f"{path}: palette is not the VOC colour map, the only one that this version of wsss draws with")
    return description


def _colours(classes: Classes) -> tuple[tuple[int, int, int], ...]:
    return tuple((red, green, blue) for red, green, blue in palette()[: len(classes) + 1].tolist())


def _check_number(what: str, network: AnyNetwork, classes: Classes) -> None:
    number = network.classes + isinstance(network, Localizer)
    if number != len(classes) + 1:
        raise UserError(f"{what} has {number} classes, background included, not {len(classes) + 1}")


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
