"""infra/: who may write which bucket, by Terraform's own policies on an S3 that keeps to them; wrong keys."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import boto3
import pytest
from botocore.exceptions import ClientError
from infra_keys import BUCKETS, ROLES

from wsss import storage
from wsss.errors import UserError
from wsss.registry.ledger import Ledger
from wsss.registry.promotion import FORCED, PromotionRecord, signed

pytest_plugins = ("infra_files", "infra_keys")
SECRET = "expired-and-secret"


def rights(role: str, bucket: str) -> str:
    """What the keys that are set may do: read, list, write, delete, by their first letters."""
    s3, name = boto3.client("s3"), f"wsss-{bucket}"
    actions = {
        "r": lambda: s3.get_object(Bucket=name, Key="there"),
        "l": lambda: s3.list_objects_v2(Bucket=name),
        "w": lambda: s3.put_object(Bucket=name, Key=role, Body=b"x"),
        "d": lambda: s3.delete_object(Bucket=name, Key=role),
    }
    may = ""
    for letter, action in actions.items():
        try:
            action()
            may += letter
        except ClientError as error:
            if error.response["Error"]["Code"] not in ("AccessDenied", "403"):
                raise
    return may


def test_keys_write_what_their_role_writes_and_nothing_else(keys, with_keys) -> None:
    wrote = {}
    for role in ROLES:
        with_keys(role)
        wrote[role] = "".join(f" {bucket}:{rights(role, bucket)}" for bucket in BUCKETS)
    assert wrote == {
        "mlflow": " artifacts:rlwd store: ledger:",
        "reader": " artifacts: store:rl ledger:rl",
        "researcher": " artifacts: store:rlwd ledger:rl",
        "promoter": " artifacts: store:rlwd ledger:rlwd",
    }


def record(model: str) -> PromotionRecord:
    return signed(PromotionRecord(model, FORCED, "1", "", "1", "to see who may"))


def test_a_researchers_keys_write_no_record_of_the_ledger(with_keys) -> None:
    ledger = Ledger("wsss-shapes", "s3://wsss-ledger/ledger")
    with_keys("researcher")
    with pytest.raises(UserError) as refusal:
        ledger.append(record("wsss-shapes"))
    assert "s3://wsss-ledger/ledger" in str(refusal.value) and "role" in str(refusal.value)
    assert ledger.records() == []
    storage.write_bytes("s3://wsss-store/steps/a", b"work")
    with_keys("promoter")
    ledger.append(record("wsss-shapes"))
    with_keys("researcher")
    assert [r.to for r in ledger.records()] == ["1"]
    with pytest.raises(UserError):
        storage.remove(ledger.url)
    with pytest.raises(UserError):
        storage.write_bytes(f"{ledger.url}/000001.json", b"{}")
    assert len(ledger.records()) == 1


def test_keys_that_nobody_knows_are_one_sentence(with_keys, monkeypatch) -> None:
    with_keys("researcher")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-and-secret")
    boto3.setup_default_session()
    with pytest.raises(UserError, match="secret key is wrong") as refusal:
        storage.read_bytes("s3://wsss-store/there")
    assert "wrong-and-secret" not in str(refusal.value)


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        ("ExpiredToken", "the credentials have expired; log in anew"),
        ("InvalidAccessKeyId", "knows no such access key"),
        ("SignatureDoesNotMatch", "the secret key is wrong"),
        ("AccessDenied", "these keys may not do that here"),
    ],
)
def test_what_is_wrong_with_a_credential_is_one_sentence(with_keys, monkeypatch, code: str, sentence: str) -> None:
    class Refusing(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode()
            self.send_response(403)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Refusing)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with_keys("reader")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
    boto3.setup_default_session()
    with pytest.raises(UserError) as refusal:
        storage.read_bytes("s3://wsss-store/there")
    assert sentence in str(refusal.value) and "s3://wsss-store/there" in str(refusal.value)
    assert SECRET not in str(refusal.value)
    server.shutdown()
    server.server_close()


NAMES = ["../ledger", "a/../../ledger", "/etc/passwd", "..", "a\\..\\..\\b", "a\0b"]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_leads_out_of_no_folder_and_no_key(tmp_path: Path, name: str, with_keys) -> None:
    """Whatever a model or a file in a listing is called."""
    for root in (str(tmp_path / "ledger"), "s3://wsss-ledger/ledger"):
        url = Ledger(name, root).url
        assert url.startswith(f"{root}/") and "/" not in url.removeprefix(f"{root}/") and "/." not in url
    with_keys("reader")
    with pytest.raises((UserError, FileNotFoundError)):
        storage.download_folder("s3://wsss-store/steps", tmp_path / "into", [name])
    assert not list(tmp_path.rglob("*passwd*")) and not (tmp_path / "ledger").exists()
