"""Where a stack has its files, on which ports it listens, and which variables its people need.

FOLDER/secrets/       made at the first start by infra/secrets.sh; for their owner alone
FOLDER/data/          the database and the objects
FOLDER/logs/NAME.log  what each service says
FOLDER/processes/     the mark of each process that was started
FOLDER/scratch/       where services work
FOLDER/stack.json     the ports
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from infra.stack.ray_node import LOOPBACK
from wsss.commands import command
from wsss.errors import UserError
from wsss.storage import write_bytes

FOLDER = Path("work/stack")
"""Where a stack is that is told no other folder."""
INFRA = Path(__file__).resolve().parent.parent
PORTS = {
    "postgres": 5433,
    "objects": 8333,
    "mlflow": 5000,
    "ray-head": 6380,
    "ray-jobs": 8265,
    "serve": 8000,
    "dashboard": 8050,
}
"""A port for each that listens; none is a default of the system's PostgreSQL or of Ray."""
OPERATOR = "operator"
ROLES = {"reader": "serving", "researcher": "researcher", "promoter": "promoter", "admin": "", OPERATOR: ""}
"""Roles, and the account files (`account_NAME`) that infra/secrets.sh makes for them; an operator, who backs up and
restores, has the administrator's."""
BUCKETS = ("wsss-artifacts", "wsss-store", "wsss-ledger")
_S3 = {
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
    "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
}
_LONGEST_RAY_FOLDER = 40
"""Ray's sockets lie below it, and the system cuts a socket's path at 107 characters."""


@dataclass(frozen=True)
class Secret:
    """A value that stands in a file: all of it, or what follows `key = `."""

    file: Path
    key: str = ""

    def value(self) -> str:
        """The secret itself."""
        text = self.file.read_text(encoding="utf-8")
        if not self.key:
            return text.strip()
        lines = (line.partition(" = ") for line in text.splitlines())
        return next(value for key, _, value in lines if key == self.key)

    def expression(self) -> str:
        """What makes a shell read it."""
        if not self.key:
            return f'"$(cat {shlex.quote(str(self.file))})"'
        return f"\"$(sed -n 's/^{self.key} = //p' {shlex.quote(str(self.file))})\""


