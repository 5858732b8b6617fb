"""The DVC workspace around the current folder: found, made where it is needed, and what DVC raises as one sentence."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from wsss import git
from wsss.errors import UserError

_WAIT_S = 600
_REMOTE = "~/.cache/wsss/dvc"
_LINKS = ["reflink", "hardlink", "copy"]


@contextmanager
def workspace(create: bool = False) -> Iterator[Any]:
    """The DVC workspace around the current folder, None where there is none and none is to be made.

    What DVC and its storage raise inside becomes one sentence.
    """
    from botocore.exceptions import BotoCoreError
    from dvc.exceptions import DvcException, NotDvcRepoError
    from dvc.repo import Repo
    from dvc_data.hashfile.checkout import CheckoutError, LinkError
    from dvc_objects.errors import ObjectDBError

    logging.getLogger("dvc").setLevel(logging.ERROR)
    try:
        try:
            repo = Repo()
        except NotDvcRepoError:
            repo = _initialise() if create else None
        try:
            yield repo
        finally:
            if repo is not None:
                repo.close()
    except (DvcException, ObjectDBError, CheckoutError, LinkError, BotoCoreError, PermissionError) as error:
        raise UserError(f"DVC: {' '.join(str(error).split()) or type(error).__name__}") from error


def _initialise() -> Any:
    from dvc.exceptions import InitError
    from dvc.repo import Repo

    top = git.top()
    try:
        repo = Repo.init(no_scm=not top, subdir=bool(top) and not Path(top).samefile("."))
    except InitError:
        return Repo()
    with repo.config.edit() as config:
        config["core"].update(analytics=False, check_update=False)
        config["cache"]["type"] = _LINKS
        if "remote" not in repo.config["core"]:
            config["core"]["remote"] = "local"
            config["remote"]["local"] = {"url": _REMOTE}
    repo.close()
    return Repo()


def patiently(action: Any) -> Any:
    """Do something that needs DVC's lock, waiting for whoever holds it."""
    from dvc.lock import LockError

    deadline = time.monotonic() + _WAIT_S
    while True:
        try:
            return action()
        except LockError as error:
            if time.monotonic() > deadline:
                raise UserError(f"another DVC command holds its lock since {_WAIT_S // 60} minutes: {error}") from error
            time.sleep(0.5)


def check_hash(md5: object) -> None:
    """Refuse what is no hash of DVC's: it becomes the name of a file in the cache."""
    if not isinstance(md5, str) or not re.fullmatch(r"[0-9a-f]{32}(\.dir)?", md5):
        raise UserError(f"{md5!r} is not a version of DVC's, which is 32 hexadecimal digits and '.dir'")
