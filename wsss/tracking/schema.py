"""The schema of MLflow's database: which of two is newer."""

from __future__ import annotations

from wsss.errors import UserError


def head() -> str:
    """The revision that the installed MLflow works with."""
    return _script().get_current_head() or ""


def check(revision: str, what: str) -> str:
    """Refuse a database that the installed MLflow can't read.

    Args:
        revision: of the database (table `alembic_version`).
        what: what the sentences call it.

    Returns:
        Why it has to be upgraded before MLflow reads it; empty where it has not.

    Raises:
        UserError: a newer MLflow made it.
    """
    import mlflow

    if revision == head():
        return ""
    if revision not in {each.revision for each in _script().walk_revisions()}:
        raise UserError(
            f"{what} has MLflow's schema {revision}, which MLflow {mlflow.__version__} here does not know: a newer one "
            "made it; install that version or a newer one"
        )
    return f"{what} has the schema {revision} of an older MLflow than {mlflow.__version__} here ({head()})"


def _script():  # type: ignore[no-untyped-def]
    from alembic.script import ScriptDirectory
    from mlflow.store.db.utils import _get_alembic_config

    return ScriptDirectory.from_config(_get_alembic_config("sqlite://"))
