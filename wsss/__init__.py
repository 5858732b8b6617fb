"""Weakly supervised semantic segmentation: from image-level tags to a served segmentation model.

The names below are the Python API, see `docs/api.md`. They are imported when they are first used, so
that `import wsss` is quick. `wsss.run` and `wsss.methods` are packages too: both can be called.
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

from wsss.git import VERSION
from wsss.surroundings import settle_user

settle_user()

__version__ = VERSION
__all__ = [
    "DenseCrf",
    "LabelMaps",
    "UserError",
    "add_folder",
    "datasets",
    "load",
    "localizer",
    "methods",
    "open_dataset",
    "read_image",
    "refine_label_map",
    "results",
    "run",
    "runs",
    "upsampled",
    "walk",
]

_PLACES = {
    "DenseCrf": "wsss.ops.crf",
    "LabelMaps": "wsss.data.label_maps",
    "UserError": "wsss.errors",
    "open_dataset": "wsss.data",
    "read_image": "wsss.data.images",
    "refine_label_map": "wsss.ops.crf",
    "upsampled": "wsss.stages.refine",
    "walk": "wsss.ops.array_walk",
}
"""What the API shares with a room; all else is of `wsss.api`."""

if TYPE_CHECKING:
    from wsss.api import add_folder, datasets, load, localizer, methods, results, run, runs
    from wsss.data import open_dataset
    from wsss.data.images import read_image
    from wsss.data.label_maps import LabelMaps
    from wsss.errors import UserError
    from wsss.ops.array_walk import walk
    from wsss.ops.crf import DenseCrf, refine_label_map
    from wsss.stages.refine import upsampled
else:
    from wsss import methods, run

    class _CallablePackage(ModuleType):
        """A package that is a call of the API as well: `wsss.run(...)` beside `wsss.run.plan`."""

        def __call__(self, *arguments: Any, **named: Any) -> Any:
            from wsss import api

            return getattr(api, self.__name__.rpartition(".")[2])(*arguments, **named)

        def __reduce__(self) -> tuple[Any, ...]:  # so that it travels to Ray's processes as every module does
            return import_module, (self.__name__,)

    methods.__class__ = run.__class__ = _CallablePackage


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_PLACES.get(name, "wsss.api")), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
