"""Models and conversations that several files of tests about serving and promoting need."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import torch
from fastapi import FastAPI
from safetensors.torch import load_file

from wsss.classes import Classes
from wsss.data.augmentation import normalise
from wsss.nets.deeplab import DeepLab
from wsss.stages.inference import node_size, resize
from wsss.stages.outputs import save_model

CLASSES = Classes(("disc", "bar", "ring"))
WITHOUT_WSSS = """
import sys
class NoWsss:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("wsss", "torchvision", "safetensors"):
            raise ImportError(name)
sys.meta_path.insert(0, NoWsss())
"""
"""The beginning of a program that runs where wsss and what it needs beside torch and MLflow are not installed."""


def save_one_answer(folder: Path, answer: int) -> None:
    """Write a step's output: a segmenter of two classes that answers one index everywhere."""
    architecture = {"classes": 3, "backbone": "tiny", "output_stride": 16, "rates": [1]}
    net = DeepLab(weights="none", **architecture)
    torch.nn.init.zeros_(net.head[0].weight)
    torch.nn.init.zeros_(net.head[0].bias)
    net.head[0].bias.data[answer] = 5
    save_model(folder, net.eval(), architecture)


def save_segmenter(folder: Path) -> None:
    """Write a step's output: a segmenter of CLASSES with random weights, so large that every class is predicted."""
    torch.manual_seed(0)
    architecture = {"classes": 4, "backbone": "tiny", "output_stride": 8, "rates": [1, 2]}
    net = DeepLab(weights="none", **architecture)
    for parameter in net.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.1)
    save_model(folder, net.eval(), architecture)


def offline(step: Path, image: np.ndarray) -> np.ndarray:
    """The network at one scale, its probabilities at the image's size, the best class: written out once more."""
    architecture = json.loads((step / "model.json").read_text())
    net = DeepLab(weights="none", **architecture).eval()
    net.load_state_dict(load_file(step / "model.safetensors"))
    with torch.inference_mode():
        scores = net(resize(normalise(image)[None], node_size(*image.shape[:2], 8)))
        return resize(scores.softmax(1), image.shape[:2])[0].argmax(0).numpy().astype(np.uint8)


def asking(app: FastAPI) -> Callable[..., httpx.Response]:
    """Requests to an application, one at a time: method, path and the options of httpx."""

    def ask(method: str, path: str, **options: Any) -> httpx.Response:
        async def send() -> httpx.Response:
            async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://server") as client:
                return await client.request(method, path, **options)

        return asyncio.run(send())

    return ask
