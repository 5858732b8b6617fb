"""`model.json`: what a package says of its network, its classes, the pixels it expects and how it predicts.

    {"format": 5, "network": {...}, "classes": [...], "palette": [...], "preprocessing": {"mean": [...], "std": [...]},
     "inference": {"sides": [LOW, HIGH], "scales": [...], "flip": false, "crf": null or {...}}, "direct": null or {...},
     "background": false, "pixels": {...}}

Format 5 is format 4 with the last line: what has a background and takes RGB files is still written as 4. In both,
"network" of a DCSM that pools by the mean says so ("pooling"). Earlier formats are in `wsss.serving.formats`.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from wsss.classes import Classes, palette
from wsss.data.augmentation import MEAN, STD
from wsss.data.pixels import Pixels
from wsss.errors import UserError
from wsss.nets.backbones import BACKBONES
from wsss.serving.deployed import MAX_SIDE
from wsss.serving.heatmaps import Direct, direct_of
from wsss.serving.segmenter import Inference
from wsss.settings import flatten, parse
from wsss.stages.refine import CrfSettings

FORMAT = 5

_Channel = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
_Deviation = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
_Side = Annotated[int, Field(ge=1, le=1 << 15)]
_Scale = Annotated[float, Field(ge=0.1, le=8, allow_inf_nan=False)]
_Cell = Literal[2, 4, 8, 16]
_Background = Literal["power", "constant", "none"]
_Byte = Annotated[int, Field(ge=0, le=255)]


class _Plain(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


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
KINDS: tuple[type[AnyNetwork], ...] = (Network, FcnMil, Dcsm, Wildcat)


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


def describe(network: AnyNetwork, classes: Classes, inference: Inference | None = None) -> Description:
    """The description of a package that is made now.

    Raises:
        UserError: the network has another number of classes than there are names.
    """
    check_number("the network", network, classes)
    chosen = inference or Inference()
    plain = classes.background and chosen.pixels is None
    return Description(
        format=4 if plain else 5,
        network=network,
        classes=classes.names,
        palette=colours(classes),
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


def colours(classes: Classes) -> tuple[tuple[int, int, int], ...]:
    """The VOC colours of the indices, background first, each in 0..255."""
    return tuple((red, green, blue) for red, green, blue in palette()[: len(classes) + 1].tolist())


def check_number(what: str, network: AnyNetwork, classes: Classes) -> None:
    """Compare a network's number of classes with the names.

    Raises:
        UserError: they differ; `what` says whose network it is.
    """
    number = network.classes + isinstance(network, Localizer)
    if number != len(classes) + 1:
        raise UserError(f"{what} has {number} classes, background included, not {len(classes) + 1}")
