"""Databases: copied as they are at one moment while others write, put back whole or not at all.

SQLite's file is copied by its own online backup, and kept in blocks, of which few change from one day to the next.
PostgreSQL is dumped by `pg_dump` to a folder with a file for each table, so that an unchanged table is not kept again.
"""

from __future__ import annotations

import glob
import os
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wsss.backup.manifest import POSTGRESQL, SQLITE
from wsss.errors import UserError, masked, one_line
from wsss.storage import disk_errors, unfinished
from wsss.tracking.beside import database

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

BLOCK = 1 << 20
ANSWER_S = 8
_WORK = ("runs", "model_versions", "trials", "users")
"""Tables whose rows are somebody's: a database without any of them is empty."""
_OTHER_OWNER = (
    "SELECT rolname FROM pg_database JOIN pg_roles ON pg_roles.oid = datdba WHERE datname = current_database() "
    "AND rolname <> current_user AND pg_has_role(datdba, 'MEMBER')"
)
"""Whose the database is, where this is another role that may act as that one."""
_INSTALLED = "/usr/lib/postgresql/*/bin"


def kind_of(uri: str) -> str:
    """Which kind of database an address names.

    Raises:
        UserError: one that can't be backed up.
    """
    if database(uri):
        return SQLITE
    if uri.startswith("postgresql"):
        return POSTGRESQL
    raise UserError(f"{masked(uri)} is no database that can be backed up; those of SQLite (a file) and PostgreSQL can")


def dump(uri: str, folder: Path) -> dict[str, Any]:
    """Copy a database as it is now into an empty folder; its facts (`Part.facts`), of the same moment.

    Raises:
        UserError: it can't be read; or of PostgreSQL, its programs are not here.
    """
    if kind_of(uri) == POSTGRESQL:
        with connected(uri, "REPEATABLE READ") as connection:
            snapshot = connection.exec_driver_sql("SELECT pg_export_snapshot()").scalar_one()
            options = ["--format=directory", "--no-owner", "--no-acl", "--lock-wait-timeout=60s"]
            _run("pg_dump", uri, *options, f"--snapshot={snapshot}", f"--file={folder}")
            return facts(connection)
    source = _existing(uri)
    copy = folder.with_name(f"{folder.name}.db")
    with _sqlite_errors(source), disk_errors(copy):
        with closing(sqlite3.connect(source)) as opened, closing(sqlite3.connect(copy)) as target:
            # In one go: with other processes writing, a copy by parts would begin anew with each of their writes.
            opened.backup(target)
        folder.mkdir()
        with copy.open("rb") as file:
            for number, block in enumerate(iter(lambda: file.read(BLOCK), b"")):
                (folder / f"{number:08d}").write_bytes(block)
    with connected(f"sqlite:///{copy}") as connection:
        return facts(connection)


def load(folder: Path, uri: str) -> None:
    """Put a database back that `dump` copied; what had no work in it (`work_in`) is replaced.

    Of PostgreSQL the tables belong to whoever owns the database, whoever restores them.

    Raises:
        UserError: it can't be written; of PostgreSQL, its programs are not here or are older than the dump.
    """
    if kind_of(uri) == POSTGRESQL:
        with connected(uri) as connection:
            clean = ["--clean", "--if-exists"] if _tables(connection) else []
            if owner := connection.exec_driver_sql(_OTHER_OWNER).scalar():
                clean.append(f"--role={owner}")
        options = ["--no-owner", "--no-acl", "--single-transaction", "--exit-on-error"]
        _run("pg_restore", uri, *options, *clean, str(folder), target="--dbname")
        return
    target = database(uri)
    assert target is not None
    with disk_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        part = unfinished(target)
        try:
            with part.open("wb") as file:
                for block in sorted(folder.iterdir()):
                    file.write(block.read_bytes())
            os.replace(part, target)
        finally:
            part.unlink(missing_ok=True)


def work_in(uri: str) -> str:
    """What keeps a database from being empty, such as "12 runs"; empty where nothing does.

    Raises:
        UserError: it can't be read, or a PostgreSQL server has no such database.
    """
    file = database(uri)
    if file is not None and not file.exists():
        left = [path.name for end in ("-wal", "-journal") if (path := Path(f"{file}{end}")).exists()]
        return f"{left[0]} of a database that is gone" if left else ""
    with connected(uri) as connection:
        there = _tables(connection)
        counts = {table: _count(connection, table) for table in _WORK if table in there}
    return ", ".join(f"{count} {table.replace('_', ' ')}" for table, count in counts.items() if count)


