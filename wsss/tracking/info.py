"""What is known of a run when it starts, and how MLflow is told."""

from __future__ import annotations

import getpass
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import metadata
from typing import TYPE_CHECKING, Any

from wsss.git import VERSION
from wsss.settings import as_text
from wsss.tracking import names

if TYPE_CHECKING:
    from wsss.git import GitState
    from wsss.versions import DataVersion

_DIGEST_LENGTH = 36


@dataclass(frozen=True)
class DatasetInfo:
    """The data of a run.

    Attributes:
        name: the dataset's.
        source: where it lies.
        digest: of its content.
        splits: split to number of images.
        version: DVC's; None where DVC does not track it.
    """

    name: str
    source: str
    digest: str
    splits: Mapping[str, int]
    version: DataVersion | None = None

    @property
    def inputs(self) -> list[dict[str, Any]]:
        """A dataset input for each split, named "<dataset>/<split>"."""
        return [
            dataset_input(
                f"{self.name}/{split}", split, self.source, self.digest, self.version, {names.IMAGES: str(images)}
            )
            for split, images in self.splits.items()
        ]


@dataclass(frozen=True)
class RunInfo:
    """A method's run.

    Attributes:
        method, preset: their names.
        dataset: the data.
        settings: all of them, flattened, JSON-ready.
        supervision: what is seen beyond tags.
        rng: the seed.
        fingerprint: of all that decides the outputs; an interrupted run of the same fingerprint is continued.
        group: equal for runs that differ in nothing but the rng.
        git: the state of the working tree.
        command: the command line, for people.
        tags: more tags, such as `names.BACKBONE`.
    """

    method: str
    preset: str
    dataset: DatasetInfo
    settings: Mapping[str, Any]
    supervision: frozenset[str]
    rng: int
    fingerprint: str
    group: str
    git: GitState
    command: str
    tags: Mapping[str, str] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """The run's name in lists."""
        return f"{self.method}-{self.preset}-{self.dataset.name}-{self.rng}"

    @property
    def params(self) -> dict[str, str]:
        """The settings as text that `--set` reads: text as it is, everything else as JSON."""
        return {key: as_text(value) for key, value in self.settings.items()}

    @property
    def all_tags(self) -> dict[str, str]:
        """Every tag of the run, but for its process."""
        version = self.dataset.version
        return {
            **self.tags,
            names.KIND: names.METHOD_RUN,
            names.METHOD: self.method,
            names.PRESET: self.preset,
            names.DATASET: self.dataset.name,
            names.SUPERVISION: ", ".join(sorted(self.supervision)),
            names.FINGERPRINT: self.fingerprint,
            names.GROUP: self.group,
            names.RNG: str(self.rng),
            names.COMMAND: self.command,
            names.GIT_COMMIT: self.git.commit or "",
            names.GIT_DIRTY: str(self.git.dirty).lower(),
            names.VERSION: VERSION,
            **({names.DATA_MD5: version.md5} if version else {}),
        }


def dataset_input(
    name: str,
    context: str,
    source: str,
    digest: str,
    version: DataVersion | None,
    tags: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """A dataset input, JSON-ready; its digest is DVC's where there is a version, else the beginning of `digest`."""
    tags = {**(tags or {}), names.MLFLOW_INPUT_CONTEXT: context}
    if version:
        digest = version.md5
        tags |= {names.DVC_MD5: digest, names.DVC_NFILES: str(version.nfiles), names.DVC_SIZE: str(version.size)}
    return {"name": name, "source": source, "digest": digest[:_DIGEST_LENGTH], "tags": tags}


@cache
def environment() -> str:
    """The installed packages, a sorted line "name==version" for each."""
    found = {f"{package.metadata['Name']}=={package.version}" for package in metadata.distributions()}
    return "\n".join(sorted(found, key=str.lower)) + "\n"


def user() -> str:
    """Whose process this is; in a container the number may have no name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())
