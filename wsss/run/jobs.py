"""Commands as jobs of a Ray cluster: what goes there with them, and their beginning on the machine that runs them.

A job gets a folder of its own with the files that its command names, and the variables of this process: not as Ray's
runtime environment has them, which the dashboard and `ray job list` show to everybody, but in a file of that folder,
which the job takes away when it begins. Datasets go through the store.
"""

from __future__ import annotations

import json
import logging
import os
import shlex
import shutil
import sys
import urllib.error
import urllib.request
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from wsss import storage
from wsss.data import open_dataset
from wsss.data.layout import DESCRIPTION
from wsss.data.parallel import some
from wsss.data.travel import fetch_dataset, send_dataset
from wsss.data.workspace import dataset_names
from wsss.errors import UserError, one_line
from wsss.run.cluster import forwarded

LETTER = "job.json"
STORE, TRACKING, STUDIES = "WSSS_STORE", "MLFLOW_TRACKING_URI", "WSSS_STUDIES"
ADDRESS = "http://127.0.0.1:8265"
_CONFIG = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Where Ray tells a job's driver what its workers get."""
_ANSWER_S = 8
_MOST_BYTES = 100 * 2**20
_SECRETS = ("KEY", "SECRET", "TOKEN", "PASSWORD", "CREDENTIAL")
_PACKAGES = ("wsss", "tune", "pipelines", "benchmarks")


