"""PostgreSQL from the system's packages: its programs, its user, its databases, and the schemas in them."""

from __future__ import annotations

import importlib.util
import os
import pwd
import re
import shutil
import subprocess
from pathlib import Path

from infra.stack.layout import Layout, Secret
from wsss.errors import UserError

PROGRAMS = "/usr/lib/postgresql"
"""Where Debian and Ubuntu put each version's, and none of them on the path but psql."""
ADMINISTRATOR = "postgres"
DATABASES = {"mlflow": "mlflow", "mlflow_auth": "mlflow", "studies": "wsss"}
"""Databases and the roles that own them, as infra/postgres/init.sh makes them."""
_ROLES = {"mlflow": "mlflow_db_password", "wsss": "studies_db_password"}
_SCHEMAS = {
    "mlflow": ("alembic_version", "store/db_migrations/versions"),
    "mlflow_auth": ("alembic_version_auth", "server/auth/db/migrations/versions"),
}
"""Where each database says which schema it has, and where in MLflow the schemas are."""


def programs() -> Path:
    """The folder of `initdb` and `postgres`: those of the path, else the newest of the system's packages.

    Raises:
        UserError: there are none.
    """
    found = shutil.which("initdb")
    if found:
        return Path(found).resolve().parent
    folders = [path for path in Path(PROGRAMS).glob("*/bin") if (path / "initdb").exists()]
    if not folders:
        raise UserError("PostgreSQL is not installed; Debian, Ubuntu: apt install postgresql")
    return max(folders, key=lambda path: float(path.parent.name))


