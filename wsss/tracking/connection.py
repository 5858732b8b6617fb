"""The way to MLflow: its address, checked before any work, and its client."""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from filelock import FileLock

from wsss.errors import UserError, one_line
from wsss.tracking.beside import database, settle_addresses
from wsss.tracking.forks import fork_lock

if TYPE_CHECKING:
    from mlflow import MlflowClient

ANSWER_S = 8
_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    # MLflow would wait minutes for a server that is away; what can't be sent is kept here and sent later.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "GIT_PYTHON_REFRESH": "quiet",
}
_NOISY = ("alembic", "mlflow.store", "mlflow.tracking")
_asking = fork_lock()
"""One thread at a time: impatience is in the process's variables."""


def tracking_uri() -> str:
    """Where runs are kept: MLFLOW_TRACKING_URI, else MLflow's own default, mlflow.db in the current folder.

    Raises:
        UserError: it is a folder of files, which MLflow reads no more.
    """
    _quiet()
    import mlflow

    uri = mlflow.get_tracking_uri()
    if uri == _Default.uri:
        if Path.cwd() == _Default.folder:
            return uri
        mlflow.set_tracking_uri(None)  # type: ignore[arg-type]
        uri = mlflow.get_tracking_uri()
    if uri.startswith("sqlite:///") and "%" in uri:
        if not mlflow.is_tracking_uri_set():
            _Default.uri, _Default.folder = _unread(uri), Path.cwd()
        uri = _unread(uri)
        mlflow.set_tracking_uri(uri)
    if urlsplit(uri).scheme in ("", "file"):
        folder = urlsplit(uri).path
        raise UserError(
            f"the runs in {folder} are in MLflow's old folder format; move them into a database with `mlflow "
            f"migrate-filestore --source {folder} --target sqlite:///mlflow.db`, or name another place in "
            "MLFLOW_TRACKING_URI"
        )
    return uri


class _Default:
    """The address that stands for MLflow's default one, and the folder it is the default of."""

    uri = ""
    folder = Path()


def _unread(uri: str) -> str:
    """The same address in words by which MLflow makes no folder of its quoted name, such as "a%20b" beside "a b"."""
    return uri.replace("sqlite:", "sqlite+pysqlite:", 1)


def mlflow_client() -> MlflowClient:
    """A client of the tracking store, which answers; a new database gets its tables first.

    Raises:
        UserError: the store can't be used: a folder of files, a server that doesn't answer within seconds, a database
            of another version, an account that the server does not know.
    """
    uri = tracking_uri()
    is_server = urlsplit(uri).scheme in ("http", "https")
    if not is_server:
        _check_database(uri)

    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    # Two processes that make the same tables at once would both fail; a server has made its own.
    lock = f"wsss-tracking-{os.getuid()}-{hashlib.sha256(uri.encode()).hexdigest()[:16]}.lock"
    try:
        with _asking if is_server else FileLock(Path(tempfile.gettempdir(), lock)), _impatience():
            client = MlflowClient()
            client.search_experiments(max_results=1)
            settle_addresses(uri)
            return client
    except MlflowException as error:
        if is_server and error.get_http_status_code() >= 500:
            raise _no_answer(uri, error) from error
        if is_server and error.get_http_status_code() == 401:
            raise UserError(
                f"the tracking server {_shown(uri)} does not know you: correct MLFLOW_TRACKING_USERNAME and "
                "MLFLOW_TRACKING_PASSWORD, or the file ~/.mlflow/credentials; an administrator makes accounts"
            ) from error
        raise UserError(f"the tracking store {_shown(uri)} refuses: {one_line(error)}") from error


def _quiet() -> None:
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    for name in _NOISY:
        logging.getLogger(name).setLevel(logging.WARNING)
    # What it logs, with a traceback, is raised too.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)


@contextmanager
def _impatience() -> Iterator[None]:
    """One attempt of a few seconds for each request to a server."""
    hasty = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": str(ANSWER_S)}
    usual = {name: os.environ[name] for name in hasty}
    os.environ.update(hasty)
    try:
        yield
    finally:
        os.environ.update(usual)


def _check_database(uri: str) -> None:
    """Connect once; MLflow would go on trying for an hour."""
    import sqlalchemy

    scheme = urlsplit(uri).scheme.partition("+")[0]
    try:
        if scheme == "sqlite":
            file = database(uri)
            if file is None:
                raise UserError(
                    f"{uri} keeps runs in the memory of one process, where they are lost with it; name a file in "
                    "MLFLOW_TRACKING_URI, such as sqlite:///mlflow.db, or unset it"
                )
            file.parent.mkdir(parents=True, exist_ok=True)
        timeout = {"connect_timeout": ANSWER_S} if scheme in ("postgresql", "mysql") else {}
        engine = sqlalchemy.create_engine(uri, connect_args=timeout)
        sqlalchemy.inspect(engine).get_table_names()
        engine.dispose()
    except (sqlalchemy.exc.SQLAlchemyError, ImportError, OSError) as error:
        if scheme != "sqlite":
            raise _no_answer(uri, error) from error
        raise UserError(
            f"{uri} can't be used ({_cause(error)}); move it away or name another in MLFLOW_TRACKING_URI"
        ) from error


def _no_answer(uri: str, error: BaseException) -> UserError:
    return UserError(
        f"the tracking server {_shown(uri)} does not answer ({_cause(error)}); start it, correct MLFLOW_TRACKING_URI, "
        "or unset it to keep runs in mlflow.db here"
    )


def _cause(error: BaseException) -> str:
    """The text of what went wrong first, without the layers that it went through."""
    while error.__context__:
        error = error.__context__
    return one_line(error).rstrip(".")


def _shown(uri: str) -> str:
    """The address without its password."""
    address = urlsplit(uri)
    if not address.password:
        return uri
    return address._replace(netloc=f"{address.username}:***@{address.netloc.rpartition('@')[2]}").geturl()
