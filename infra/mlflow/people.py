"""One person on an MLflow server with authentication: come, given another role, gone; and who there is.

    python people.py add NAME ROLE FILE     an account with a new password, in FILE: the person's ~/.mlflow/credentials
    python people.py role NAME ROLE         another role instead of the one before
    python people.py password NAME FILE     a new password, where the old one is lost or known to others
    python people.py remove NAME            what they logged stays
    python people.py list

The variables are those of accounts.py, which makes the roles. Who writes the store or the ledger needs S3 keys too.
"""

from __future__ import annotations

import argparse
import os
import re
import secrets
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from accounts import WORKSPACE, administrator, give_role, known, told

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")


def main(arguments: list[str] | None = None) -> None:
    """Do one thing, and say so."""
    parser = argparse.ArgumentParser(description="People on an MLflow server.")
    actions = parser.add_subparsers(dest="action", required=True)
    for action, (words, do) in ACTIONS.items():
        each = actions.add_parser(action, help=do.__doc__)
        each.set_defaults(do=do)
        for word in words.split():
            each.add_argument(word, type=Path if word == "file" else str)
    options = vars(parser.parse_args(arguments))
    del options["action"]
    do = options.pop("do")
    _, auth = administrator()
    with told():
        print(do(auth, **options))


def add(auth: Any, name: str, role: str, file: Path) -> str:
    """An account with a role, and the file for its owner."""
    if not NAME.fullmatch(name):
        raise SystemExit(f"{name!r} is no account's name: a letter or digit, then 63 letters, digits or ._@- at most")
    ids = roles(auth, role)
    if known(auth, name):
        raise SystemExit(
            f"there is an account {name} already; `people.py role` gives it another role, `people.py password` a "
            "new password"
        )
    auth.create_user(name, new_credentials(name, file))
    give_role(auth, ids, name, role)
    return f"{name} is {role}; {file} becomes their ~/.mlflow/credentials"


def role(auth: Any, name: str, role: str) -> str:
    """Another role instead of the one before."""
    ids = roles(auth, role)
    check(auth, name)
    give_role(auth, ids, name, role)
    return f"{name} is {role}"


def password(auth: Any, name: str, file: Path) -> str:
    """A new password, in a file for its owner."""
    check(auth, name)
    auth.update_user_password(name, new_credentials(name, file))
    return f"{name} has a new password; {file} becomes their ~/.mlflow/credentials"


def remove(auth: Any, name: str) -> str:
    """The account gone; what it logged stays."""
    if name == os.environ["MLFLOW_TRACKING_USERNAME"]:
        raise SystemExit(f"{name} is who asks; another administrator removes this account")
    check(auth, name)
    auth.delete_user(name)
    return (
        f"{name} is gone; S3 keys, Ray's token and the keys of serve and dashboard that they knew are to be made anew"
    )


def show(auth: Any) -> str:
    """Who has which role."""
    people = auth._request("/api/2.0/mlflow/users/list", "GET")["users"]
    held = {each["username"]: {role["name"] for role in each["roles"]} for each in people}
    of = {name: sorted(who for who, names in held.items() if name in names) for name in roles(auth)}
    of["administrator"] = sorted(each["username"] for each in people if each["is_admin"])
    of["none"] = sorted({each["username"] for each in people}.difference(*of.values()))
    return "\n".join(f"{name}: {', '.join(names)}" for name, names in of.items() if names)


ACTIONS = {
    "add": ("name role file", add),
    "role": ("name role", role),
    "password": ("name file", password),
    "remove": ("name", remove),
    "list": ("", show),
}


def roles(auth: Any, needed: str = "") -> dict[str, int]:
    """The ids of the server's roles, among them one that is needed."""
    # MLflow keeps a role for each owner of something, `__user_1__`.
    ids = {each.name: each.id for each in auth.list_roles(WORKSPACE) if not each.name.startswith("__")}
    if needed and needed not in ids:
        raise SystemExit(f"there is no role {needed}; there are {', '.join(ids) or 'none: run accounts.py first'}")
    return ids


def check(auth: Any, name: str) -> None:
    """Refuse a name that nobody has."""
    if not known(auth, name):
        raise SystemExit(f"there is no account {name}; `people.py list` names those that have a role")


def new_credentials(name: str, file: Path) -> str:
    """A password that nobody knows yet, written for its owner alone into a file that is not there yet."""
    made = secrets.token_hex(32)
    try:
        with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as out:
            out.write(f"[mlflow]\nmlflow_tracking_username = {name}\nmlflow_tracking_password = {made}\n")
    except FileExistsError:
        raise SystemExit(f"{file} is there already; name a new file, nothing was changed") from None
    except OSError as error:
        raise SystemExit(f"{file} can't be written ({error.strerror}); nothing was changed") from None
    return made


if __name__ == "__main__":
    main()
