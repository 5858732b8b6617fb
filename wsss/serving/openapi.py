"""What the OpenAPI description says of requests and answers beyond their types, with examples."""

from __future__ import annotations

from typing import Any

from wsss.serving import answers

_IMAGES = ("image/jpeg", "image/png", "image/webp", "image/bmp", "image/tiff")
_BYTES = {"type": "string", "format": "binary"}
_FORM = {
    "type": "object",
    "properties": {"image": {"type": "array", "items": _BYTES, "minItems": 1, "maxItems": 32}},
    "required": ["image"],
}
BODY: dict[str, Any] = {
    "required": True,
    "description": "The bytes of one picture, or one or several as a form (curl -F image=@a.jpg -F image=@b.jpg).",
    "content": {kind: {"schema": _BYTES} for kind in _IMAGES} | {"multipart/form-data": {"schema": _FORM}},
}
_EXAMPLE = {
    "model": "models:/wsss-shapes/3",
    "images": [
        {
            "name": "a.jpg",
            "height": 3,
            "width": 4,
            "pixels": {"background": 8, "disc": 4},
            "annotations": [
                {
                    "category_id": 1,
                    "category": "disc",
                    "area": 4,
                    "segmentation": {"size": [3, 4], "counts": "42102"},
                }
            ],
        }
    ],
}
_NUMBER, _TEXT = {"type": "integer"}, {"type": "string"}
_SEGMENTATION = {
    "type": "object",
    "required": ["size", "counts"],
    "properties": {"size": {"type": "array", "items": _NUMBER, "minItems": 2, "maxItems": 2}, "counts": _TEXT},
}
_ANNOTATION = {
    "type": "object",
    "required": ["category_id", "category", "area", "segmentation"],
    "properties": {"category_id": _NUMBER, "category": _TEXT, "area": _NUMBER, "segmentation": _SEGMENTATION},
}
_IMAGE = {
    "type": "object",
    "required": ["name", "height", "width", "pixels", "annotations"],
    "properties": {
        "name": _TEXT,
        "height": _NUMBER,
        "width": _NUMBER,
        "pixels": {"type": "object", "additionalProperties": _NUMBER},
        "annotations": {"type": "array", "items": _ANNOTATION},
    },
}
_LABELS = {
    "type": "object",
    "required": ["model", "images"],
    "properties": {"model": _TEXT, "images": {"type": "array", "items": _IMAGE}},
}
_REFUSAL = {
    "application/json": {
        "schema": {"type": "object", "required": ["detail"], "properties": {"detail": _TEXT}},
        "example": {"detail": "the body is not a readable image; send a JPEG, PNG, WEBP, BMP, TIFF file"},
    }
}
_REFUSALS = {
    400: "the connection was closed early",
    401: "no known API key",
    406: "Accept asks for none of the answers there are",
    408: "the body took too long to arrive",
    413: "too many bytes or pixels",
    415: "another content type",
    422: "no readable picture, or one that is not RGB",
    503: "too many wait; Retry-After says when to come again",
}
_HEADERS = {
    "X-Model-Version": {"description": "the model that answered", "schema": _TEXT},
    "X-Scale-Warning": {"description": "present where the picture is far from the sizes trained on", "schema": _TEXT},
}
RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The label map of the picture's size: a palette PNG of class indices (the default), run lengths "
        "as COCO has them with classes and pixel counts, or the picture with colours over it; by Accept. Several "
        "pictures are answered in JSON.",
        "headers": _HEADERS,
        "content": {
            answers.PNG: {"schema": _BYTES},
            answers.JSON: {"schema": _LABELS, "example": _EXAMPLE},
            answers.JPEG: {"schema": _BYTES},
        },
    },
    **{status: {"description": text, "content": _REFUSAL} for status, text in _REFUSALS.items()},
}
REFUSED: dict[int | str, dict[str, Any]] = {401: RESPONSES[401], 503: RESPONSES[503]}
"""Of the other paths; beside these,"""
MORE: dict[str, dict[int | str, dict[str, Any]]] = {
    "/metrics": {200: {"description": "in Prometheus's text format", "content": {"text/plain": {"schema": _TEXT}}}},
    "/shadow": {404: {"description": "no challenger answers", "content": _REFUSAL}},
}
"""those of single ones."""