def facts(connection: Connection) -> dict[str, Any]:
    """What is known of a database: `Part.facts`."""
    tables = _tables(connection)
    schema = ""
    if "alembic_version" in tables and "experiments" in tables:
        schema = str(connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar() or "")
    return {
        "schema": schema,
        "rows": {table: _count(connection, table) for table in tables},
        "addresses": _addresses(connection),
    }


def addresses_in(uri: str) -> list[str]:
    """Where the experiments of a tracking store say that artifacts lie."""
    if database(uri):
        _existing(uri)
    with connected(uri) as connection:
        return _addresses(connection)


@contextmanager
def connected(uri: str, isolation: str = "") -> Iterator[Connection]:
    """A connection to a database.

    Raises:
        UserError: there is none, it refuses, or its file is none of SQLite's.
    """
    engine = _engine(uri)
    import sqlalchemy

    try:
        options: dict[str, Any] = {"isolation_level": isolation} if isolation else {}
        with engine.connect().execution_options(**options) as connection:
            yield connection
    except sqlalchemy.exc.SQLAlchemyError as error:
        cause = error.__cause__ or error
        raise UserError(
            f"the database {masked(uri)} can't be used ({one_line(cause)}); start it, or correct its address and "
            "PGHOST, PGUSER and PGPASSWORD"
            if uri.startswith("postgresql")
            else f"the database {masked(uri)} can't be used ({one_line(cause)}); is it a file of SQLite's?"
        ) from error
    finally:
        engine.dispose()


@contextmanager
def scratch(uri: str, name: str) -> Iterator[str]:
    """The address of a new, empty database on the PostgreSQL server of another; it is dropped at the end."""
    import sqlalchemy

    with connected(uri, "AUTOCOMMIT") as connection:
        connection.exec_driver_sql(f'CREATE DATABASE "{name}" TEMPLATE template0')
        try:
            yield sqlalchemy.make_url(uri).set(database=name).render_as_string(hide_password=False)
        finally:
            with suppress(sqlalchemy.exc.SQLAlchemyError):
                connection.exec_driver_sql(f'DROP DATABASE "{name}"')


def _engine(uri: str) -> Engine:
    import sqlalchemy

    options = {"connect_timeout": ANSWER_S} if uri.startswith("postgresql") else {}
    try:
        return sqlalchemy.create_engine(uri, connect_args=options)
    except ImportError as error:
        raise UserError(
            f"PostgreSQL needs {error.name}, which is not installed: pip install 'wsss[postgres]'"
        ) from None


def _existing(uri: str) -> Path:
    file = database(uri)
    assert file is not None
    if not file.exists():
        raise UserError(
            f"there is no database {file}; run this in the folder that has it, or name it in MLFLOW_TRACKING_URI"
        )
    return file


@contextmanager
def _sqlite_errors(file: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise UserError(f"the database {file} can't be read ({one_line(error)}); is it a file of SQLite's?") from None


def _tables(connection: Connection) -> list[str]:
    import sqlalchemy

    return sorted(sqlalchemy.inspect(connection).get_table_names())


def _addresses(connection: Connection) -> list[str]:
    if "experiments" not in _tables(connection):
        return []
    found = connection.exec_driver_sql("SELECT DISTINCT artifact_location FROM experiments")
    return sorted(address for (address,) in found if address)


def _count(connection: Connection, table: str) -> int:
    return int(connection.exec_driver_sql(f'SELECT count(*) FROM "{table}"').scalar_one())


def _run(program: str, uri: str, *arguments: str, target: str = "--dbname") -> None:
    """Run a program of PostgreSQL's; the password, if the address has one, is in its environment alone."""
    import sqlalchemy

    folders = [*sorted(glob.glob(_INSTALLED), key=_major, reverse=True)]
    path = shutil.which(program) or shutil.which(program, path=os.pathsep.join(folders))
    if path is None:
        raise UserError(
            f"{program} is not installed; install PostgreSQL's client of the server's version, or a newer one (Debian: "
            "apt install postgresql-client)"
        )
    url = sqlalchemy.make_url(uri)
    environment = {**os.environ, "PGCONNECT_TIMEOUT": str(ANSWER_S)}
    if url.password:
        environment["PGPASSWORD"] = str(url.password)
    # Not `set(password=None)`, which leaves the password as it is.
    bare = url._replace(drivername="postgresql", password=None)
    done = subprocess.run(
        [path, "--no-password", f"{target}={bare.render_as_string(hide_password=False)}", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        said = masked(" ".join(done.stderr.split()))[-400:]
        raise UserError(f"{program} refuses for {masked(uri)}: {said or done.returncode}")


def _major(folder: str) -> int:
    number = Path(folder).parent.name
    return int(number) if number.isdecimal() else 0