def submit(words: Sequence[str], address: str, *, code: bool = False, secrets: bool = True) -> str:
    """Submit a command as a job.

    Args:
        words: of the command, such as ["python", "-m", "tune", "--data", "photos"]. Datasets of this workspace and
            files below the current folder that it names go with it.
        address: of the cluster's dashboard, http://HOST:PORT.
        code: this package's sources go with it; else the cluster's machines have it installed.
        secrets: variables that hold passwords go with it; else the machines have their own.

    Returns:
        The job's id.

    Raises:
        UserError: something that the job needs is not shared with the cluster, or the cluster does not take the job.
    """
    if not words:
        raise UserError("there is no command to submit; give it behind --, such as -- python -m tune --method all")
    client = _client(address)
    variables = dict(forwarded())
    _check_shared(variables, search="tune" in words)
    if not secrets:
        variables = {name: value for name, value in variables.items() if not _is_secret(name, value)}
    splits = ("train", "dev", "val", "train_official")
    named = _named(words)
    datasets = {path: send_dataset(open_dataset(name), variables[STORE], splits) for name, path in _datasets(named)}
    letter = {"id": uuid.uuid4().hex, "variables": variables, "datasets": datasets, "splits": splits}
    with storage.temporary_folder() as folder:
        package = folder / "package"
        package.mkdir()
        for name in _files(named):
            (package / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(name, package / name)
        (package / LETTER).write_text(json.dumps(letter), encoding="utf-8")
        (package / LETTER).chmod(0o600)
        environment: dict[str, Any] = {"working_dir": str(package)}
        if code:
            environment["py_modules"] = [str(Path(__file__).parents[2] / each) for each in _PACKAGES]
            environment["excludes"] = ["__pycache__"]
        try:
            return str(
                client.submit_job(entrypoint=shlex.join(["python", "-m", __name__, *words]), runtime_env=environment)
            )
        except (RuntimeError, ValueError, OSError) as error:
            raise UserError(f"the cluster at {address} does not take the job: {one_line(error)}") from None


def begin(words: Sequence[str]) -> None:
    """In a job: take the letter, fetch the datasets, and become the command."""
    letter = json.loads(Path(LETTER).read_text(encoding="utf-8"))
    Path(LETTER).unlink()
    os.environ.update(letter["variables"])
    if _CONFIG in os.environ:  # the job's own machine is the only one that gets the letter
        config = json.loads(os.environ[_CONFIG])
        config.get("runtime_env", {}).pop("working_dir", None)
        os.environ[_CONFIG] = json.dumps(config)
    for path, key in letter["datasets"].items():
        fetch_dataset(storage.store_address(), key, letter["splits"], storage.inside(".", path))
    program = sys.executable if words[0] == "python" else words[0]
    sys.stdout.flush()
    os.execvp(program, [program, *words[1:]])


def _client(address: str) -> Any:
    """A client of the cluster's jobs.

    Raises:
        UserError: nothing answers there, or not as Ray does.
    """
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    if not address.startswith(("http://", "https://")):
        raise UserError(f"{address!r} is no address for jobs; give that of the dashboard, http://HOST:PORT")
    try:
        urllib.request.urlopen(f"{address.rstrip('/')}/api/version", timeout=_ANSWER_S).close()
    except urllib.error.HTTPError:
        pass  # an answer; what it means is said below
    except (OSError, ValueError) as error:
        raise UserError(
            f"no Ray dashboard answers at {address} ({one_line(error)}); name what `ray start` printed by --address"
        ) from None
    logging.getLogger("ray").setLevel(logging.WARNING)
    try:
        return JobSubmissionClient(address)
    except AuthenticationError:
        raise UserError(
            f"the cluster at {address} asks for a token; set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN_PATH to its file"
        ) from None
    except (RuntimeError, OSError) as error:
        raise UserError(f"what answers at {address} takes no jobs: {one_line(error)}") from None


def _check_shared(variables: Mapping[str, str], *, search: bool) -> None:
    """Refuse what a job could not reach, or would leave behind in a folder that goes with it.

    Raises:
        UserError: names all of it.
    """
    needed = [STORE, TRACKING, *([STUDIES] if search else [])]
    if wrong := [name for name in needed if not _is_shared(variables.get(name, ""))]:
        shown = [f"{name} ({'names a file of this folder' if variables.get(name) else 'not set'})" for name in wrong]
        raise UserError(
            f"a job keeps nothing in this folder: {some(shown)}; set {STORE} to an s3:// address, {TRACKING} to a "
            f"server's, {STUDIES} to a database's such as postgresql://HOST/studies, or each to an absolute path "
            "that all machines share"
        )


def _is_shared(value: str) -> bool:
    scheme, separator, rest = value.partition("://")
    if not separator:
        return Path(value).is_absolute()
    return rest.startswith("//") if scheme.startswith("sqlite") else bool(rest)


def _is_secret(name: str, value: str) -> bool:
    """Whether a variable holds a password: by its name, or in an address."""
    authority = value.partition("://")[2].partition("/")[0]
    return any(word in name for word in _SECRETS) or "@" in authority


def _named(words: Sequence[str]) -> list[str]:
    """What words may name: they themselves, and what stands behind their first "=" and the second."""
    return list(
        dict.fromkeys(part for word in words for part in (word, word.partition("=")[2], word.rpartition("=")[2]))
    )


def _datasets(named: Sequence[str]) -> list[tuple[str, str]]:
    """The datasets of this workspace among them, and where each lies, relative to it."""
    known = dataset_names()
    found = []
    for name in named:
        if name in known:
            found.append((name, f"data/{name}"))
        elif name and not Path(name).is_absolute() and Path(name, DESCRIPTION).is_file():
            found.append((name, Path(name).as_posix()))
    return found


def _files(named: Sequence[str]) -> list[Path]:
    """The files among them, relative to the current folder.

    Raises:
        UserError: they are too large for this way.
    """
    files = [Path(name) for name in named if name and not Path(name).is_absolute() and Path(name).is_file()]
    files = [storage.inside(".", file.as_posix()) for file in files]
    if large := [str(file) for file in files if file.stat().st_size > _MOST_BYTES]:
        raise UserError(
            f"{some(large)} is too large to go with a job; put it where all machines have it, and name that"
        )
    return files


if __name__ == "__main__":
    begin(sys.argv[1:])
