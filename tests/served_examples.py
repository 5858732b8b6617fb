"""Models and conversations that several files of tests about serving and promoting need."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import torch
from fastapi import FastAPI

from wsss.nets.deeplab import DeepLab
from wsss.stages.outputs import save_model

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


def asking(app: FastAPI) -> Callable[..., httpx.Response]:
    """Requests to an application, one at a time: method, path and the options of httpx."""

    def ask(method: str, path: str, **options: Any) -> httpx.Response:
        async def send() -> httpx.Response:
            async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://server") as client:
                return await client.request(method, path, **options)

        return asyncio.run(send())

    return ask
