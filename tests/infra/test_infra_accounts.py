"""infra/: who may what, in MLflow, in the buckets and in the database."""

from __future__ import annotations

import json
import runpy
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import boto3
import hcl2
import pytest
from infra_files import (
    INFRA,
    TEXTS,
    documents,
)
from moto.server import ThreadedMotoServer

from wsss.errors import UserError

pytest_plugins = ("infra_files",)


def mlflow_auth(name: str) -> SimpleNamespace:
    """A file of MLflow's authentication by itself: the package around it takes seconds to import."""
    import mlflow

    return SimpleNamespace(**runpy.run_path(str(Path(mlflow.__file__).parent / "server" / "auth" / f"{name}.py")))


def test_nobody_may_anything_by_default_and_there_is_no_password(monkeypatch):
    monkeypatch.setenv("MLFLOW_AUTH_CONFIG_PATH", str(INFRA / "mlflow" / "basic_auth.ini"))
    monkeypatch.delenv("MLFLOW_AUTH_ADMIN_PASSWORD", raising=False)
    config = mlflow_auth("config").read_auth_config()
    assert config.default_permission == "NO_PERMISSIONS" and config.admin_password is None
    assert config.auth_cache_ttl_seconds <= 10 and "@" not in config.database_uri


ACCOUNTS = SimpleNamespace(**runpy.run_path(str(INFRA / "mlflow" / "accounts.py")))
ROLES = documents(INFRA / "mlflow" / "roles.yaml")[0]


def test_a_researcher_writes_candidates_and_only_a_promoter_the_promoted():
    permissions = mlflow_auth("permissions")
    may = {
        role: {(k, n): permissions.get_permission(p) for k, n, p in ACCOUNTS.grants(ROLES, role)}
        for role in ROLES["roles"]
    }
    assert all(kind in permissions.TYPE for grants in may.values() for kind, _ in grants)
    promoted, candidates = ("registered_model", "wsss-shapes"), ("registered_model", "wsss-shapes-candidates")
    rights = {
        role: [grants[key].can_update for key in (("experiment", "*"), candidates, promoted)]
        for role, grants in may.items()
    }
    assert rights == {"reader": [False] * 3, "researcher": [True, True, False], "promoter": [True] * 3}
    assert ("registered_model", "wsss-shapes-direct") in may["reader"]
    # A grant on versions holds for those of all models: who may write some alone has none.
    assert ("registered_model_version", "*") not in may["researcher"]


def test_s3_keys_and_aws_roles_may_the_same(secrets):
    """Who writes where: the object store's identities beside Terraform's policies."""
    identities = json.loads(secrets["s3_identities.json"])["identities"]
    assert not [identity for identity in identities if identity["name"] == "anonymous"]
    rights = hcl2.loads(TEXTS[INFRA / "terraform" / "roles.tf"])["locals"][0]["rights"]
    for identity in identities:
        (key,) = identity["credentials"]
        assert f"aws_secret_access_key = {key['secretKey']}\n" in secrets[f"s3_{identity['name']}"]
        if identity["name"] == "admin":
            continue
        may = {tuple(action.split(":")) for action in identity["actions"]}
        right = rights[identity["name"]]
        for ours, theirs in (("Read", "read"), ("List", "read"), ("Write", "write")):
            buckets = {"wsss-" + bucket.strip('"') for bucket in right[theirs]}
            assert {bucket for action, bucket in may if action == ours} == buckets, identity["name"]
    writers = [i["name"] for i in identities if "Write:wsss-ledger" in i["actions"]]
    assert writers == ["promoter"]


@pytest.fixture
def s3(monkeypatch) -> Iterator[None]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    for name, value in {
        "AWS_ENDPOINT_URL": "http://{}:{}".format(*server.get_host_and_port()),
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    yield
    server.stop()


BUCKETS = SimpleNamespace(**runpy.run_path(str(INFRA / "buckets.py")))


def test_buckets_are_made_versioned_and_with_a_lifecycle(s3, capsys):
    for _ in range(2):
        BUCKETS.main(["--bucket", "wsss-store", "--days", "9"])
    assert "s3://wsss-store is versioned and keeps conditions" in capsys.readouterr().out
    client = boto3.client("s3")
    assert client.get_bucket_versioning(Bucket="wsss-store")["Status"] == "Enabled"
    (rule,) = client.get_bucket_lifecycle_configuration(Bucket="wsss-store")["Rules"]
    assert rule["NoncurrentVersionExpiration"]["NoncurrentDays"] == 9
    assert not client.list_objects_v2(Bucket="wsss-store").get("Contents")


def test_a_store_that_ignores_conditions_is_refused(s3, monkeypatch):
    def ignored(url):
        raise UserError(f"{url}: this store ignores conditional writes")

    monkeypatch.setattr("wsss.storage.check_exclusive_writes", ignored)
    with pytest.raises(SystemExit, match="ignores conditional writes"):
        BUCKETS.main(["--bucket", "wsss-ledger"])


def test_kubernetes_database_is_set_up_as_composes():
    (init,) = [
        d for d in documents(INFRA / "k8s" / "base" / "postgres.yaml") if d["metadata"]["name"] == "postgres-init"
    ]
    assert init["data"]["init.sh"] == TEXTS[INFRA / "postgres" / "init.sh"]
