"""What `make gpu` is asked for, by the variables of the environment."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from wsss.commands import command
from wsss.errors import UserError


@dataclass(frozen=True)
class Request:
    """What the environment asks for.

    Attributes:
        data: WSSS_GPU_DATA, a dataset's folder, or one that holds VOCdevkit and, without boxes in it, perhaps a
            file of tags (.npz or .csv); None for the built-in shapes.
        preset: WSSS_GPU_PRESET; by default small, for the built-in shapes demo.
        methods: WSSS_GPU_RUN, names separated by commas; by default all.
        settings: WSSS_GPU_SET, settings "KEY=VALUE" separated by spaces, such as the file of initial weights.
        minutes: WSSS_GPU_MINUTES, for everything together.
        out: WSSS_GPU_OUT.
        cpu: WSSS_GPU_DEVICE is cpu: all of it on the processor.
    """

    data: Path | None
    preset: str
    methods: str
    settings: tuple[str, ...]
    minutes: float
    out: Path
    cpu: bool

    @classmethod
    def of(cls, variables: Mapping[str, str]) -> Request:
        """Read the variables.

        Raises:
            UserError: one of them makes no sense.
        """
        minutes = variables.get("WSSS_GPU_MINUTES", "8")
        try:
            number = float(minutes)
        except ValueError:
            number = 0.0
        if not 1 <= number < 1e6:
            raise UserError(f"WSSS_GPU_MINUTES is {minutes!r}; it must be a number of minutes, 1 or more")
        device = variables.get("WSSS_GPU_DEVICE", "cuda")
        if device not in ("cuda", "cpu"):
            raise UserError(f"WSSS_GPU_DEVICE is {device!r}; it must be cuda or cpu")
        folder = variables.get("WSSS_GPU_DATA")
        data = Path(folder).absolute() if folder else None
        if data is not None and not is_dataset(data) and not (data / "VOCdevkit").is_dir():
            raise UserError(
                f"WSSS_GPU_DATA is {data}, which neither is a dataset "
                f"(`{command('wsss', 'data', 'add', '--no-dvc', '--help')}` says how to make one) nor holds VOCdevkit"
            )
        return cls(
            data=data,
            preset=variables.get("WSSS_GPU_PRESET") or ("small" if data else "demo"),
            methods=variables.get("WSSS_GPU_RUN") or "all",
            settings=tuple(shlex.split(variables.get("WSSS_GPU_SET", ""))),
            minutes=number,
            out=Path(variables.get("WSSS_GPU_OUT") or "work/gpu").absolute(),
            cpu=device == "cpu",
        )


def is_dataset(folder: Path) -> bool:
    """Whether a folder is a dataset."""
    from wsss.data.layout import DESCRIPTION

    return (folder / DESCRIPTION).is_file()
