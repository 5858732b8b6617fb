"""An S3 that asks of each request whose keys it comes with and what their role's policy says: Terraform's own."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from typing import Any
from urllib.request import Request, urlopen

import boto3
import hcl2
import pytest
from infra_files import INFRA, TEXTS
from moto.server import ThreadedMotoServer

BUCKETS = ("artifacts", "store", "ledger")
ROLES = ("mlflow", "reader", "researcher", "promoter")


def words(value: Any) -> str:
    return str(value).strip('"')


def policy(role: str) -> dict[str, Any]:
    """The policy that Terraform would make of roles.tf for a role: its document, with the role's buckets put in."""
    text = hcl2.loads(TEXTS[INFRA / "terraform" / "roles.tf"])
    rights = {words(k): v for k, v in text["locals"][0]["rights"].items()}[role]
    (rules,) = [
        block
        for data in text["data"]
        for kind, named in data.items()
        if words(kind) == "aws_iam_policy_document"
        for name, block in named.items()
        if words(name) == "rights"
    ]

    def statement(block: dict[str, Any], buckets: list[Any]) -> dict[str, Any]:
        (within,) = block["resources"] if isinstance(block["resources"], list) else [block["resources"]]
        every = "/*" in words(within)
        return {
            "Effect": "Allow",
            "Action": [words(action) for action in block["actions"]],
            "Resource": [f"arn:aws:s3:::wsss-{words(bucket)}{'/*' if every else ''}" for bucket in buckets],
        }

    made = [statement(block, rights["read"]) for block in rules["statement"]]
    for dynamic in rules["dynamic"]:
        for block in dynamic.values():
            if rights["write"]:
                content = block["content"]
                made.append(statement(content[0] if isinstance(content, list) else content, rights["write"]))
    return {"Version": "2012-10-17", "Statement": made}


@pytest.fixture(scope="module")
def keys() -> Iterator[dict[str, tuple[str, str]]]:
    """Keys by role, on a server that asks of each request whose they are and what their policy says."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    url = "http://{}:{}".format(*server.get_host_and_port())

    def post(path: str, data: bytes) -> None:
        urlopen(Request(f"{url}/moto-api/{path}", data=data, headers={"Content-Type": "text/plain"})).close()

    post("reset", b"")
    with pytest.MonkeyPatch.context() as patch:
        for name in [n for n in os.environ if n.startswith("AWS_")]:
            patch.delenv(name)
        for name, value in {
            "ENDPOINT_URL": url,
            "DEFAULT_REGION": "us-east-1",
            "EC2_METADATA_DISABLED": "true",
        }.items():
            patch.setenv(f"AWS_{name}", value)
        patch.setenv("AWS_ACCESS_KEY_ID", "root")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "root")
        s3, iam, made = boto3.client("s3"), boto3.client("iam"), {}
        for bucket in BUCKETS:
            s3.create_bucket(Bucket=f"wsss-{bucket}")
            s3.put_object(Bucket=f"wsss-{bucket}", Key="there", Body=b"1")
        for role in ROLES:
            iam.create_user(UserName=role)
            iam.put_user_policy(UserName=role, PolicyName="buckets", PolicyDocument=json.dumps(policy(role)))
            key = iam.create_access_key(UserName=role)["AccessKey"]
            made[role] = (key["AccessKeyId"], key["SecretAccessKey"])
        post("reset-auth", b"0")
        yield made
        post("reset-auth", b"inf")
        post("reset", b"")  # all servers of a process share their buckets
    server.stop()


@pytest.fixture
def with_keys(keys: dict[str, tuple[str, str]], monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Take somebody's keys."""
    from wsss.storage import bucket

    def take(role: str) -> None:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", keys[role][0])
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", keys[role][1])
        bucket._client.cache_clear()
        bucket.check_exclusive_writes.cache_clear()
        boto3.setup_default_session()

    yield take
    bucket._client.cache_clear()
    bucket.check_exclusive_writes.cache_clear()
    boto3.setup_default_session()