@dataclass(frozen=True)
class Layout:
    """A stack's folder."""

    folder: Path

    @property
    def secrets(self) -> Path:
        return self.folder / "secrets"

    @property
    def scratch(self) -> Path:
        return self.folder / "scratch"

    def data(self, name: str) -> Path:
        """Where a service keeps what must survive."""
        return self.folder / "data" / name

    def log(self, name: str) -> Path:
        """What a service said."""
        return self.folder / "logs" / f"{name}.log"

    @property
    def ray_folder(self) -> Path:
        """Where Ray works: in the scratch folder where its name is short enough."""
        own = self.scratch / "ray"
        if len(str(own)) <= _LONGEST_RAY_FOLDER:
            return own
        name = f"wsss-ray-{os.getuid()}-{hashlib.sha256(str(own).encode()).hexdigest()[:8]}"
        return Path(tempfile.gettempdir(), name)

    def command(self, *words: str) -> str:
        """A command for this stack, as the program prints it."""
        own = () if self.folder == FOLDER.resolve() else ("--folder", str(self.folder))
        return command("python", "-m", "infra.stack", *own, *words)

    @property
    def there(self) -> bool:
        """Whether a stack was ever started here."""
        return (self.folder / "stack.json").exists()

    @cached_property
    def ports(self) -> dict[str, int]:
        """The ports, as they were when the stack was started last.

        Raises:
            UserError: there is no stack here.
        """
        try:
            return PORTS | json.loads((self.folder / "stack.json").read_text(encoding="utf-8"))["ports"]
        except FileNotFoundError:
            raise UserError(f"there is no stack in {self.folder}; `{self.command('start')}` makes one") from None
        except (ValueError, KeyError) as error:
            raise UserError(f"{self.folder / 'stack.json'} is damaged ({error}); remove it and start again") from None

    def prepare(self, ports: Mapping[str, int]) -> None:
        """Make the folder, its secrets and its list of ports; what is there stays.

        Args:
            ports: those that differ from the ones that were used last, or from the default.
        """
        known = self.ports if self.there else PORTS
        self.folder.mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o711)  # PostgreSQL, another user where this is root's, passes through
        for name in ("secrets", "logs", "processes", "scratch"):
            (self.folder / name).mkdir(mode=0o700, exist_ok=True)
        (self.folder / "data").mkdir(mode=0o711, exist_ok=True)
        self._make_secrets()
        content = json.dumps({"format": 1, "ports": dict(known) | dict(ports)}, indent=2)
        write_bytes(self.folder / "stack.json", content.encode())
        self.__dict__.pop("ports", None)

    def _make_secrets(self) -> None:
        if not shutil.which("openssl"):
            raise UserError("openssl is not installed, which makes the secrets; Debian, Ubuntu: apt install openssl")
        with open(self.log("secrets"), "ab") as log:
            made = ["sh", str(INFRA / "secrets.sh"), str(self.secrets)]
            done = subprocess.run(made, stdout=log, stderr=subprocess.STDOUT, check=False)
        if done.returncode:
            raise UserError(f"the secrets could not be made; {self.log('secrets')} says why")
        for file in self.secrets.iterdir():
            file.chmod(0o600)

    def address(self, name: str) -> str:
        """A service's address."""
        return f"http://127.0.0.1:{self.ports[name]}"

    def s3(self, key: str) -> dict[str, str | Secret]:
        """The variables of who uses S3 with a key."""
        return {
            **_S3,
            "AWS_ENDPOINT_URL": self.address("objects"),
            "AWS_SHARED_CREDENTIALS_FILE": str(self.secrets / f"s3_{key}"),
        }

    def database(self, role: str, secret: str) -> dict[str, str | Secret]:
        """The variables of who uses the database as a role of it."""
        return {
            "PGHOST": "127.0.0.1",
            "PGPORT": str(self.ports["postgres"]),
            "PGUSER": role,
            "PGPASSWORD": Secret(self.secrets / secret),
        }

    def account(self, role: str) -> dict[str, str | Secret]:
        """The variables of who uses MLflow in a role."""
        if not ROLES[role]:
            name: str | Secret = "admin"
            password = Secret(self.secrets / "mlflow_admin_password")
        else:
            file = self.secrets / f"account_{ROLES[role]}"
            name, password = Secret(file, "mlflow_tracking_username"), Secret(file, "mlflow_tracking_password")
        return {
            "MLFLOW_TRACKING_URI": self.address("mlflow"),
            "MLFLOW_TRACKING_USERNAME": name,
            "MLFLOW_TRACKING_PASSWORD": password,
        }

    def ray(self) -> dict[str, str | Secret]:
        """The variables of who uses Ray."""
        return {**LOOPBACK, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(self.secrets / "ray_token")}

    def variables(self, role: str) -> dict[str, str | Secret]:
        """All that a person of a role needs: what `env` prints."""
        places: dict[str, str | Secret] = {
            "WSSS_STORE": "s3://wsss-store/steps",
            "WSSS_LEDGER": "s3://wsss-ledger/ledger",
        }
        if role == "reader":
            return {**self.account(role), **self.s3(role), **places}
        if role == OPERATOR:
            return {
                **self.account(role),
                **self.s3("admin"),
                **places,
                **self.database("postgres", "postgres_password"),
                "WSSS_STUDIES": "postgresql:///studies",
                "MLFLOW_BACKEND_STORE_URI": "postgresql:///mlflow",
                "MLFLOW_ARTIFACTS_DESTINATION": f"s3://{BUCKETS[0]}",
                "MLFLOW_AUTH_CONFIG_PATH": str(INFRA / "mlflow" / "basic_auth.ini"),
            }
        return {
            **self.account(role),
            **self.s3(role),
            **places,
            **self.database("wsss", "studies_db_password"),
            **self.ray(),
            "WSSS_STUDIES": "postgresql:///studies",
            "RAY_ADDRESS": f"127.0.0.1:{self.ports['ray-head']}",
            "RAY_API_SERVER_ADDRESS": self.address("ray-jobs"),
        }


def resolved(variables: Mapping[str, str | Secret]) -> dict[str, str]:
    """The variables with their secrets, for a process's environment."""
    return {name: value.value() if isinstance(value, Secret) else value for name, value in variables.items()}
