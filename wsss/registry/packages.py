"""The files of a registered package: that they are there and what they are, whatever the model in them does."""

from __future__ import annotations

import hashlib
import tempfile
from dataclasses import dataclass
from pathlib import Path

from wsss.errors import UserError, one_line
from wsss.failures import sentence
from wsss.tracking.connection import mlflow_client

_WEIGHTS = ".safetensors"
# MLflow writes these anew for each version that it hands out.
WITHOUT = ("registered_model_meta",)


@dataclass(frozen=True)
class PackageFiles:
    """The files of a package.

    Attributes:
        sha256: over their names and contents.
        weights: the bytes of the weights.
    """

    sha256: str
    weights: int


def package_files(address: str) -> PackageFiles:
    """Fetch the files of a package and hash them; nothing of it is run.

    Args:
        address: `models:/...`.

    Raises:
        UserError: they are gone, or MLflow can't be reached.
    """
    import mlflow.artifacts
    from mlflow.exceptions import MlflowException

    mlflow_client()
    total, weights = hashlib.sha256(), 0
    with tempfile.TemporaryDirectory(prefix="wsss-package-") as scratch:
        try:
            folder = Path(mlflow.artifacts.download_artifacts(address, dst_path=scratch))
            files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
            for name in sorted(files.keys() - set(WITHOUT)):
                with files[name].open("rb") as file:
                    total.update(f"{name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
                weights += files[name].stat().st_size if name.endswith(_WEIGHTS) else 0
        except (MlflowException, OSError) as error:
            raise UserError(f"{address} can't be fetched: {sentence(error) or one_line(error)}") from None
    if not files:
        raise UserError(f"the files of {address} are gone; bring them back from a backup")
    return PackageFiles(total.hexdigest(), weights)