def user() -> tuple[int, int] | None:
    """The user and group that PostgreSQL runs as where this is root, which it refuses to run as; else None."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return entry.pw_uid, entry.pw_gid
    raise UserError("PostgreSQL does not run as root, and there is no user postgres or nobody; start as another user")


def make_cluster(layout: Layout) -> None:
    """Make the database's folder where there is none.

    Raises:
        UserError: it is of another version, or its user can't reach it.
    """
    data, binaries, owner = layout.data("postgres"), programs(), user()
    stated = data / "PG_VERSION"
    if stated.exists():
        here = subprocess.run([binaries / "postgres", "--version"], capture_output=True, text=True, check=True).stdout
        major = re.search(r"(\d+)[.\d]*", here)
        if major and stated.read_text(encoding="utf-8").strip() != major[1]:
            raise UserError(
                f"{data} is of PostgreSQL {stated.read_text(encoding='utf-8').strip()}, and PostgreSQL {major[1]} is "
                "what is installed; install that version, or restore a backup into a new stack"
            )
        return
    shutil.rmtree(data, ignore_errors=True)
    data.mkdir(mode=0o700)
    password = data.with_suffix(".password")
    try:
        password.touch(0o600)
        password.write_text(Secret(layout.secrets / "postgres_password").value(), encoding="utf-8")
        words = [str(binaries / "initdb"), "-D", str(data), "--username", ADMINISTRATOR, "--pwfile", str(password)]
        words += ["--auth", "scram-sha-256", "--data-checksums", "--encoding", "UTF8", "--locale", "C.UTF-8"]
        owned: dict[str, object] = {}
        if owner:
            os.chown(data, *owner)
            os.chown(password, *owner)
            owned = {"user": owner[0], "group": owner[1], "extra_groups": []}
            if subprocess.run(["test", "-w", data], check=False, **owned).returncode:  # type: ignore[call-overload]
                raise UserError(
                    f"PostgreSQL does not run as root, and user {pwd.getpwuid(owner[0]).pw_name} can't reach {data}; "
                    "name a place that he can with --folder, such as /srv/wsss, or start as another user"
                )
        with open(layout.log("postgres"), "ab") as log:
            done = subprocess.run(words, stdout=log, stderr=log, cwd="/", check=False, **owned)  # type: ignore[call-overload]
        if done.returncode:
            raise UserError(f"the database could not be made; {layout.log('postgres')} says why")
    except BaseException:
        shutil.rmtree(data, ignore_errors=True)
        raise
    finally:
        password.unlink(missing_ok=True)


def words(layout: Layout) -> list[str]:
    """The command of the server."""
    settings = {"listen_addresses": "127.0.0.1", "port": layout.ports["postgres"], "unix_socket_directories": ""}
    options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
    return [str(programs() / "postgres"), "-D", str(layout.data("postgres")), *options]


def answers(layout: Layout) -> bool:
    """Whether the server takes questions."""
    import psycopg

    try:
        _connect(layout, "postgres").close()
    except psycopg.OperationalError:
        return False
    return True


def _connect(layout: Layout, database: str):  # type: ignore[no-untyped-def]
    import psycopg

    return psycopg.connect(
        host="127.0.0.1",
        port=layout.ports["postgres"],
        user=ADMINISTRATOR,
        password=Secret(layout.secrets / "postgres_password").value(),
        dbname=database,
        connect_timeout=5,
        autocommit=True,
    )


def make_databases(layout: Layout) -> None:
    """Make roles and databases that are not there; passwords become what the files say."""
    from psycopg import sql

    with _connect(layout, "postgres") as connection:
        for role, file in _ROLES.items():
            # As the server keeps it: a statement that fails would stand in its log.
            secret = connection.pgconn.encrypt_password(
                Secret(layout.secrets / file).value().encode(), role.encode(), b"scram-sha-256"
            ).decode()
            there = connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (role,)).fetchone()
            verb = sql.SQL("ALTER" if there else "CREATE")
            statement = sql.SQL("{} ROLE {} LOGIN PASSWORD {}")
            connection.execute(statement.format(verb, sql.Identifier(role), sql.Literal(secret)))
        for name, owner in DATABASES.items():
            if connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (name,)).fetchone():
                continue
            named = sql.Identifier(name)
            connection.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(named, sql.Identifier(owner)))
            connection.execute(sql.SQL("REVOKE CONNECT ON DATABASE {} FROM PUBLIC").format(named))


def check_schemas(layout: Layout) -> None:
    """Refuse a database that another version of MLflow made.

    Raises:
        UserError: it is older, or newer.
    """
    from psycopg import errors

    for database, (table, folder) in _SCHEMAS.items():
        with _connect(layout, database) as connection:
            try:
                row = connection.execute(f"SELECT version_num FROM {table}").fetchone()
            except errors.UndefinedTable:
                continue
        known, newest = _schemas(folder)
        if not row or row[0] == newest or not newest:
            continue
        if row[0] in known:
            upgrade = layout.command("start", "--upgrade")
            raise UserError(
                f"the database {database} has the schema {row[0]} of an older MLflow, and this one needs {newest}; "
                f"make a backup, since there is no way down, then `{upgrade}`"
            )
        raise UserError(
            f"the database {database} has the schema {row[0]}, which the MLflow here doesn't know: a newer one made "
            "it; install the version that did, or restore a backup into a new stack; nothing was changed"
        )


def _schemas(folder: str) -> tuple[set[str], str]:
    """The schemas that the installed MLflow knows, and its newest; empty where they can't be told."""
    package = importlib.util.find_spec("mlflow")
    places = package.submodule_search_locations if package else None
    known, before = set(), set()
    for path in Path(places[0], folder).glob("*.py") if places else ():
        text = path.read_text(encoding="utf-8")
        if own := re.search(r"""^revision(?::\s*\w+)?\s*=\s*["'](\w+)["']""", text, re.MULTILINE):
            known.add(own[1])
        if stated := re.search(r"^down_revision.*$", text, re.MULTILINE):
            before |= set(re.findall(r"""["'](\w+)["']""", stated[0]))
    newest = known - before
    return known, newest.pop() if len(newest) == 1 else ""
