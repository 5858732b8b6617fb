"""What a recorded run was made of, as it was then: its data, the masks that it was scored with, and its code."""

from __future__ import annotations

import io
import os
import shutil
import zipfile
from pathlib import Path

from wsss import git, storage, versions
from wsss.data import Dataset, open_dataset
from wsss.data.manifest import read_manifest
from wsss.errors import UserError
from wsss.progress import say
from wsss.run.fingerprints import file_digest
from wsss.run.recorded import Recorded
from wsss.scores import Evaluation, Masks


def dataset_of(run: Recorded, folder: Path) -> Dataset:
    """The dataset that the run had: where it lay, of its name here, or fetched by DVC.

    Raises:
        UserError: none of them.
    """
    seen = {}
    for place in (run.source, run.data):
        try:
            dataset = open_dataset(place) if place else None
        except UserError as error:
            seen[place] = str(error)
            continue
        if dataset is not None:
            own = versions.content_of(dataset.root).md5 if run.md5 else run.digest_of(dataset)[: len(run.digest)]
            if own == (run.md5 or run.digest):
                return dataset
            seen[place] = f"{dataset.root} has {own[:12]}"
    wanted = (run.md5 or run.digest)[:12]
    sentence = (
        f"{run.title} had dataset {run.data} with the digest {wanted}, which is not here ({'; '.join(seen.values())})"
    )
    if not run.md5:
        raise UserError(f"{sentence}; DVC has no version of it: bring the images, tags and splits of then")
    target = folder / "data" / Path(run.data).name
    try:
        versions.fetch(run.md5)
        versions.checkout(run.md5, target)
    except UserError as error:
        raise UserError(f"{sentence}, and can't be fetched: {error}") from None
    say(f"dataset {run.data} is fetched in its version {run.md5}")
    return Dataset.open(target)


def refuse_changed_masks(run: Recorded, dataset: Dataset) -> None:
    """Refuse masks that are not those that the run was scored with.

    Raises:
        UserError: names the splits.
    """
    masks, entries = Masks(dataset), read_manifest(dataset.root)

    def as_listed(path: Path | None) -> bool:
        entry = entries.get(path.relative_to(dataset.root).as_posix()) if path else None
        return path is not None and entry is not None and file_digest(path) == entry.sha256

    def same(known: Evaluation) -> bool:
        return all(as_listed(masks.path(i)) for i in known.ids) and masks.digest_of(known.ids) == known.masks

    changed = sorted({known.split for known in run.evaluations.values() if known.masks and not same(known)})
    if changed:
        raise UserError(
            f"the masks of {', '.join(changed)} in {dataset.root} are not those that {run.title} was scored with; its "
            "numbers can come out again with the masks of then alone"
        )


def code_of(run: Recorded, folder: Path) -> Path:
    """The folder that the package is imported from: this one's, or a clean copy of the run's commit.

    Raises:
        UserError: the commit is not in this clone.
    """
    here = Path(__file__).parents[2]
    repository = git.repository()
    if not run.commit:
        say(f"{run.title} was made outside of git, with version {run.version or 'unknown'}; the code here is used")
        return here
    if repository is None or not git.has(repository, run.commit):
        raise UserError(
            f"commit {run.commit} of {run.title} is not in {repository or 'a clone here'}; get it with `git fetch`, in "
            "a clone of the repository that it was made in"
        )
    if not git.has(repository, f"{run.commit}:wsss/__init__.py"):
        if run.version != git.VERSION:
            say(f"{run.title} was made with version {run.version} of this package, here is {git.VERSION}")
        return here
    if git.state_of(repository) == (run.commit, False) and repository.samefile(here):
        return here
    target = folder / "code" / run.commit
    if not target.is_dir():
        _lay_out(git.archive(repository, run.commit), target)
    say(f"the code is that of commit {run.commit[:8]}")
    return target


def _lay_out(archive: bytes, folder: Path) -> None:
    """The files of a zip archive as a new folder, which appears complete or not at all."""
    with storage.disk_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        part = storage.unfinished(folder)
        try:
            with zipfile.ZipFile(io.BytesIO(archive)) as files:
                files.extractall(part)
            os.replace(part, folder)
        finally:
            shutil.rmtree(part, ignore_errors=True)
